"""The pictures show the data they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from snnrun.report import picture

NAN = float("nan")
HISTORY = {
    "epoch": np.arange(3.0),
    "train/loss": np.array([2.0, 1.0, 0.5]),
    "train/acc": np.array([20.0, 60.0, 90.0]),
    "val/loss": np.array([2.1, NAN, 0.7]),
    "val/acc": np.array([18.0, NAN, 85.0]),
    "spikes/rate": np.array([0.1, 0.2, 0.15]),
    "spikes/rate/a": np.array([0.05, 0.1, 0.1]),
    "spikes/rate/b": np.array([0.15, 0.3, 0.2]),
}
CHOSEN = (3, "epoch 3, chosen on validation data")


def drawn(fig: Figure, ax: int) -> dict[str, list[tuple[float, float]]]:
    """The points of every line of a panel."""
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
        for line in fig.get_axes()[ax].get_lines()
    }


def titles(fig: Figure) -> list[str]:
    return [ax.get_title("left") or ax.get_title() for ax in fig.get_axes()]


def pixels(fig: Figure, ax: int) -> np.ndarray:
    """The values of the image in a panel."""
    return np.asarray(fig.get_axes()[ax].get_images()[0].get_array())


def test_curves_hold_every_number():
    fig = picture.curves(HISTORY, "model=mlp", CHOSEN, 84.5)
    assert [ax.get_ylabel() for ax in fig.get_axes()] == [
        *("loss", "accuracy (%)", "spikes a neuron and time step")
    ]
    mark = {CHOSEN[1]: [(3, 0), (3, 1)]}  # across the whole height of the panel
    assert drawn(fig, 0) == {
        "training": [(1, 2.0), (2, 1.0), (3, 0.5)],
        "validation": [(1, 2.1), (3, 0.7)],
        **mark,
    }
    assert drawn(fig, 1) == {
        "training": [(1, 20), (2, 60), (3, 90)],
        "validation": [(1, 18), (3, 85)],
        "test 84.50 %": [(3, 84.5)],
        **mark,
    }
    assert drawn(fig, 2) == {
        "a": [(1, 0.05), (2, 0.1), (3, 0.1)],
        "b": [(1, 0.15), (2, 0.3), (3, 0.2)],
        "all layers": [(1, 0.1), (2, 0.2), (3, 0.15)],
        **mark,
    }
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        *("training", "validation", CHOSEN[1], "test 84.50 %")
    ]


def test_without_a_result_no_epoch_is_marked():
    fig = picture.curves(HISTORY, "model=mlp", None, None)
    assert [set(drawn(fig, ax)) for ax in range(3)] == [
        {"training", "validation"},
        {"training", "validation"},
        {"a", "b", "all layers"},
    ]


@pytest.mark.parametrize(
    ("left_out", "panels"),
    [
        (("val/loss", "val/acc"), ["loss", "accuracy (%)", "spikes a neuron and time step"]),
        (("train/acc", "val/acc"), ["loss", "spikes a neuron and time step"]),
        (("spikes/rate", "spikes/rate/a", "spikes/rate/b"), ["loss", "accuracy (%)"]),
    ],
)
def test_a_panel_for_what_was_measured(left_out, panels):
    history = {name: values for name, values in HISTORY.items() if name not in left_out}
    fig = picture.curves(history, "model=mlp", CHOSEN, None)
    assert [ax.get_ylabel() for ax in fig.get_axes()] == panels
    assert ("validation" in drawn(fig, 0)) == ("val/loss" not in left_out)


def test_one_layer_is_all_layers():
    history = {name: values for name, values in HISTORY.items() if name != "spikes/rate/b"}
    assert set(drawn(picture.curves(history, "", None, None), 2)) == {"all layers"}


def test_one_epoch_is_a_point_in_the_middle():
    history = {name: values[:1] for name, values in HISTORY.items()}
    fig = picture.curves(history, "model=mlp", (1, "epoch 1, the last"), 20.0)
    assert drawn(fig, 0)["training"] == [(1, 2.0)]
    assert fig.get_axes()[0].get_lines()[0].get_marker() == "o"
    assert fig.get_axes()[0].get_xlim() == (0.5, 1.5)


def dashes(fig: Figure, ax: int) -> set[tuple[int, int]]:
    """Step and row of every dash of a raster."""
    data = np.asarray(fig.get_axes()[ax].get_lines()[0].get_xydata()).reshape(-1, 3, 2)
    assert np.isnan(data[:, 2, 0]).all()  # dashes are not joined
    assert (data[:, 0, 1] == data[:, 1, 1]).all()
    middle = data[:, :2, 0].mean(1)
    np.testing.assert_allclose(middle, middle.round(), atol=1e-9)
    return {(round(x), round(y)) for x, y in zip(middle, data[:, 0, 1], strict=True)}


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_spikes_are_all_there(steps):
    rng = np.random.default_rng(0)
    layers = {"a": rng.random((steps, 30)) < 0.3, "b": rng.random((steps, 7)) < 0.3}
    fig = picture.spikes(layers, "model=mlp")
    for ax, fired in enumerate(layers.values()):
        assert dashes(fig, ax) == {(t + 1, n) for t, n in np.argwhere(fired).tolist()}
    assert titles(fig) == ["a: 30 neurons", "b: 7 neurons"]
    assert fig.get_axes()[0].get_xlim() == (0.5, steps + 0.5)


def test_negative_spikes_are_spikes_and_silence_is_empty():
    layers = {"a": np.array([[0, -1.0], [1.0, 0]]), "b": np.zeros((2, 3))}
    fig = picture.spikes(layers, "")
    assert dashes(fig, 0) == {(1, 1), (2, 0)}
    assert dashes(fig, 1) == set()


@pytest.mark.parametrize(
    ("neurons", "words"),
    [
        (99, "a: 99 neurons"),
        (100, "a: 100 neurons, evenly drawn"),  # all that a snapshot holds of a larger layer
        (1000, "a: 100 neurons, evenly drawn"),
    ],
)
def test_a_raster_says_when_it_shows_a_part(neurons, words):
    fired = np.zeros((2, neurons))
    fired[0, 0] = fired[1, -1] = 1
    fig = picture.spikes({"a": fired}, "")
    assert titles(fig) == [words]
    assert dashes(fig, 0) == {(1, 0), (2, min(neurons, 100) - 1)}  # the ends are drawn


@pytest.mark.parametrize("count", [5, 64])
def test_accuracy_after_every_step(count):
    accuracy = np.linspace(10, 90, count)
    fig = picture.steps({"one": accuracy, "two": accuracy / 2}, "", 92.5)
    lines = drawn(fig, 0)
    assert [y for _, y in lines["two"]] == (accuracy / 2).tolist()
    assert [x for x, _ in lines["one"]] == list(range(1, count + 1))
    assert {y for _, y in lines["ANN, 92.50 %"]} == {92.5}
    assert fig.get_axes()[0].get_xscale() == ("log" if count > 16 else "linear")


def test_rates_count_neurons():
    fired = np.zeros((2, 5, 4))  # ten places for a spike of each of four neurons
    fired[0, 0, 1] = 1
    fired[:, :3, 2] = fired[:, :3, 3] = 1
    fig = picture.rates({"a": fired, "b": np.zeros((2, 5, 3))}, "")
    bars = [
        {round(p.get_x() + p.get_width() / 1.8, 6): p.get_height() for p in ax.patches}
        for ax in fig.get_axes()
    ]
    assert {x: height for x, height in bars[0].items() if height} == {0: 25, 0.1: 25, 0.6: 50}
    assert {x: height for x, height in bars[1].items() if height} == {0: 100}
    assert titles(fig) == ["a: mean 0.325, 25 % silent", "b: mean 0.000, 100 % silent"]


@pytest.mark.parametrize("most", [1, 20, 21, 333])
def test_every_neuron_is_in_one_bar(most):
    counts = np.arange(most + 1)
    fired = (np.arange(most)[:, None] < counts)[None].astype(float)  # neuron n fires n times
    ax = picture.rates({"a": fired}, "").get_axes()[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert sum(heights) == pytest.approx(100)
    assert heights[0] == pytest.approx(100 / (most + 1))
    assert len(heights) <= 22


def membrane(neurons: int, steps: int) -> picture.Membrane:
    rng = np.random.default_rng(neurons)
    fired = (rng.random((steps, neurons)) < np.linspace(0.9, 0, neurons)).astype(float)
    return picture.Membrane(np.arange(neurons) * 3, rng.normal(size=(steps, neurons)), fired, 1.0)


def test_membrane_potentials_and_their_spikes():
    layer = membrane(9, 12)
    fig = picture.membrane({"a": layer}, "title", [6, 24])
    for ax, place in ((0, 2), (1, 8)):
        spikes = np.flatnonzero(layer.fired[:, place]) + 1
        trace, *dashes, threshold = fig.get_axes()[ax].get_lines()
        points = np.asarray(trace.get_xydata())
        np.testing.assert_array_equal(points[:, 0], np.arange(1, 13))
        np.testing.assert_array_equal(points[:, 1], layer.potential[:, place])
        assert [dash.get_xdata()[0] for dash in dashes] == spikes.tolist()
        assert set(threshold.get_ydata()) == {1.0}
        word = "spike" if len(spikes) == 1 else "spikes"
        assert titles(fig)[ax] == f"a, neuron {3 * place}: {len(spikes)} {word}"


def test_some_neurons_from_busy_to_silent_are_drawn_unless_some_are_named():
    layer = membrane(50, 200)
    counts = layer.fired.sum(0)[layer.telling()]
    assert len(counts) == 4 and counts[0] == layer.fired.sum(0).max() and counts[-1] == 0
    assert (np.diff(counts) <= 0).all()
    silent = picture.Membrane(np.arange(2), np.ones((5, 2)), None, 1.0)
    fig = picture.membrane({"a": layer, "head": silent}, "")
    assert titles(fig)[4:] == ["head, neuron 0", "head, neuron 1"]
    assert len(fig.get_axes()[4].get_lines()) == 1  # it has no threshold to cross


def test_confusion_counts_and_shares():
    label, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 2, 1, 0])
    fig = picture.confusion(label, predicted, 3, "")
    np.testing.assert_allclose(pixels(fig, 0), [[0.75, 0, 0.25], [0.5, 0.5, 0], [0, 0, 0]])
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in fig.axes[0].texts}
    assert texts == {(0, 0): "3", (0, 2): "1", (1, 0): "1", (1, 1): "1"}


def test_a_hundred_classes_are_colours_only():
    label = np.arange(100)
    fig = picture.confusion(label, label, 100, "")
    np.testing.assert_array_equal(pixels(fig, 0), np.eye(100))
    assert not fig.axes[0].texts
    assert len(fig.axes[0].get_xticks()) == 10


def test_events_have_two_polarities():
    x = np.arange(3 * 2 * 4 * 5.0).reshape(3, 2, 4, 5)
    fig = picture.frames(x, "")
    for ax in range(6):
        np.testing.assert_array_equal(pixels(fig, ax), x[ax % 3, ax // 3])
    axes = fig.get_axes()
    assert [ax.get_ylabel() for ax in axes] == [
        *("polarity 0 (off)", "", "", "polarity 1 (on)", "", "")
    ]
    assert titles(fig)[:3] == ["step 1", "step 2", "step 3"]
    assert {image.get_clim() for ax in axes for image in ax.get_images()} == {(0, 119)}


def test_a_constant_input_is_drawn_once():
    image = np.random.default_rng(0).random((1, 8, 8))
    fig = picture.frames(np.stack([image] * 4), "")
    assert titles(fig) == ["each of 4 steps"]
    np.testing.assert_array_equal(pixels(fig, 0), image[0])


def test_what_was_encoded_stands_beside():
    rng = np.random.default_rng(0)
    image, x = rng.random((1, 4, 4)), (rng.random((3, 1, 4, 4)) < 0.5).astype(float)
    fig = picture.frames(x, "", image)
    assert titles(fig) == ["before encoding", "step 1", "step 2", "step 3"]
    np.testing.assert_array_equal(pixels(fig, 0), image[0])
    np.testing.assert_array_equal(pixels(fig, 3), x[2, 0])
    assert titles(picture.frames(np.stack([image] * 3), "", image)) == ["each of 3 steps"]


def test_colours_keep_their_proportions():
    image = np.random.default_rng(0).normal(size=(3, 8, 8))
    unit = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_allclose(pixels(picture.frames(image[None], ""), 0), unit.transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(100, 700), (100,), (1, 5)])
def test_an_input_without_image_is_drawn_over_time(shape):
    x = np.random.default_rng(0).random(shape)
    fig = picture.frames(x, "")
    np.testing.assert_array_equal(pixels(fig, 0), x.reshape(shape[0], -1).T)


def test_many_steps_are_drawn_in_part():
    x = np.random.default_rng(0).random((91, 6, 6))
    fig = picture.frames(x, "title")
    assert titles(fig) == [f"step {t}" for t in range(1, 92, 10)]
    np.testing.assert_array_equal(pixels(fig, 9), x[90])
    assert "10 of 91 steps, evenly drawn" in fig.get_suptitle()


def test_overview_of_a_long_sequence_shows_one_sample():
    layers = {"a": np.random.default_rng(0).random((4, 30, 20)) < 0.2}
    label = np.array([3, 1, 4, 1, 5])
    fig = picture.overview(HISTORY, layers, label, "model=mlp", CHOSEN, 84.5)
    assert fig.get_suptitle() == "model=mlp: 84.50 % test accuracy"
    assert drawn(fig, 0)["training"] == [(1, 20), (2, 60), (3, 90)]
    assert drawn(fig, 0)["test 84.50 %"] == [(3, 84.5)]
    assert dashes(fig, 1) == {(t + 1, n) for t, n in np.argwhere(layers["a"][0]).tolist()}
    assert fig.get_axes()[1].get_xlabel() == "time step (a test sample, label 3)"


def test_overview_of_short_sequences_shows_samples_side_by_side():
    layers = {"a": np.random.default_rng(0).random((4, 5, 20)) < 0.2}
    fig = picture.overview(HISTORY, layers, np.array([3, 1, 4, 1, 5]), "model=mlp", None, None)
    fired = np.concatenate(layers["a"][:3])
    assert dashes(fig, 1) == {(t + 1, n) for t, n in np.argwhere(fired).tolist()}
    ax = fig.get_axes()[1]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3", "4", "5"] * 3
    assert ax.get_xlabel() == "time step (3 test samples, labels 3, 1, 4)"
    assert fig.get_suptitle() == "model=mlp"


def test_overview_of_a_deep_network_shows_some_layers():
    layers = {f"body.{n}": np.ones((1, 20, 2)) for n in range(18)}
    fig = picture.overview(HISTORY, layers, np.array([3]), "", None, None)
    assert [title.split(":")[0] for title in titles(fig)[1:]] == [
        *("body.0", "body.6", "body.11", "body.17")
    ]
    assert fig.get_axes()[-1].get_xlabel() == "time step (a test sample, label 3; 4 of 18 layers)"


@pytest.mark.parametrize(("count", "most"), [(1, 4), (4, 4), (5, 4), (1000, 100), (101, 100)])
def test_evenly(count, most):
    found = picture.evenly(count, most)
    assert len(set(found)) == len(found) == min(count, most)
    assert found[0] == 0
    assert found[-1] == count - 1
    assert len(set(np.diff(found))) <= 2
