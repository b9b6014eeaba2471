"""Maximum pooling of spikes, and spikes that are dropped."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from snnrun.model import Pool
from snnrun.neuron import carry
from snnrun.rule.spiking_parts import SpikeConfidence, SpikingMaxPool


def spikes(steps: int = 12, side: int = 6) -> Tensor:
    drawn = torch.rand(steps, 2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return (drawn < 0.3).double() * 0.7


def test_lateral_inhibition_as_written():
    """S += x; o = max S; S -= o on the whole window."""
    x = spikes()
    left, expected = torch.zeros_like(x[0]), []
    for x_t in x:
        left = left + x_t
        out = functional.max_pool2d(left, 2)
        left = left - functional.interpolate(out, scale_factor=2)
        expected.append(out)
    found = SpikingMaxPool(Pool("max", 2))(x)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "pool", [Pool("max", 2), Pool("max", 3, 2, 1), Pool("max", None), Pool("max", 2, gain=1.5)]
)
def test_lateral_inhibition_sums_up_to_the_maximum_of_sums(pool):
    x = spikes()
    found = SpikingMaxPool(pool)(x)
    torch.testing.assert_close(found.sum(0), pool(x.sum(0, keepdim=True))[0])
    assert found.shape == pool(x).shape


def test_the_gate_lets_the_spike_of_the_largest_sum_through():
    x = torch.zeros(3, 1, 1, 2, 2)
    x[0, ..., 0, 0] = x[1, ..., 0, 0] = x[2, ..., 0, 1] = 1  # the third is not of the largest sum
    assert SpikingMaxPool(Pool("max", 2), "gate")(x).flatten().tolist() == [1, 1, 0]


@pytest.mark.parametrize("by", ["lateral", "gate"])
def test_streaming(by):
    pool, x = SpikingMaxPool(Pool("max", 2), by), spikes()
    with carry(pool):
        parts = torch.cat([pool(part) for part in x.split([1, 5, 6])])
    torch.testing.assert_close(parts, pool(x), rtol=0, atol=1e-9)


def test_spikes_are_dropped_during_the_first_steps_only():
    torch.manual_seed(0)
    drop, x = SpikeConfidence(0.7, steps=5), torch.full((8, 40, 50), 0.3)
    out = drop(x)
    assert set(out.unique().tolist()) == {0.0, x[0, 0, 0].item()}
    kept = out.gt(0).double().mean((1, 2))
    assert kept[:5].sub(0.7).abs().max() < 0.05 and kept[5:].eq(1).all()
    assert not torch.equal(out[0], out[1])
    with carry(drop):
        parts = [drop(part).gt(0).double().mean().item() for part in x.split([3, 2, 3])]
    assert parts[0] < 0.75 and parts[1] < 0.75 and parts[2] == 1


def test_complete_confidence_drops_nothing():
    x = spikes()
    assert torch.equal(SpikeConfidence(1.0)(x), x)
