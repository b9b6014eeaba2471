"""A neuron whose threshold and spikes have another size."""

import pytest
import torch

from snnrun.neuron import IF, LIF, Burst, Scaled, carry
from snnrun.surrogate import ATan


@pytest.mark.parametrize("neuron", [IF(ATan(), reset="soft"), LIF(ATan(), tau=3.0), Burst(ATan())])
@pytest.mark.parametrize("scale", [[2.0], [0.5, 1.0, 4.0]], ids=str)
def test_input_in_units_of_the_scale_and_spikes_as_large(neuron, scale):
    x = torch.randn(9, 4, 3, 5, generator=torch.Generator().manual_seed(0)) + 0.7
    scaled = Scaled(neuron, torch.tensor(scale))
    per_channel = torch.tensor(scale).view(-1, 1)
    expected = neuron(x / per_channel)
    out = scaled(x)
    assert torch.equal(out, expected * per_channel) and expected.any()
    assert torch.equal(scaled.spikes(out), expected)
    with carry(scaled):
        assert torch.equal(torch.cat([scaled(part) for part in x.split(4)]), out)
    assert scaled.traits == neuron.traits and scaled.neuron is not neuron


def test_equal_to_a_threshold_of_that_size():
    x = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = Scaled(IF(ATan(), reset="soft"), torch.tensor([1.7], dtype=torch.float64))(x)
    assert torch.equal(out > 0, IF(ATan(), 1.7, reset="soft")(x) > 0) and out.any()
