"""The neuron of ST-RSBP: silent after a spike, its synapse never reset."""

import pytest
import torch

from snnrun.neuron import RefractoryLIF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_steps_by_hand(rest):
    neuron = RefractoryLIF(ATan(), tau_m=4.0, tau_s=2.0, threshold=1.5, refractory=rest)
    # q: 4, 2, 1, 0.5, 4.25; half of it reaches the potential
    expected = {
        0: [(1, 0.0), (0, 1.0), (0, 1.25), (0, 1.1875), (1, 0.0)],
        1: [(1, 0.0), (0, 0.0), (0, 0.5), (0, 0.625), (1, 0.0)],
        2: [(1, 0.0), (0, 0.0), (0, 0.0), (0, 0.25), (1, 0.0)],
    }[rest]
    with carry(neuron):
        for current, (spike, v) in zip((4.0, 0.0, 0.0, 0.0, 4.0), expected, strict=True):
            assert neuron(torch.tensor([[[current]]])).item() == spike
            state = recall(neuron)
            assert state is not None and state[0].item() == v


@pytest.mark.parametrize(("tolerance", "fires"), [(0.0, 0), (1e-6, 1)])
def test_a_potential_at_the_threshold(tolerance, fires):
    neuron = RefractoryLIF(ATan(), 4.0, 2.0, 1.0, tolerance)
    assert neuron(torch.tensor([[[2.0]]], dtype=torch.float64)).item() == fires


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau_m": 0.5}, "neuron.tau_m must be at least 1 step, got 0.5."),
        ({"tau_s": 0.0}, "neuron.tau_s must be at least 1 step, got 0.0."),
        ({"refractory": -1}, "neuron.refractory must be at least 0, got -1."),
        ({"tolerance": 2.0}, "neuron.tolerance must be at least 0 and below the threshold, got 2"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ValueError) as error:
        RefractoryLIF(ATan(), **settings)
    assert message in str(error.value)
