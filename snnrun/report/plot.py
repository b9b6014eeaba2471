"""`snnrun plot RUN`: the pictures of a run, as PNG and SVG under RUN/plots."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from snnrun.report import picture
from snnrun.report.stored import Damaged, LeftOut, Stored
from snnrun.whole import whole

# neither dates nor versions: the same run gives the same bytes
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}

MEMBRANES = 6  # layers whose potentials are drawn
USAGE = (
    "Usage: snnrun plot RUN [neurons=3,17], RUN being the directory of one run;"
    " neurons: whose potential is drawn."
)


def main(words: list[str]) -> int:
    """The verb: draw what a run directory holds, and say what is left out and why.

    Returns 0; 1 if a file is damaged or nothing can be drawn; 2 if the request was wrong.
    """
    places = [word for word in words if not word.startswith("neurons=") or Path(word).is_dir()]
    if len(places) != 1 or places[0].startswith("-") or len(words) > 2:
        return stop(USAGE)
    try:
        chosen = [int(n) for word in words if word not in places for n in numbers(word)]
    except ValueError:
        return stop(USAGE)
    run = Stored(Path(places[0]).resolve())
    if not run.exists:
        return stop(
            f"{run.folder} is not the directory of a run: there is no .hydra/config.yaml in it."
        )
    plots = run.folder / "plots"
    left_out: dict[str, list[str]] = {}
    drawn, damaged = 0, False
    for name, draw in pictures(run, chosen).items():
        try:
            files = render(draw)
        except LeftOut as reason:
            left_out.setdefault(str(reason), []).append(name)
            damaged |= isinstance(reason, Damaged)
            continue
        for suffix, content in files.items():
            try:
                plots.mkdir(exist_ok=True)
                with whole(plots / f"{name}.{suffix}", mode="wb") as file:
                    file.write(content)
            except OSError as error:
                return stop(f"Cannot write to {plots}: {os.strerror(error.errno or 0)}.")
            print(f"plots/{name}.{suffix}")
            drawn += 1
    reasons = [f"Left out: {', '.join(names)}. {reason}." for reason, names in left_out.items()]
    for line in (*run.problems, *reasons):
        print(line, file=sys.stderr)
    return 0 if drawn and not damaged and not run.problems else 1


def numbers(word: str) -> list[str]:
    """The numbers in `neurons=3,17`."""
    return word.partition("=")[2].strip("[]").split(",")


def stop(message: str) -> int:
    """Say what is wrong with a request. (The exception for this lives beside Hydra, which a report does without.)"""
    print(message, file=sys.stderr)
    return 2


def pictures(run: Stored, chosen: Sequence[int] = ()) -> dict[str, Callable[[], Figure]]:
    """Every picture by its file name. Drawing one raises `LeftOut` where the run lacks what it shows.

    **Arguments:**

    - `run`: the run.
    - `chosen`: the neurons whose potential is drawn; a few of each layer if there are none.
    """

    def curves() -> Figure:
        return picture.curves(run.history, run.title, run.chosen, run.test)

    def spikes() -> Figure:
        return picture.spikes(run.fired, f"{run.title}\nspikes of a {run.sample}")

    def rates() -> Figure:
        words = f"{run.title}\nfiring rates over {len(run.snapshot['input'])} test samples; orange: silent"
        return picture.rates(run.layers, words)

    def membrane() -> Figure:
        layers = {name: picture.Membrane(*content) for name, content in run.potentials.items()}
        if chosen:
            known = {name: m for name, m in layers.items() if np.isin(chosen, m.neurons).any()}
            if not known:
                stored = "; ".join(f"{n}: {listed(m.neurons)}" for n, m in layers.items())
                raise LeftOut(
                    f"of neurons {listed(chosen)} no potential was stored, but of {stored}"
                )
            layers = known
        names = [list(layers)[i] for i in picture.evenly(len(layers), MEMBRANES)]
        words = f"{run.title}\nmembrane potential after each step, orange: spikes; {run.sample}"
        if len(names) < len(layers):
            words += f"; {len(names)} of {len(layers)} layers"
        return picture.membrane({name: layers[name] for name in names}, words, chosen)

    def confusion() -> Figure:
        label, predicted = run.snapshot["label"], run.snapshot["predicted"]
        right = 100 * (label == predicted).mean()
        words = f"{run.title}\n{len(label):,} test samples, {right:.2f} % correct"
        return picture.confusion(label, predicted, run.snapshot["out"].shape[-1], words)

    def frames() -> Figure:
        words = f"{run.title}\n{run.sample}, as the network sees it"
        before = run.snapshot.get("sample")
        return picture.frames(
            run.snapshot["input"][0], words, None if before is None else before[0]
        )

    def overview() -> Figure:
        return picture.overview(
            run.history, run.layers, run.snapshot["label"], run.title, run.chosen, run.test
        )

    def steps() -> Figure:
        accuracy = run.snapshot.get("accuracy")
        if accuracy is None or len(accuracy) < 2:
            raise LeftOut("the test was of one step, or took no count after each")
        words = f"{run.title}\naccuracy on test data after every step"
        return picture.steps({"": accuracy}, words, run.headline.get("test/acc_ann"))

    return {
        "curves": curves,
        "spikes": spikes,
        "rates": rates,
        "membrane": membrane,
        "confusion": confusion,
        "input": frames,
        "steps": steps,
        "overview": overview,
    }


def listed(neurons: Iterable[int]) -> str:
    """Numbers in words, the first of many."""
    words = [str(n) for n in neurons]
    return ", ".join(words if len(words) <= 12 else [*words[:10], "...", words[-1]])


def render(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """A picture in every format, whatever styles the user has configured."""
    with matplotlib.style.context(["default", picture.STYLE]):
        fig = draw()
        files = {}
        for suffix, metadata in METADATA.items():
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix, metadata=metadata)
            files[suffix] = buffer.getvalue()
        return files
