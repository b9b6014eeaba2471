"""`snnrun plot RUN`: the pictures of a run, as PNG and SVG under RUN/plots."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from snnrun.report import picture
from snnrun.report.stored import Damaged, LeftOut, Stored

# neither dates nor versions: the same run gives the same bytes
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def main(words: list[str]) -> int:
    """The verb: draw what a run directory holds, and say what is left out and why.

    Returns 0; 1 if a file is damaged or nothing can be drawn; 2 if the request was wrong.
    """
    if len(words) != 1 or words[0].startswith("-"):
        return stop("Usage: snnrun plot RUN, RUN being the directory of one run.")
    run = Stored(Path(words[0]).resolve())
    if not run.exists:
        return stop(
            f"{run.folder} is not the directory of a run: there is no .hydra/config.yaml in it."
        )
    plots = run.folder / "plots"
    left_out: dict[str, list[str]] = {}
    drawn, damaged = 0, False
    for name, draw in pictures(run).items():
        try:
            files = render(draw)
        except LeftOut as reason:
            left_out.setdefault(str(reason), []).append(name)
            damaged |= isinstance(reason, Damaged)
            continue
        for suffix, content in files.items():
            try:
                write(content, plots / f"{name}.{suffix}")
            except OSError as error:
                return stop(f"Cannot write to {plots}: {os.strerror(error.errno or 0)}.")
            print(f"plots/{name}.{suffix}")
            drawn += 1
    reasons = [f"Left out: {', '.join(names)}. {reason}." for reason, names in left_out.items()]
    for line in (*run.problems, *reasons):
        print(line, file=sys.stderr)
    return 0 if drawn and not damaged and not run.problems else 1


def stop(message: str) -> int:
    """Say what is wrong with a request. (The exception for this lives beside Hydra, which a report does without.)"""
    print(message, file=sys.stderr)
    return 2


def pictures(run: Stored) -> dict[str, Callable[[], Figure]]:
    """Every picture by its file name. Drawing one raises `LeftOut` where the run lacks what it shows."""

    def curves() -> Figure:
        return picture.curves(run.history, run.title, run.chosen, run.test)

    def spikes() -> Figure:
        return picture.spikes(run.fired, f"{run.title}\nspikes of a {run.sample}")

    def rates() -> Figure:
        words = f"{run.title}\nfiring rates over {len(run.snapshot['input'])} test samples; orange: silent"
        return picture.rates(run.layers, words)

    def confusion() -> Figure:
        label, predicted = run.snapshot["label"], run.snapshot["predicted"]
        right = 100 * (label == predicted).mean()
        words = f"{run.title}\n{len(label):,} test samples, {right:.2f} % correct"
        return picture.confusion(label, predicted, run.snapshot["out"].shape[-1], words)

    def frames() -> Figure:
        words = f"{run.title}\n{run.sample}, as the network sees it"
        return picture.frames(run.snapshot["input"][0], words)

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
        "confusion": confusion,
        "input": frames,
        "steps": steps,
        "overview": overview,
    }


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


def write(content: bytes, path: Path) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
