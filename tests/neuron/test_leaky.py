"""The leaky neuron whose reset comes one step late."""

import numpy as np
import pytest
import torch

from snnrun.neuron import IF, Leaky, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


def test_by_hand():
    # beta 1/2: h 0.75, 1.125 fires, 0.5625 + 1 - 1 = 0.5625, 0.28125 + 0.71875 = 1 fires, 0.5 - 1
    neuron, spikes, left = Leaky(ATan(), beta=0.5), [], []
    with carry(neuron):
        for current in (0.75, 0.75, 1.0, 0.71875, 0.0):
            spikes.append(neuron(torch.tensor([[[current]]])).item())
            state = recall(neuron)
            assert state is not None
            left.append(state[0].item())
    assert spikes == [0, 1, 0, 1, 0]
    assert left == [0.375, -0.4375, 0.28125, -0.5, -0.25]


def test_against_the_published_order():
    """u = beta u + I - theta s, with the spike of the step before."""
    x = np.random.default_rng(0).normal(0.4, 0.6, (30, 4, 5))
    u, s, expected = np.zeros((4, 5)), np.zeros((4, 5)), []
    for current in x:
        u = 0.8 * u + current - 0.7 * s
        s = (u >= 0.7).astype(float)
        expected.append(s)
    out = Leaky(ATan(), beta=0.8, threshold=0.7)(torch.from_numpy(x))
    np.testing.assert_array_equal(out.numpy(), np.stack(expected))
    assert 0.2 < out.mean() < 0.8


def test_without_a_leak_it_is_the_if_neuron():
    x = torch.rand(20, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x * 64).round() / 64  # exact sums
    assert torch.equal(Leaky(ATan(), beta=1.0)(x), IF(ATan(), reset="soft")(x))


@pytest.mark.parametrize("detach", [True, False])
def test_gradient_through_the_reset_can_be_cut(detach):
    x = torch.full((2, 1, 1), 0.9, dtype=torch.float64, requires_grad=True)
    neuron = Leaky(ATan(), beta=0.5, detach_reset=detach)
    neuron(x)[1].sum().backward()
    assert x.grad is not None
    h = torch.tensor([0.9, 0.45 + 0.9], dtype=torch.float64) - 1
    first, second = ATan().derivative(h)
    through = 0.5 if detach else 0.5 - first
    torch.testing.assert_close(x.grad.flatten(), torch.stack([second * through, second]))


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_wrong_beta(beta):
    with pytest.raises(ValueError) as error:
        Leaky(ATan(), beta=beta)
    assert str(error.value) == f"beta must lie between 0 and 1, got {beta}."
