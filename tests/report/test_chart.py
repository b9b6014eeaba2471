"""The pictures of many runs show the data they were given."""

import itertools

import numpy as np
import pytest

from snnrun.report import chart
from snnrun.report.chart import Point, front

NAN = float("nan")


def test_curves_are_means_and_the_band_is_the_deviation():
    seeds = [np.array([1.0, NAN, 3.0]), np.array([3.0, NAN])]
    ax = chart.curves({"a": seeds}, "loss").axes[0]
    (line,) = ax.get_lines()
    assert np.asarray(line.get_xydata()).tolist() == [[1, 2], [3, 3]]  # epoch 2 was not measured
    (band,) = ax.collections
    corners = {
        tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).round(6).tolist()
    }
    assert corners == {(1, round(2 - 2**0.5, 6)), (1, round(2 + 2**0.5, 6))}


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_nothing_dominates(higher):
    rng = np.random.default_rng(0)
    points = [Point(str(n), *map(float, rng.integers(0, 12, 2)), None) for n in range(60)]
    sign = 1 if higher else -1

    def beaten(p: Point) -> bool:
        return any(
            q.cost <= p.cost
            and sign * q.score >= sign * p.score
            and (q.cost, q.score) != (p.cost, p.score)
            for q in points
        )

    best = front(points, higher)
    assert {(p.cost, p.score) for p in best} == {(p.cost, p.score) for p in points if not beaten(p)}
    assert all(a.cost < b.cost for a, b in itertools.pairwise(best))
    ax = chart.pareto(points, "cost", "score", higher).axes[0]
    drawn = np.asarray(ax.get_lines()[0].get_xydata())
    assert drawn.tolist() == [[p.cost, p.score] for p in best]


def test_heat_has_every_cell():
    table = np.array([[1.0, NAN, 3.0], [4.0, 5.0, 6.25]])
    fig = chart.heat(table, ["a", "b"], ["x", "y", "z"], ["row", "column", "score"], True)
    ax = fig.axes[0]
    np.testing.assert_array_equal(np.ma.filled(ax.get_images()[0].get_array(), NAN), table)
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {
        (0, 0): "1",
        (1, 0): "-",
        (2, 0): "3",
        (0, 1): "4",
        (1, 1): "5",
        (2, 1): "6.25",
    }
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column", "row")


def test_parallel_lines_go_through_their_values():
    axes = {"a": [1.0, 3.0, 2.0], "b": [1e-4, 1e-2, 1e-3]}
    fig = chart.parallel(axes, [90.0, 80.0, 85.0], "acc", True)
    (lines,) = fig.axes[0].collections
    paths = sorted(np.asarray(line)[:, 1].round(9).tolist() for line in lines.get_segments())
    assert paths == [[0, 0, 1], [0.5, 0.5, 0.5], [1, 1, 0]]  # b on a logarithmic axis
    marks = {text.get_text() for text in fig.axes[0].texts}
    assert {"0.0001", "0.001", "0.01", "1", "2", "3", "80", "90"} <= marks


def test_rates_by_layer():
    fig = chart.rates({"one": {"a": (0.1, 0.01), "b": (0.2, None)}, "two": {"b": (0.3, None)}})
    ax = fig.axes[0]
    heights = [
        sorted(y for _, y in container[0].get_xydata().tolist()) for container in ax.containers
    ]
    assert heights == [[0.1, 0.2], [0.3]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
