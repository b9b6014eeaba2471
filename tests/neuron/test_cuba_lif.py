"""The LIF neuron with a synaptic current of its own."""

import math

import numpy as np
import pytest
import torch

from snnrun.neuron import CubaLIF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


def test_three_steps_by_hand():
    neuron = CubaLIF(ATan())  # decays 0.5 and 0.75, threshold 0.5
    # 1: c 0.5, h 0.5: equal to the threshold does not fire
    # 2: c 0.5, h 0.875 fires: v 0
    # 3: c 0.25, h 0.25
    expected = [(0, 0.5, 0.5), (1, 0.5, 0.0), (0, 0.25, 0.25)]
    with carry(neuron):
        for current, (spike, c, v) in zip((0.5, 0.25, 0.0), expected, strict=True):
            assert neuron(torch.tensor([[[current]]])).item() == spike
            state = recall(neuron)
            assert state is not None
            assert [part.item() for part in state] == [c, v]


def test_fires_above_the_threshold_only():
    above = np.nextafter(np.float32(0.5), np.float32(1)).item()
    assert CubaLIF(ATan())(torch.tensor([[[0.5, above]]])).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_by_the_chain_rule(detach):
    """Both paths backwards in time: the potential, and the current that outlives a spike."""
    d_c, d_v = np.array([0.3, 0.5, 0.8]), np.array([0.75, 0.9, 0.4])
    rest, alpha = 0.6, 2.5
    generator = np.random.default_rng(4)
    x, weights = generator.normal(0.1, 0.4, (8, 5, 3)), generator.normal(size=(8, 5, 3))
    c, v = np.zeros((5, 3)), np.zeros((5, 3))
    h, s, v_before, c_before = [], [], [], []
    for x_t in x:
        v_before.append(v)
        c_before.append(c)
        c = d_c * c + x_t
        h.append(d_v * v + c)
        s.append((h[-1] > rest).astype(float))
        v = h[-1] * (1 - s[-1])
    of_x, of_v, of_c = np.zeros_like(x), np.zeros(3), np.zeros(3)
    grad_v, grad_c = np.zeros((5, 3)), np.zeros((5, 3))
    for t in reversed(range(8)):
        slope = alpha / 2 / (1 + (np.pi / 2 * alpha * (h[t] - rest)) ** 2)
        grad_s = weights[t] - (0 if detach else grad_v * h[t])
        grad_h = grad_s * slope + grad_v * (1 - s[t])
        grad_c = grad_c + grad_h
        of_x[t] = grad_c
        of_v += (grad_h * v_before[t] * d_v * (1 - d_v)).sum(0)
        of_c += (grad_c * c_before[t] * d_c * (1 - d_c)).sum(0)
        grad_v, grad_c = grad_h * d_v, grad_c * d_c
    neuron = CubaLIF(
        ATan(alpha),
        threshold=rest,
        detach_reset=detach,
        learnable=True,
        per_channel=True,
        channels=3,
    ).double()
    assert neuron.w is not None and neuron.w_current is not None
    with torch.no_grad():
        neuron.w.copy_(torch.from_numpy(np.log(d_v / (1 - d_v))))
        neuron.w_current.copy_(torch.from_numpy(np.log(d_c / (1 - d_c))))
    given = torch.from_numpy(x).requires_grad_()
    out = neuron(given)
    assert 0.1 < np.mean(s) < 0.9
    np.testing.assert_array_equal(out.detach().numpy(), s)
    (out * torch.from_numpy(weights)).sum().backward()
    for p, expected in ((given, of_x), (neuron.w, of_v), (neuron.w_current, of_c)):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_learnable_decays_start_where_they_are_set():
    neuron = CubaLIF(ATan(), current_decay=0.2, decay=0.9, learnable=True)
    assert neuron.w is not None and neuron.w_current is not None
    assert neuron.w.item() == pytest.approx(math.log(0.9 / 0.1))
    assert neuron.w_current.item() == pytest.approx(math.log(0.2 / 0.8))


@pytest.mark.parametrize("name", ["current_decay", "decay"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5])
def test_decay_out_of_range(name, value):
    with pytest.raises(ValueError) as error:
        CubaLIF(ATan(), **{name: value})
    assert str(error.value) == f"{name} must lie between 0 and 1, got {value}."


def test_channels_missing():
    with pytest.raises(ValueError) as error:
        CubaLIF(ATan(), learnable=True, per_channel=True)
    assert str(error.value) == "per_channel needs channels, the number of channels of the layer."
