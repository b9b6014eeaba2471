"""The table of effects against all pairs of trains."""

from itertools import combinations, pairwise

import pytest
import torch

from snnrun.neuron import RefractoryLIF
from snnrun.rule.effect_table import effect_table, mean_effects
from snnrun.rule.spike_train import effects
from snnrun.surrogate import ATan


def neuron(rest: int = 2) -> RefractoryLIF:
    return RefractoryLIF(ATan(), tau_m=9.0, tau_s=3.0, refractory=rest)


@pytest.mark.parametrize(("steps", "rest", "rows"), [(10, 2, 4), (9, 0, 3), (8, 1, 9), (3, 4, 5)])
def test_means_over_all_pairs(steps, rest, rows):
    found = mean_effects(9.0, 3.0, rest, steps, rows)
    trains = {}
    for n in range(1, steps + 1):
        apart = [
            times
            for times in combinations(range(steps), n)
            if all(b - a > rest for a, b in pairwise(times))
        ]
        trains[n] = torch.zeros(steps, 1, len(apart), dtype=torch.float64)
        for k, times in enumerate(apart):
            trains[n][list(times), 0, k] = 1
    possible = max(n for n, some in trains.items() if some.shape[2])
    assert len(found) == min(rows, possible)
    for n in range(1, len(found) + 1):
        for o in range(1, len(found) + 1):
            mean = effects(trains[n], trains[o], neuron(rest)).mean()
            torch.testing.assert_close(found[n - 1, o - 1], mean, rtol=1e-11, atol=1e-13)


def test_quartics_fit_the_means():
    table = effect_table(neuron(), 60, 15)
    assert table.shape == (15, 5)
    o = torch.arange(1, 16, dtype=torch.float64)
    powers = torch.stack([o**k for k in (4, 3, 2, 1, 0)])
    mean = mean_effects(9.0, 3.0, 2, 60, 15)
    rest = table @ powers - mean
    assert rest.norm() < 0.05 * mean.norm()
    assert (rest @ powers.T).abs().max() < 1e-6 * powers.abs().max() * mean.abs().max(), (
        "no other quartic is nearer"
    )


def test_a_table_is_made_once_and_at_most_as_long_as_trains_allow():
    assert effect_table(neuron(), 60, 15) is effect_table(neuron(), 60, 15)
    assert len(effect_table(neuron(), 10, 100)) == 4
    assert effect_table(neuron(), 2, 100).isfinite().all()
