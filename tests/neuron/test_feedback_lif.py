"""The neuron of networks at equilibrium: a spike takes it down by D, it leaks last, and its rate settles."""

import pytest
import torch

from snnrun.neuron import FeedbackLIF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


@pytest.mark.parametrize(
    ("rest", "decay", "expected"),
    [
        # before spike and leak: 0.5, 1.0, 0.75, -0.5, and with a leak 0.5, 0.75, 1.125, 0.0625
        (0.0, 1.0, [(0, 0.5), (1, 0.0), (0, 0.75), (0, -0.5)]),
        (0.0, 0.5, [(0, 0.25), (0, 0.375), (1, 0.0625), (0, -0.59375)]),
        (-1.0, 1.0, [(0, 0.5), (1, -1.0), (0, -0.25), (0, -1.5)]),
    ],
)
def test_steps_by_hand(rest, decay, expected):
    neuron = FeedbackLIF(ATan(), rest=rest, decay=decay)
    with carry(neuron):
        for current, (spike, v) in zip((0.5, 0.5, 0.75, -1.25), expected, strict=True):
            assert neuron(torch.tensor([[[current]]])).item() == spike
            state = recall(neuron)
            assert state is not None and state[0].item() == v


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("rest", [0.0, -2.0])
def test_its_weighted_rate_settles_at_its_current(rest, decay):
    """What is left in the potential bounds the distance: |a - c/D| <= |v| / (D sum of weights)."""
    neuron, steps = FeedbackLIF(ATan(), threshold=2.0, rest=rest, decay=decay).double(), 200
    swing = 2.0 - rest
    current = torch.linspace(-0.5, 1.5, 41, dtype=torch.float64) * swing
    out = neuron(current.expand(steps, 1, 41))[:, 0]
    weights = decay ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    rate = (weights[:, None] * out).sum(0) / weights.sum()
    bound = 4.0 / (swing * weights.sum()) + 1e-9
    assert ((rate - (current / swing).clamp(0, 1)).abs() <= bound).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rest": 1.0}, "neuron.rest must lie below neuron.threshold=1.0, got 1.0."),
        ({"decay": 0.0}, "neuron.decay must be above 0 and at most 1, got 0.0."),
        ({"decay": 1.5}, "neuron.decay must be above 0 and at most 1, got 1.5."),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        FeedbackLIF(ATan(), **options)
    assert str(error.value) == message
