"""The pictures of many runs: each a function from plain numbers to a matplotlib Figure of one panel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from snnrun.report.picture import BLUE, DARK, FAINT, GREY, ORANGE, evenly

# of Okabe and Ito's palette, for every kind of eye
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", DARK, GREY)
SIZE = (5.5, 3.8)  # inches: legible on a telephone, too
MANY = 300  # points or lines from here on are drawn as pixels
CELLS = 150  # a heat map of more has no numbers


@dataclass(frozen=True)
class Point:
    """A group in the plane of cost and score: means, and the deviation of the score over seeds."""

    name: str
    cost: float
    score: float
    std: float | None


def curves(groups: Mapping[str, Sequence[np.ndarray]], ylabel: str) -> Figure:
    """Learning curves: the mean over seeds, and a band of one standard deviation to each side.

    **Arguments:**

    - `groups`: for each name a curve for each seed, `(epochs,)`; NaN where nothing was measured.
    - `ylabel`: what is measured.
    """
    fig, ax = panel("epoch", ylabel)
    for (name, seeds), colour in zip(groups.items(), COLOURS, strict=False):
        epochs = max(map(len, seeds))
        stack = np.full((len(seeds), epochs), np.nan)
        for row, seed in zip(stack, seeds, strict=True):
            row[: len(seed)] = seed
        known = np.isfinite(stack).any(0)
        x, stack = np.arange(1, epochs + 1)[known], stack[:, known]
        mean = np.nanmean(stack, 0)
        dots = {"marker": "o", "markersize": 3} if len(x) <= 20 else {}
        ax.plot(x, mean, label=name, color=colour, linewidth=1.6, **dots)
        several = np.isfinite(stack).sum(0) > 1
        if several.any():
            std = np.nanstd(stack[:, several], 0, ddof=1)
            low, high = mean[several] - std, mean[several] + std
            ax.fill_between(x[several], low, high, color=colour, alpha=0.18, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(fig)
    return fig


def heat(
    table: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: Sequence[str],
    higher: bool,
) -> Figure:
    """A score over two settings.

    **Arguments:**

    - `table`: `(rows, columns)`; NaN where nothing was completed.
    - `rows`, `columns`: the values of the settings.
    - `labels`: the names of the row's setting, the column's and the score.
    - `higher`: whether more is better.
    """
    height = min(9.0, max(2.6, 0.42 * len(rows) + 1.4))
    fig, ax = panel(labels[1], labels[0], (SIZE[0], height))
    colours = colormaps["viridis" if higher else "viridis_r"].with_extremes(bad=FAINT)
    image = ax.imshow(np.ma.masked_invalid(table), cmap=colours, aspect="auto")
    ax.set_xticks(*ticks(columns, 14), rotation=90 if max(map(len, columns)) > 6 else 0)
    ax.set_yticks(*ticks(rows, 20))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for place in np.ndindex(table.shape) if table.size <= CELLS else ():
        value = table[place]
        dark = np.isfinite(value) and bool(image.norm(value) < 0.6) == higher  # pyright: ignore[reportOperatorIssue]
        text = (
            (f"{value:.2f}" if abs(value) >= 10 else f"{value:.4g}") if np.isfinite(value) else "-"
        )
        size = 9 if table.shape[1] <= 8 else 7
        ax.text(
            place[1],
            place[0],
            text,
            color="white" if dark else DARK,
            ha="center",
            va="center",
            size=size,
        )
    bar = fig.colorbar(image, ax=ax)
    bar.set_label(labels[2])
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return fig


def ticks(names: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Places and names on an axis, evenly thinned."""
    places = evenly(len(names), most)
    return places, [names[place] for place in places]


def pareto(points: Sequence[Point], xlabel: str, ylabel: str, higher: bool) -> Figure:
    """Score against cost, and the front: the groups that no cheaper one beats.

    **Arguments:**

    - `points`: the groups.
    - `xlabel`, `ylabel`: what cost and score are.
    - `higher`: whether more of the score is better.
    """
    fig, ax = panel(xlabel, ylabel)
    best = front(points, higher)
    ax.plot(
        [p.cost for p in best],
        [p.score for p in best],
        drawstyle="steps-post" if len(best) > 1 else "default",
        color=ORANGE,
        linewidth=1.4,
        zorder=2,
    )
    x, y = [p.cost for p in points], [p.score for p in points]
    if any(p.std for p in points) and len(points) <= MANY:
        look: Any = {"fmt": "none", "ecolor": GREY, "elinewidth": 0.8, "zorder": 1}
        ax.errorbar(x, y, yerr=[p.std or 0 for p in points], **look)
    look = {"s": 26 if len(points) <= 60 else 9, "alpha": 1 if len(points) <= MANY else 0.5}
    look["rasterized"] = len(points) > MANY
    ax.scatter(x, y, color=BLUE, zorder=3, linewidths=0, **look)
    front_x, front_y = [p.cost for p in best], [p.score for p in best]
    ax.scatter(front_x, front_y, s=34, color=ORANGE, zorder=4, linewidths=0)
    spread_over(ax, x)
    ax.margins(x=0.08, y=0.1)
    label_apart(ax, points if len(points) <= 15 else best)
    return fig


