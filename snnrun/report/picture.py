"""The pictures of a run: each a function from plain arrays to a matplotlib Figure."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, for every kind of eye
DARK, GREY, FAINT = "#222222", "#8A8A8A", "#E8E8E8"
SPLITS = (("train", "training", BLUE), ("val", "validation", ORANGE))
QUANTITIES = {"loss": "loss", "acc": "accuracy (%)", "rate": "spikes a neuron and time step"}
NEURONS, STEPS, LAYERS = 100, 10, 4  # drawn at most: of a layer, of an input, in the overview
TRACES = 4  # neurons of a layer whose potential is drawn, unless some are named
SNAPSHOT = 100  # neurons that a snapshot holds of a layer at most
NUMBERED = 26  # with more classes a confusion matrix has colours only
STYLE: dict[str, Any] = {
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": DARK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "legend.frameon": False,
    "figure.titlesize": 11,
    "text.parse_math": False,  # a name may hold a dollar sign
    "svg.hashsalt": "snnrun",  # otherwise ids are random
}

Arrays = Mapping[str, np.ndarray]
Mark = tuple[int, str]  # an epoch, counted from 1, and what it is


def curves(history: Arrays, title: str, chosen: Mark | None, test: float | None) -> Figure:
    """Loss, accuracy and firing rate over epochs.

    **Arguments:**

    - `history`: columns of the metrics file, one of them `epoch`, counted from 0; NaN where a cell is empty.
    - `title`: what was run.
    - `chosen`: the epoch whose checkpoint is the result.
    - `test`: the accuracy of that checkpoint on test data, in percent.
    """
    names = [name for name in QUANTITIES if lines(history, name)]
    fig, grid = figure(title, 4.2 * len(names) + 0.4, 3.6, 1, len(names))
    for ax, name in zip(grid[0], names, strict=True):
        over_epochs(ax, history, name, chosen, test)
    legend_below(fig, [ax for ax, name in zip(grid[0], names, strict=True) if name != "rate"])
    return fig


def spikes(layers: Arrays, title: str) -> Figure:
    """Who fired when: a raster a layer, of one sample; `layers` are `(T, neurons)`."""
    height = max(0.9, min(2.2, 14 / len(layers)))
    width = min(9.0, 4.8 + 0.3 * len(next(iter(layers.values()))))
    fig, grid = figure(title, width, 1 + (height + 0.35) * len(layers), len(layers), 1, sharex=True)
    for ax, (name, fired) in zip(grid[:, 0], layers.items(), strict=True):
        raster(ax, fired, name, height)
    grid[-1, 0].set_xlabel("time step")
    return fig


def rates(layers: Arrays, title: str) -> Figure:
    """How often neurons fire: a histogram a layer, silent neurons apart; `layers` are `(N, T, neurons)`."""
    columns = min(3, len(layers))
    rows = -(-len(layers) // columns)
    size = max(6.0, 3.6 * columns), 2.4 * rows + 1
    fig, grid = figure(title, *size, rows, columns, sharex=True, sharey=True)
    slots = max(fired.shape[0] * fired.shape[1] for fired in layers.values())
    counts = {name: np.abs(fired).sum((0, 1)) for name, fired in layers.items()}
    most = max(float(count.max()) for count in counts.values())
    width = max(1, int(np.ceil(most / 20)))  # in whole spikes, so that every bar may hold as many
    edges = np.arange(0.5 - width, max(most, 1) + width, width)  # the first bar: no spike
    for ax, (name, count) in zip(grid.flat, counts.items(), strict=False):
        heights = 100 * np.histogram(count, edges)[0] / len(count)
        colours = [ORANGE, *[BLUE] * (len(heights) - 1)]
        ax.bar(edges[:-1] / slots, heights, 0.9 * width / slots, align="edge", color=colours)
        ax.set_title(f"{name}: mean {count.mean() / slots:.3f}, {heights[0]:.0f} % silent")
    for ax in grid.flat[len(layers) :]:
        ax.remove()
    fig.supxlabel("spikes a neuron and time step", size=10)
    fig.supylabel("neurons (%)", size=10)
    return fig


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int, title: str) -> Figure:
    """What was taken for what: counts, coloured by their share of the label's samples."""
    table = np.zeros((classes, classes), dtype=int)
    np.add.at(table, (label, predicted), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 5.4 if classes <= 12 else 7.8
    fig, grid = figure(title, side + 1, side + 0.4, 1, 1)
    ax = grid[0, 0]
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(0, classes, 1 if classes <= NUMBERED else 10)
    ax.set(xlabel="predicted", ylabel="label", xticks=ticks, yticks=ticks)
    ax.spines[:].set_visible(False)
    for row, column in np.argwhere(table) if classes <= NUMBERED else ():
        colour = "white" if share[row, column] > 0.5 else DARK
        place = {"ha": "center", "va": "center", "size": 9 if classes <= 12 else 6}
        ax.text(column, row, str(table[row, column]), color=colour, **place)
    percent = PercentFormatter(1, decimals=0, symbol=" %")
    bar = fig.colorbar(image, ax=ax, shrink=0.6, format=percent)
    bar.set_label("share of the label's samples")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return fig


@dataclass(frozen=True)
class Membrane:
    """The potential of some neurons of a layer during one sample.

    **Arguments:**

    - `neurons`: which neurons, `(n,)`.
    - `potential`: what every step leaves, `(T, n)`.
    - `fired`: their spikes, `(T, n)`; None of a layer that never fires.
    - `threshold`: at which they fire, if it is one number.
    """

    neurons: np.ndarray
    potential: np.ndarray
    fired: np.ndarray | None
    threshold: float | None

    def telling(self) -> list[int]:
        """The places of some neurons: from the one that fires most to the one that fires least, evenly."""
        fired = self.potential if self.fired is None else np.abs(self.fired)
        order = np.argsort(-fired.sum(0), kind="stable")
        return [int(order[i]) for i in evenly(len(order), TRACES)]


def membrane(layers: Mapping[str, Membrane], title: str, chosen: Sequence[int] = ()) -> Figure:
    """The membrane potential of neurons over time, with their spikes: a row a layer.

    **Arguments:**

    - `layers`: the layers.
    - `title`: what was run.
    - `chosen`: neurons that are wanted; without, a few from busy to silent.
    """
    places = {
        name: [i for n in chosen for i in np.flatnonzero(layer.neurons == n).tolist()]
        if len(chosen)
        else layer.telling()
        for name, layer in layers.items()
    }
    columns = max(map(len, places.values()))
    size = max(6.0, 2.6 * columns + 0.6), 1.7 * len(layers) + 1.2
    fig, grid = figure(title, *size, len(layers), columns, sharex=True)
    for axes, (name, layer) in zip(grid, layers.items(), strict=True):
        for ax, place in zip(axes, places[name], strict=False):
            trace(ax, layer, place, name)
        for ax in axes[len(places[name]) :]:
            ax.remove()
        axes[0].set_ylabel("potential")
    fig.supxlabel("time step", size=10)
    return fig


def trace(ax: Axes, layer: Membrane, place: int, name: str) -> None:
    """The potential of one neuron, and a dash above for each spike."""
    v = layer.potential[:, place]
    time = np.arange(1, len(v) + 1)
    dots = {"marker": "o", "markersize": 3} if len(v) <= 30 else {}
    ax.plot(time, v, color=BLUE, linewidth=1.2, **dots)
    words = f"{name}, neuron {layer.neurons[place]}"
    if layer.fired is not None:
        spikes = np.flatnonzero(layer.fired[:, place])
        words += f": {len(spikes)} spike{'' if len(spikes) == 1 else 's'}"
        for step in spikes.tolist():
            ax.axvline(step + 1, 0.9, 1.0, color=ORANGE, linewidth=1.6)
    if layer.threshold is not None and layer.fired is not None:
        ax.axhline(layer.threshold, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ax.margins(y=0.18)
    ax.set_title(words, size=8)
    ax.tick_params(axis="y", labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def frames(x: np.ndarray, title: str, sample: np.ndarray | None = None) -> Figure:
    """What the network sees of one sample.

    **Arguments:**

    - `x`: `(T, ...)` as encoded; two channels are polarities of events.
    - `title`: what it is.
    - `sample`: the image before it was encoded, `(C, H, W)`, which is drawn beside.
    """
    steps, low, high = len(x), float(x.min()), float(x.max())
    title = f"{title}\nvalues {low:.3g} to {high:.3g}"
    limits = {"vmin": low, "vmax": max(high, low + 1e-9), "interpolation": "nearest"}
    if x.ndim < 3:
        fig, grid = figure(title, 8, 3.8, 1, 1)
        x = x.reshape(steps, -1)
        extent = (0.5, steps + 0.5, x.shape[1] - 0.5, -0.5)
        grid[0, 0].imshow(x.T, cmap="Greys", aspect="auto", extent=extent, **limits)
        grid[0, 0].set(xlabel="time step", ylabel="input")
        grid[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        return fig
    x = x if x.ndim > 3 else x[:, None]
    constant = steps > 1 and bool((x == x[:1]).all())
    drawn = [0] if constant else evenly(steps, STEPS)
    match x.shape[1]:
        case 2:
            rows = [
                ("polarity 0 (off)", x[:, 0], fade(ORANGE)),
                ("polarity 1 (on)", x[:, 1], fade(BLUE)),
            ]
        case 3:
            rows = [("", colours(x), None)]
        case _:
            rows = [("", x.mean(1), "Greys")]
    if len(drawn) < steps and not constant:
        title += f", {len(drawn)} of {steps} steps, evenly drawn"
    before = sample is not None and sample.ndim == 3 and not constant and x.shape[1] != 2
    columns = len(drawn) + before
    side = 3.2 if columns == 1 else 2.0 if columns <= 5 else 1.25
    height = side * x.shape[2] / x.shape[3]
    size = max(6.0, side * columns + 0.5), height * len(rows) + 1
    fig, grid = figure(title, *size, len(rows), columns)
    for axes, (name, pictures, shades) in zip(grid[:, before:], rows, strict=True):
        for ax, t in zip(axes, drawn, strict=True):
            ax.imshow(pictures[t], cmap=shades, **limits)
        axes[0].set_ylabel(name, size=9)
    if before and sample is not None:
        image = colours(sample[None])[0] if len(sample) == 3 else sample.mean(0)
        grid[0, 0].imshow(image, cmap="Greys", interpolation="nearest")
        grid[0, 0].set_title("before encoding", loc="center")
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
    for ax, t in zip(grid[0, before:], drawn, strict=True):
        ax.set_title(f"each of {steps} steps" if constant else f"step {t + 1}", loc="center")
    return fig


def colours(x: np.ndarray) -> np.ndarray:
    """Images `(N, 3, H, W)` as `(N, H, W, 3)` between 0 and 1."""
    low, high = float(x.min()), float(x.max())
    return (x.transpose(0, 2, 3, 1) - low) / max(high - low, 1e-9)


def steps(accuracy: Arrays, title: str, ann: float | None = None) -> Figure:
    """Accuracy on test data, in percent, when the output is read after so many steps.

    **Arguments:**

    - `accuracy`: a curve for each name, `(T,)`.
    - `title`: what was run.
    - `ann`: the accuracy of the network before it was converted.
    """
    fig, grid = figure(title, 6.4, 4.0, 1, 1)
    ax = grid[0, 0]
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(accuracy)))
    for (name, values), shade in zip(accuracy.items(), shades, strict=True):
        colour = BLUE if len(accuracy) == 1 else shade
        ax.plot(np.arange(1, len(values) + 1), values, label=name, color=colour, linewidth=1.8)
    if ann is not None:
        look = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 0}
        ax.axhline(ann, label=f"ANN, {ann:.2f} %", **look)
    longest = max(len(values) for values in accuracy.values())
    if longest > 16:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="time steps", ylabel="accuracy (%)")
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    if len(accuracy) > 1 or ann is not None:
        ax.legend(fontsize=9)
    return fig


