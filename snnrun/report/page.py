"""A report as one HTML file: nothing in it is fetched from anywhere, and it has no script."""

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from snnrun.report import chart, text
from snnrun.report.group import Group, Study
from snnrun.report.picture import STYLE
from snnrun.report.ranking import Ranking, shown
from snnrun.report.stored import LeftOut, Stored

DRAWN = len(chart.COLOURS)  # groups with curves of their own, the best of them
SEEDS = 20  # of which curves are read, for each group
SPLITS = {"val": "validation", "test": "test", "train": "training"}
SHOWN = 2000  # rows of the table; CSV and JSON have all


def html(found: Study, ranking: Ranking, folders: Sequence[str]) -> str:
    """The page."""
    place = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=place, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    head, rows = text.cells(found, ranking) if ranking.groups else ([], [])
    base = ranking.groups.index(ranking.baseline) if ranking.baseline else None
    return pages.get_template("page.html.j2").render(
        title=" ".join(folders),
        counted=text.counted(found),
        constant=text.constant(found),
        command=ranking.groups[0].command if ranking.groups else "",
        by=ranking.by,
        head=head,
        settings=len(found.columns) + 1,
        rows=rows[:SHOWN],
        left=max(0, len(rows) - SHOWN),
        base=base,
        legend=text.legend(found, ranking) if ranking.groups else [],
        pictures=[
            {"title": title, "words": words, "data": data_uri(draw)}
            for title, words, draw in pictures(found, ranking)
        ],
        failures=[text.failure(found, run) for run in text.told(found)],
    )


def pictures(found: Study, ranking: Ranking) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    """Title, explanation and picture of everything that the runs allow to draw."""
    if not ranking.groups:
        return
    groups = ranking.groups[:DRAWN]
    names = {group: name(found, group, number) for number, group in enumerate(groups, 1)}
    part = f"The {len(groups)} best rows. " if len(groups) < len(ranking.groups) else ""
    part += f"Rows by {', '.join(found.columns)}. " if found.columns else ""
    higher = ranking.mode == "max" if ranking.score == ranking.by else "loss" not in ranking.score
    for quantity, ylabel, curves in learning(ranking, names):
        yield (
            f"Learning curves: {quantity}",
            f"{part}Mean over seeds; the band is one standard deviation to each side.",
            lambda curves=curves, ylabel=ylabel: chart.curves(curves, ylabel),
        )
    scored = [g for g in ranking.groups if g.estimate(ranking.score)]
    if len(found.columns) == 2 and len(scored) > 2:
        yield (
            f"{ranking.score} over {found.columns[0]} and {found.columns[1]}",
            "Means over seeds; grey: no run was completed.",
            lambda: heat(found, ranking, higher),
        )
    points = [
        chart.Point(f"#{n}", group.operations, reached.mean, reached.std)
        for n, group in enumerate(ranking.groups, 1)
        if (reached := group.estimate(ranking.score)) and group.operations
    ]
    if len(points) > 1:
        what = "synaptic operations a sample"
        yield (
            f"{ranking.score} against synaptic operations",
            "Accumulates and multiply-accumulates of one sample; bars are one standard deviation over seeds."
            " Orange: the Pareto front, settings that no cheaper one equals; # is the row.",
            lambda: chart.pareto(points, what, ranking.score, higher),
        )
    firing = {
        names[g]: {layer: (e.mean, e.std) for layer, e in g.layers.items()}
        for g in groups
        if g.layers
    }
    if firing:
        yield (
            "Firing rates by layer",
            f"{part}Mean and standard deviation over seeds, on test data.",
            lambda: chart.rates(firing),
        )
    numeric = [
        c
        for c in found.columns
        if len({g.settings[c] for g in scored if number(g.settings[c])}) > 1
    ]
    whole = [g for g in scored if all(number(g.settings[c]) for c in numeric)]
    if len(numeric) > 2 and len(whole) > 1:
        axes = {c: [float(g.settings[c]) for g in whole] for c in numeric}
        score = [e.mean for g in whole if (e := g.estimate(ranking.score))]
        yield (
            "Settings and score",
            f"A line a row, coloured by its rank in {ranking.score}: yellow is best.",
            lambda: chart.parallel(axes, score, ranking.score, higher),
        )


def name(found: Study, group: Group, number: int) -> str:
    """A row in a legend."""
    words = ", ".join(shown(group.settings[c]) for c in found.columns)
    words = words if len(words) <= 44 else f"{words[:42]}..."
    return f"#{number} {words}".rstrip()


def number(value: Any) -> bool:
    """Whether a setting is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def learning(
    ranking: Ranking, names: dict[Group, str]
) -> Iterator[tuple[str, str, dict[str, list[np.ndarray]]]]:
    """For loss and score: what it is in words, its label, and the curves of the best rows that have one."""
    histories: dict[str, list[dict[str, np.ndarray]]] = {}
    for group, label in names.items():
        for run in group.runs[:SEEDS]:
            try:
                histories.setdefault(label, []).append(Stored(Path(run.folder)).history)
            except LeftOut:
                continue
    for kind in dict.fromkeys(metric.partition("/")[2] for metric in (ranking.by, ranking.score)):
        for split, words in SPLITS.items():
            column = f"{split}/{kind}"
            curves = {
                label: known
                for label, found in histories.items()
                if (known := [h[column] for h in found if np.isfinite(h.get(column, np.nan)).any()])
            }
            if curves:
                noun = {"acc": "accuracy", "loss": "loss"}.get(kind, kind)
                yield f"{words} {noun}", f"{words} {noun}{' (%)' if kind == 'acc' else ''}", curves
                break


def heat(found: Study, ranking: Ranking, higher: bool) -> Figure:
    """A heat map of the two settings that varied."""
    first, second = (
        sorted(
            {g.settings[c] for g in ranking.groups},
            key=lambda v: (not number(v), v if number(v) else str(v)),
        )
        for c in found.columns
    )
    table = np.full((len(first), len(second)), np.nan)
    for group in ranking.groups:
        if reached := group.estimate(ranking.score):
            place = (group.settings[c] for c in found.columns)
            row, column = (
                values.index(v) for values, v in zip((first, second), place, strict=True)
            )
            table[row, column] = reached.mean
    labels = [*found.columns, ranking.score]
    return chart.heat(table, [*map(shown, first)], [*map(shown, second)], labels, higher)


def data_uri(draw: Callable[[], Figure]) -> str:
    """A picture as an address that holds it."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that the font lacks
        buffer = io.BytesIO()
        draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
