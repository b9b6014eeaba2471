"""The neuron whose threshold adapts."""

import math

import numpy as np
import pytest
import torch

from snnrun.neuron import ALIF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


def test_three_steps_by_hand():
    neuron = ALIF(ATan(), decay=0.5, adaptation_decay=0.5, beta=0.5)
    # 1: h 1.5, threshold 1, fires: v 0.5, a 1
    # 2: h 1.5, threshold 1.5, fires on equality: v 0 (its own threshold is taken off), a 1.5
    # 3: h 1.5, threshold 1.75, silent: v 1.5, a 0.75
    expected = [(1, 0.5, 1.0), (1, 0.0, 1.5), (0, 1.5, 0.75)]
    with carry(neuron):
        for current, (spike, v, a) in zip((1.5, 1.25, 1.5), expected, strict=True):
            assert neuron(torch.tensor([[[current]]])).item() == spike
            state = recall(neuron)
            assert state is not None
            assert [part.item() for part in state] == [v, a]


def test_threshold_at_rest_by_hand():
    neuron = ALIF(ATan(), threshold=2.0, beta=0.0)
    assert neuron(torch.tensor([2.0, 1.99]).view(1, 1, 2)).flatten().tolist() == [1, 0]


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_by_the_chain_rule(detach):
    """Both paths backwards in time: the potential, and the threshold through the adaptation."""
    d, rho = np.array([0.6, 0.8, 0.9]), np.array([0.7, 0.9, 0.5])
    beta, rest, alpha = 0.4, 0.9, 2.5
    generator = np.random.default_rng(3)
    x, weights = generator.normal(0.5, 0.7, (8, 5, 3)), generator.normal(size=(8, 5, 3))
    v, a = np.zeros((5, 3)), np.zeros((5, 3))
    h, s, threshold, v_before, a_before = [], [], [], [], []
    for x_t in x:
        v_before.append(v)
        a_before.append(a)
        h.append(d * v + x_t)
        threshold.append(rest + beta * a)
        s.append((h[-1] >= threshold[-1]).astype(float))
        v, a = h[-1] - threshold[-1] * s[-1], rho * a + s[-1]
    of_x, of_d, of_rho = np.zeros_like(x), np.zeros(3), np.zeros(3)
    grad_v, grad_a = np.zeros((5, 3)), np.zeros((5, 3))
    for t in reversed(range(8)):
        slope = alpha / 2 / (1 + (np.pi / 2 * alpha * (h[t] - threshold[t])) ** 2)
        grad_s = weights[t] + grad_a - (0 if detach else grad_v * threshold[t])
        grad_h = grad_s * slope + grad_v
        grad_threshold = -grad_s * slope - grad_v * s[t]
        of_x[t] = grad_h
        of_d += (grad_h * v_before[t] * d * (1 - d)).sum(0)
        of_rho += (grad_a * a_before[t] * rho * (1 - rho)).sum(0)
        grad_v, grad_a = grad_h * d, grad_a * rho + grad_threshold * beta
    neuron = ALIF(
        ATan(alpha),
        beta=beta,
        threshold=rest,
        detach_reset=detach,
        learnable=True,
        per_channel=True,
        channels=3,
    ).double()
    assert neuron.w is not None and neuron.w_adaptation is not None
    with torch.no_grad():
        neuron.w.copy_(torch.from_numpy(np.log(d / (1 - d))))
        neuron.w_adaptation.copy_(torch.from_numpy(np.log(rho / (1 - rho))))
    given = torch.from_numpy(x).requires_grad_()
    out = neuron(given)
    assert 0.1 < np.mean(s) < 0.9
    np.testing.assert_array_equal(out.detach().numpy(), s)
    (out * torch.from_numpy(weights)).sum().backward()
    for p, expected in (
        (given, of_x),
        (neuron.w, of_d),
        (neuron.w_adaptation, of_rho),
    ):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_learnable_decays_start_where_they_are_set():
    neuron = ALIF(ATan(), decay=0.7, adaptation_decay=0.95, learnable=True)
    assert neuron.w is not None and neuron.w_adaptation is not None
    assert neuron.w.item() == pytest.approx(math.log(0.7 / 0.3))
    assert neuron.w_adaptation.item() == pytest.approx(math.log(0.95 / 0.05))
    fixed = ALIF(ATan(), decay=0.7, adaptation_decay=0.95)
    assert not list(fixed.parameters())


@pytest.mark.parametrize("name", ["decay", "adaptation_decay"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5])
def test_decay_out_of_range(name, value):
    with pytest.raises(ValueError) as error:
        ALIF(ATan(), **{name: value})
    assert str(error.value) == f"{name} must lie between 0 and 1, got {value}."


def test_channels_missing():
    with pytest.raises(ValueError) as error:
        ALIF(ATan(), learnable=True, per_channel=True)
    assert str(error.value) == "per_channel needs channels, the number of channels of the layer."
