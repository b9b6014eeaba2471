"""Intervals and tests equal scipy's own; where nothing can be said, nothing is."""

import math

import numpy as np
import pytest

from snnrun.report.significance import compare, estimate, holm


@pytest.fixture
def stats(recwarn):
    from scipy import stats

    return stats


@pytest.mark.parametrize("n", [2, 3, 10])
def test_estimate(n, stats):
    values = np.random.default_rng(n).normal(90, 2, n)
    found = estimate(values.tolist())
    assert found is not None and found.std is not None
    assert (found.n, found.mean) == (n, pytest.approx(values.mean(), rel=1e-12))
    assert found.std == pytest.approx(values.std(ddof=1), rel=1e-12)
    interval = stats.t.interval(0.95, n - 1, values.mean(), values.std(ddof=1) / math.sqrt(n))
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-10)


def test_one_run_has_no_interval_and_none_no_estimate():
    found = estimate([91.5])
    assert found and (found.mean, found.std, found.low, found.high) == (91.5, None, None, None)
    assert estimate([]) is None


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_same_seeds_are_paired(n, stats):
    rng = np.random.default_rng(n)
    a, b = rng.normal(90, 2, n), rng.normal(91, 1, n)
    found = compare(dict(enumerate(a)), dict(reversed(list(enumerate(b)))))
    assert found.test == "paired t"
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert found.difference == pytest.approx(a.mean() - b.mean())


@pytest.mark.parametrize(("n", "m"), [(2, 3), (5, 3), (9, 2)])
def test_other_seeds_are_compared_after_welch(n, m, stats):
    rng = np.random.default_rng(n)
    a, b = rng.normal(90, 2, n), rng.normal(91, 1, m)
    found = compare(dict(enumerate(a)), {100 + i: v for i, v in enumerate(b)})
    assert found.test == "Welch's t"
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-9)


def test_one_seed_says_nothing():
    found = compare({1: 90.0}, {1: 80.0, 2: 81.0})
    assert (found.difference, found.p, found.test) == (9.5, None, "fewer than two seeds")


@pytest.mark.parametrize(
    ("ours", "p"),
    [
        ({1: 90.3, 2: 88.3}, None),
        ({1: 90.0, 2: 88.0}, 1.0),
    ],  # a sample more is right, twice; or none
)
def test_two_runs_that_differ_alike_are_not_called_certain(ours, p):
    assert compare(ours, {1: 90.0, 2: 88.0}).p == p


def test_holm():
    assert holm([0.01, None, 0.04, 0.03]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