def overview(
    history: Arrays,
    layers: Arrays,
    label: np.ndarray,
    title: str,
    chosen: Mark | None,
    test: float | None,
) -> Figure:
    """A run at one glance: its learning curve, and the spikes of a sample.

    **Arguments:** as of `curves`, and

    - `layers`: the spikes of every layer, `(N, T, neurons)`; of short ones several samples are drawn side by side.
    - `label`: their labels, or more.
    """
    fig = Figure(figsize=(12, 4.2), dpi=200, layout="constrained")
    words = title if test is None else f"{title}: {test:.2f} % test accuracy"
    fig.suptitle(wrapped(words, 10), x=0.008, ha="left", weight="bold", size=13)
    sides: Any = fig.subfigures(1, 2, width_ratios=(1, 1.4), wspace=0.03)
    ax = sides[0].subplots()
    over_epochs(ax, history, "acc" if lines(history, "acc") else "loss", chosen, test)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9)
    names = [list(layers)[i] for i in evenly(len(layers), LAYERS)]
    samples, steps, _ = layers[names[0]].shape
    beside = max(1, min(samples, 16 // steps))
    grid = sides[1].subplots(len(names), 1, sharex=True, squeeze=False)
    for axes, name in zip(grid[:, 0], names, strict=True):
        fired = layers[name][:beside].reshape(beside * steps, -1)
        raster(axes, fired, name, 2.8 / len(names), period=steps)
    part = f"; {len(names)} of {len(layers)} layers" if len(names) < len(layers) else ""
    what = "a test sample" if beside == 1 else f"{beside} test samples"
    classes = ", ".join(str(n) for n in label[:beside])
    grid[-1, 0].set_xlabel(f"time step ({what}, label{'s' * (beside > 1)} {classes}{part})")
    return fig


def figure(title: str, width: float, height: float, rows: int, columns: int, **shared: Any) -> Any:
    """A figure with a title, and its grid of axes."""
    fig = Figure(figsize=(width, height), dpi=150, layout="constrained")
    fig.suptitle(wrapped(title, width), x=0.02, ha="left")
    return fig, fig.subplots(rows, columns, squeeze=False, **shared)


def wrapped(text: str, inches: float) -> str:
    """A title in lines that fit the width."""
    return "\n".join(textwrap.fill(line, int(11 * inches)) for line in text.splitlines())


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the first `count` numbers, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def lines(history: Arrays, name: str) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """The curves of a quantity that have a point: label, values, look."""
    if name != "rate":
        found = [
            (label, history[f"{split}/{name}"], {"color": colour, "linewidth": 1.8})
            for split, label, colour in SPLITS
            if f"{split}/{name}" in history
        ]
    else:
        layers = [key for key in history if key.startswith("spikes/rate/")]
        layers = layers if len(layers) > 1 else []
        shades = colormaps["viridis"](np.linspace(0.1, 0.85, len(layers)))
        found = [
            (key.removeprefix("spikes/rate/"), history[key], {"color": shade, "linewidth": 1.2})
            for key, shade in zip(layers, shades, strict=True)
        ]
        if "spikes/rate" in history:
            look = {"color": DARK, "linewidth": 1.8}
            found.append(("all layers", history["spikes/rate"], look))
    return [line for line in found if np.isfinite(line[1]).any()]


def over_epochs(
    ax: Axes, history: Arrays, name: str, chosen: Mark | None, test: float | None
) -> None:
    """The curves of a quantity, its chosen epoch and, for accuracy, the score on test data."""
    epoch = history["epoch"] + 1
    curves = []
    for label, values, look in lines(history, name):
        known = np.isfinite(values)
        dots = {"marker": "o", "markersize": 3} if known.sum() <= 30 else {}
        curves += ax.plot(epoch[known], values[known], label=label, **look, **dots)
    if chosen:
        look = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 0}
        ax.axvline(chosen[0], label=chosen[1], **look)
        if name == "acc" and test is not None:
            look = {"marker": "*", "markersize": 12, "color": DARK, "linestyle": "none"}
            ax.plot([chosen[0]], [test], label=f"test {test:.2f} %", zorder=3, **look)
    if name == "rate" and len(curves) > 1:
        named = [curves[i] for i in evenly(len(curves), 12)]
        ax.legend(handles=named, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set(xlabel="epoch", ylabel=QUANTITIES[name])
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(np.unique(epoch)) == 1:
        ax.set_xlim(epoch[0] - 0.5, epoch[0] + 0.5)


def fade(colour: str) -> LinearSegmentedColormap:
    """From white, where nothing is, to a colour."""
    return LinearSegmentedColormap.from_list(colour, ["white", colour, DARK])


def legend_below(fig: Figure, axes: list[Axes]) -> None:
    """One legend for all axes, where it covers no curve."""
    handles = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if handles:
        columns = 4 if fig.get_figwidth() > 8 else 2
        where: Any = {"loc": "outside lower center", "ncols": columns}
        fig.legend(handles.values(), handles.keys(), fontsize=9, **where)


def raster(ax: Axes, fired: np.ndarray, name: str, inches: float, period: int = 0) -> None:
    """A dash for each spike.

    **Arguments:**

    - `ax`: the axes.
    - `fired`: `(T, neurons)`, not zero where a neuron fired.
    - `name`: the layer.
    - `inches`: the height of the axes.
    - `period`: steps after which another sample begins.
    """
    steps, neurons = fired.shape
    period = period or steps
    drawn = evenly(neurons, min(NEURONS, round(48 * inches)))
    t, row = np.nonzero(fired[:, drawn])
    x = np.stack([t + 0.55, t + 1.45, np.full(len(t), np.nan)], 1).ravel()
    thick = min(4.0, 0.8 * 72 * inches / len(drawn))
    ax.plot(x, row.repeat(3), color=BLUE, linewidth=thick, solid_capstyle="butt")
    ax.set(xlim=(0.5, steps + 0.5), ylim=(-0.7, len(drawn) - 0.3), yticks=[], ylabel="neurons")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if steps <= 20:
        every = np.arange(steps)
        ax.set_xticks(every + 1, [str(n) for n in every % period + 1])
        for edge in every[1:]:
            apart = edge % period == 0
            ax.axvline(edge + 0.5, color=GREY if apart else FAINT, linewidth=0.8, zorder=0)
    subset = ", evenly drawn" if len(drawn) < neurons or neurons >= SNAPSHOT else ""
    ax.set_title(f"{name}: {len(drawn)} neurons{subset}")
