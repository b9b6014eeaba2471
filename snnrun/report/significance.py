r"""What a few runs say: mean, deviation, interval, and whether two settings differ by more than their seeds do.

$$t_W = \frac{\bar a - \bar b}{\sqrt{s_a^2 / n_a + s_b^2 / n_b}}, \, t_P = \frac{\overline{a - b}}{s_{a-b} / \sqrt n}$$

Student, *The probable error of a mean*, 1908; Welch, *The generalization of "Student's" problem*, 1947, with
Satterthwaite's degrees of freedom; Holm, *A simple sequentially rejective multiple test procedure*, 1979.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """What some runs say of a quantity.

    **Arguments:**

    - `mean`, `std`: of the runs; the sample standard deviation, None for fewer than two.
    - `n`: how many runs.
    - `low`, `high`: the 95 % interval of the mean after Student's t; None for fewer than two runs.
    """

    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Two settings beside each other.

    **Arguments:**

    - `difference`: mean less mean of the baseline.
    - `p`: how likely a difference as large would be if there were none; None where it cannot be said.
    - `test`: `paired t`, `Welch's t`, or why there is no p.
    """

    difference: float
    p: float | None
    test: str


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, deviation and interval; None without a value."""
    n = len(values)
    if not n:
        return None
    mean = fmean(values)
    if n == 1:
        return Estimate(mean, None, 1, None, None)
    std = math.sqrt(variance(values))
    reach = quantile(n - 1) * std / math.sqrt(n)
    return Estimate(mean, std, n, mean - reach, mean + reach)


def variance(values: Sequence[float]) -> float:
    """The sample variance of two values or more."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


_quantiles: dict[int, float] = {}


def quantile(freedom: int) -> float:
    """How many standard errors the interval reaches to each side."""
    if freedom not in _quantiles:
        from scipy.special import stdtrit  # a quarter of a second that a single run can do without

        _quantiles[freedom] = float(stdtrit(freedom, (1 + LEVEL) / 2))
    return _quantiles[freedom]


def compare(ours: Mapping[Any, float], base: Mapping[Any, float]) -> Comparison:
    """Compare runs with those of a baseline, both by seed: paired where the seeds are the same, else after Welch.

    **Arguments:**

    - `ours`, `base`: a score for each seed, one at least.
    """
    a, b = list(ours.values()), list(base.values())
    difference = fmean(a) - fmean(b)
    if min(len(a), len(b)) < 2:
        return Comparison(difference, None, "fewer than two seeds")
    if ours.keys() == base.keys():
        pairs = [ours[key] - base[key] for key in ours]
        return _tested(difference, variance(pairs) / len(a), len(a) - 1, "paired t")
    parts = [variance(a) / len(a), variance(b) / len(b)]
    square = sum(parts)
    weights = [part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True)]
    freedom = square**2 / sum(weights) if square else 0.0
    return _tested(difference, square, freedom, "Welch's t")


def _tested(difference: float, square: float, freedom: float, test: str) -> Comparison:
    # rounding apart, differences that are all the same have no deviation to measure anything by
    if math.sqrt(square) <= 1e-12 * max(1.0, abs(difference)):
        return Comparison(difference, 1.0 if abs(difference) < 1e-12 else None, "no deviation")
    from scipy.special import stdtr

    return Comparison(
        difference, float(2 * stdtr(freedom, -abs(difference) / math.sqrt(square))), test
    )


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p of several comparisons, raised so that the chance of any false alarm among them stays what p says."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    raised: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        raised[i] = highest
    return raised
