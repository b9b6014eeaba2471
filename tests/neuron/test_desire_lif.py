"""The neuron of desire backpropagation: it decays first, and a spike subtracts 1."""

import pytest
import torch

from snnrun.neuron import DesireLIF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_steps_by_hand(threshold):
    neuron = DesireLIF(ATan(), threshold=threshold)
    # before a spike takes 1: 0.5, 1.0, 1.25, 0.1875, and 0.5, 0.25, 1.4375, 0.328125
    expected = {
        1.0: [(0, 0.5), (1, 0.0), (1, 0.25), (0, 0.1875)],
        0.5: [(1, -0.5), (0, 0.25), (1, 0.4375), (0, 0.328125)],
    }[threshold]
    with carry(neuron):
        for current, (spike, v) in zip((0.5, 0.625, 1.25, 0.0), expected, strict=True):
            assert neuron(torch.tensor([[[current]]])).item() == spike
            state = recall(neuron)
            assert state is not None and state[0].item() == v


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_refuses_a_decay_that_grows(decay):
    with pytest.raises(ValueError, match=f"decay must be between 0 and 1, got {decay}"):
        DesireLIF(ATan(), decay)