def label_apart(ax: Axes, points: Sequence[Point]) -> None:
    """The names of points, but for those whose name would cover another's."""
    taken: list[tuple[float, float]] = []
    ax.autoscale_view()
    inside = ax.transData + ax.transAxes.inverted()
    for point in sorted(
        points, key=lambda p: len(p.name)
    ):  # the first rows have the shortest names
        x, y = inside.transform((point.cost, point.score))
        if all(abs(x - other_x) > 0.09 or abs(y - other_y) > 0.05 for other_x, other_y in taken):
            taken.append((x, y))
            place: Any = {"xytext": (4, 4), "textcoords": "offset points", "size": 8, "color": DARK}
            ax.annotate(point.name, (point.cost, point.score), zorder=5, **place)


def spread_over(ax: Axes, x: Sequence[float]) -> None:
    """A logarithmic axis where values are positive and far apart."""
    if min(x) > 0 and max(x) / min(x) >= 30:
        ax.set_xscale("log")
    elif max(x) >= 10_000:
        ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0), useMathText=False)


def front(points: Sequence[Point], higher: bool) -> list[Point]:
    """The points that no other one equals or beats in both cost and score, by cost."""
    best: list[Point] = []
    sign = 1 if higher else -1
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.score)):
        if not best or sign * point.score > sign * best[-1].score:
            best.append(point)
    return best


def rates(groups: Mapping[str, Mapping[str, tuple[float, float | None]]]) -> Figure:
    """Firing rates by layer: for each name mean and deviation of every layer."""
    fig, ax = panel("", "spikes a neuron and time step")
    layers = list(dict.fromkeys(layer for found in groups.values() for layer in found))
    for i, ((name, found), colour) in enumerate(zip(groups.items(), COLOURS, strict=False)):
        shift = 0.5 * ((i + 0.5) / min(len(groups), len(COLOURS)) - 0.5) if len(layers) <= 12 else 0
        places = [layers.index(layer) + shift for layer in found]
        means = [mean for mean, _ in found.values()]
        errors = [std or 0 for _, std in found.values()]
        look: Any = {"fmt": "o" if len(layers) < 3 else "o-", "markersize": 4, "capsize": 2}
        ax.errorbar(places, means, yerr=errors, label=name, color=colour, linewidth=1, **look)
    long = max(map(len, layers)) * len(layers) > 60
    ax.set_xticks(*ticks(layers, 30), rotation=90 if long else 0)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set_ylim(bottom=0)
    legend(fig)
    return fig


def parallel(
    axes: Mapping[str, Sequence[float]], score: Sequence[float], label: str, higher: bool
) -> Figure:
    """Parallel coordinates: a line a group through its settings to its score, which colours it.

    **Arguments:**

    - `axes`: for each setting its value in every group.
    - `score`: what every group reached.
    - `label`: what the score is.
    - `higher`: whether more is better.
    """
    columns = {**axes, label: score}
    fig, ax = panel("", "", (max(SIZE[0], 1.1 * len(columns)), SIZE[1]))
    scales = [scale(np.asarray(values, float)) for values in columns.values()]
    paths = np.stack([unit for unit, _ in scales], 1)
    reached = np.asarray(score, float)
    order = np.argsort(reached if higher else -reached)  # the best on top
    ranks = np.empty(len(order))
    ranks[order] = np.linspace(0, 1, len(order))  # one far away would leave the others one colour
    colours = colormaps["viridis"](ranks)
    places = list(range(len(columns)))
    segments = [np.column_stack([places, path]) for path in paths[order]]
    many = len(segments) > MANY
    width = 0.5 if many else 1.4
    lines = LineCollection(segments, colors=colours[order], linewidths=width, alpha=0.85)
    lines.set_rasterized(many)
    ax.add_collection(lines)
    for place, (_, marks) in zip(places, scales, strict=True):
        ax.axvline(place, color=DARK, linewidth=0.8, zorder=3)
        for height, text in marks:
            box: Any = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
            ax.text(place + 0.03, height, text, size=8, va="center", zorder=4, bbox=box)
    ax.set(xlim=(-0.15, len(columns) - 0.55), ylim=(-0.05, 1.05), yticks=[])
    ax.set_xticks(places, [name.replace(".", ".\n") for name in columns])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return fig


def scale(values: np.ndarray) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Values between 0 and 1, and marks of an axis; logarithmic where they are positive and far apart."""
    distant = values.min() > 0 and values.max() / values.min() >= 30
    x = np.log(values) if distant else values
    span = float(x.max() - x.min())
    unit = (x - x.min()) / span if span else np.full(len(x), 0.5)
    distinct = {round(float(u), 9): float(v) for u, v in zip(unit, values, strict=True)}
    if (
        len(distinct) > 6 or (np.diff(sorted(distinct)) < 0.06).any()
    ):  # names would cover each other
        chosen = np.linspace(0, 1, 4)
        back = x.min() + chosen * span
        distinct = dict(
            zip(chosen.tolist(), (np.exp(back) if distant else back).tolist(), strict=True)
        )
    return unit, [(u, f"{v:.4g}" if abs(v) >= 1 else f"{v:.2g}") for u, v in distinct.items()]


def panel(xlabel: str, ylabel: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    fig = Figure(figsize=size, dpi=150, layout="constrained")
    ax = fig.subplots()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    return fig, ax


def legend(fig: Figure) -> None:
    """A legend below, where it covers nothing."""
    handles, labels = fig.axes[0].get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 30 else 2
        where: Any = {"loc": "outside lower center", "ncols": columns}
        fig.legend(handles, labels, fontsize=8, **where)
