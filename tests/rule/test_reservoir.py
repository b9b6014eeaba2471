"""Random connections between neighbours."""

import pytest
import torch

from snnrun.rule import reservoir
from snnrun.rule.reservoir import compact, near


@pytest.mark.parametrize("share", [0.0, 1.0])  # of excitatory neurons
def test_how_likely_neighbours_are(share, monkeypatch):
    monkeypatch.setattr(reservoir, "EXCITATORY", share)
    torch.manual_seed(0)
    drawn = torch.stack([near((1, 2, 3)) for _ in range(4000)]).double().mean(0)
    place = torch.cartesian_prod(torch.tensor([0.0]), torch.arange(2.0), torch.arange(3.0))
    distance = (place[:, None] - place).square().sum(2)
    chance = 1.5 * (0.3 if share else 0.1) * torch.exp(-distance / 4)
    assert (drawn - chance).abs().max() < 5 * (0.25 / 4000) ** 0.5
    assert drawn.diagonal().min() > 0.1


def test_who_excites_whom(monkeypatch):
    """Neurons far apart are not connected; a column is read by all others, by its own kind and by theirs."""
    monkeypatch.setattr(reservoir, "GAIN", 2.5)  # the largest chance is then 1
    torch.manual_seed(0)
    drawn = near((1, 1, 4000), width=1e6).double()
    rates = drawn.mean(0)  # of what leaves a neuron
    inhibitory = rates > 0.775  # 0.8 x 1 + 0.2 x 0.25 against 0.8 x 0.75 + 0.2 x 0.5
    assert abs(inhibitory.double().mean() - 0.2) < 0.03
    kinds = {0: ~inhibitory, 1: inhibitory}
    for source, target, chance in ((0, 0, 0.75), (0, 1, 0.5), (1, 0, 1.0), (1, 1, 0.25)):
        found = drawn[kinds[target]][:, kinds[source]].mean().item()
        assert found == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize(
    ("neurons", "grid"), [(8, (2, 2, 2)), (400, (5, 8, 10)), (7, (1, 1, 7)), (1, (1, 1, 1))]
)
def test_the_most_compact_grid(neurons, grid):
    assert tuple(sorted(compact(neurons))) == grid
