"""The leaky integrate-and-fire neuron and its switches."""

import math

import numpy as np
import pytest
import torch

from snnrun.neuron import LIF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


def run(neuron: LIF, currents: list[float]) -> tuple[list[float], list[float]]:
    """Spikes and potentials after each step of one neuron, exactly as binary fractions allow."""
    out, potentials = [], []
    with carry(neuron):
        for current in currents:
            out.append(neuron(torch.tensor([[[current]]])).item())
            state = recall(neuron)
            assert state is not None
            potentials.append(state[0].item())
    return out, potentials


def test_hard_reset_by_hand():
    # tau 2: h = (v + x) / 2: 0.75, 1.375 fires -> 0, 1.0 fires on equality -> 0, 0.25
    spikes, v = run(LIF(ATan()), [1.5, 2.0, 2.0, 0.5])
    assert spikes == [0, 1, 1, 0]
    assert v == [0.75, 0, 0, 0.25]


def test_soft_reset_by_hand():
    # h: 0.75, 1.375 fires -> 0.375, 1.1875 fires -> 0.1875, 0.34375
    spikes, v = run(LIF(ATan(), reset="soft"), [1.5, 2.0, 2.0, 0.5])
    assert spikes == [0, 1, 1, 0]
    assert v == [0.75, 0.375, 0.1875, 0.34375]


def test_no_reset_by_hand():
    # h: 0.75, 1.375 fires and stays, 0.6875
    spikes, v = run(LIF(ATan(), reset="none"), [1.5, 2.0, 0.0])
    assert spikes == [0, 1, 0]
    assert v == [0.75, 1.375, 0.6875]


def test_input_that_does_not_decay_by_hand():
    # tau 4: h = 3/4 v + x: 0.5, 0.875, 1.15625 fires -> 0, 0.5
    spikes, v = run(LIF(ATan(), tau=4.0, decay_input=False), [0.5] * 4)
    assert spikes == [0, 0, 1, 0]
    assert v == [0.5, 0.875, 0, 0.5]


def test_reset_value_by_hand():
    # rest -0.5, tau 2: h = v + (x - (v + 0.5)) / 2: -0.5 -> 0.25, 0.375, 1.1875 fires -> -0.5
    spikes, v = run(LIF(ATan(), reset_value=-0.5), [1.5, 1.0, 2.5])
    assert spikes == [0, 0, 1]
    assert v == [0.25, 0.375, -0.5]


def test_reset_value_without_input_decay_by_hand():
    # h = v - (v + 0.5) / 2 + x: -0.5 -> 0.25, 0.375 ; threshold 0.375 is met -> -0.5
    spikes, v = run(
        LIF(ATan(), threshold=0.375, reset_value=-0.5, decay_input=False), [0.75, 0.5, 0.25]
    )
    assert spikes == [0, 1, 0]
    assert v == [0.25, -0.5, -0.25]


def test_fires_at_the_threshold_and_not_below():
    below = np.nextafter(np.float32(2), np.float32(0)).item()
    assert run(LIF(ATan()), [2.0])[0] == [1]
    assert run(LIF(ATan()), [below])[0] == [0]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("decay_input", [True, False])
def test_gradients_by_the_chain_rule(reset, detach, decay_input):
    """dL/dx and dL/dw of a learnable time constant a channel, written out backwards in time."""
    threshold, rest, alpha, tau = 0.8, -0.3, 3.0, 2.5
    generator = np.random.default_rng(7)
    x, weights = generator.normal(1.0, 1.3, (7, 5, 4)), generator.normal(size=(7, 5, 4))
    w = np.array([-0.6, -0.2, 0.1, 0.5])
    k = 1 / (1 + np.exp(-w))
    v, h, s, drift = np.full((5, 4), rest), [], [], []
    for x_t in x:
        drift.append(v - rest)
        h.append(v + k * (x_t - drift[-1]) if decay_input else v - k * drift[-1] + x_t)
        s.append((h[-1] >= threshold).astype(float))
        v = {
            "hard": np.where(s[-1] == 1, rest, h[-1]),
            "soft": h[-1] - threshold * s[-1],
            "none": h[-1],
        }[reset]
    of_x, of_w, grad_v = np.zeros_like(x), np.zeros(4), np.zeros((5, 4))
    for t in reversed(range(7)):
        slope = alpha / 2 / (1 + (np.pi / 2 * alpha * (h[t] - threshold)) ** 2)
        through = {"hard": 1 - s[t], "soft": np.ones((5, 4)), "none": np.ones((5, 4))}[reset]
        if not detach:
            through = through + slope * {"hard": rest - h[t], "soft": -threshold, "none": 0}[reset]
        grad_h = weights[t] * slope + grad_v * through
        of_x[t] = grad_h * (k if decay_input else 1)
        of_k = x[t] - drift[t] if decay_input else -drift[t]
        of_w += (grad_h * of_k * k * (1 - k)).sum(0)
        grad_v = grad_h * (1 - k)
    neuron = LIF(
        ATan(alpha), tau, threshold, reset, rest, decay_input, detach, True, True, channels=4
    ).double()
    assert neuron.w is not None
    with torch.no_grad():
        neuron.w.copy_(torch.from_numpy(w))
    given = torch.from_numpy(x).requires_grad_()
    out = neuron(given)
    assert 0.1 < np.mean(s) < 0.9
    np.testing.assert_array_equal(out.detach().numpy(), s)
    (out * torch.from_numpy(weights)).sum().backward()
    assert given.grad is not None and neuron.w.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), of_x, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(neuron.w.grad.numpy(), of_w, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("tau", [1.25, 2.0, 20.0])
@pytest.mark.parametrize("decay_input", [True, False])
def test_learnable_starts_as_the_fixed_one(tau, decay_input):
    fixed = LIF(ATan(), tau, decay_input=decay_input)
    learnable = LIF(ATan(), tau, decay_input=decay_input, learnable=True).double()
    x = torch.randn(9, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    for one, other in zip(
        torch.autograd.grad(fixed(x.requires_grad_()).sum(), x),
        torch.autograd.grad(learnable(x).sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert learnable.w is not None
    assert learnable.w.item() == pytest.approx(-math.log(tau - 1))


def test_channels_are_dimension_one():
    neuron = LIF(ATan(), learnable=True, per_channel=True, channels=2)
    assert neuron.w is not None
    with torch.no_grad():
        neuron.w.copy_(torch.tensor([-20.0, 20.0]))  # 1/tau is 0 and 1
    out = neuron(torch.full((1, 3, 2, 4, 5), 2.0))
    assert not out[:, :, 0].any() and out[:, :, 1].all()


@pytest.mark.parametrize("tau", [1, 0.5])
def test_tau_without_memory(tau):
    with pytest.raises(ValueError) as error:
        LIF(ATan(), tau=tau)
    assert str(error.value) == (
        f"tau must be above 1, got {tau}. With tau=1 the neuron has no memory; raise tau,"
        " or use neuron=if for one that does not leak."
    )


def test_wrong_reset():
    with pytest.raises(ValueError) as error:
        LIF(ATan(), reset="subtract")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == "reset must be hard, soft or none, got 'subtract'."


def test_channels_missing():
    with pytest.raises(ValueError) as error:
        LIF(ATan(), learnable=True, per_channel=True)
    assert str(error.value) == "per_channel needs channels, the number of channels of the layer."
