"""The neuron without a leak."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snnrun.neuron import IF, carry
from snnrun.neuron.base import recall
from snnrun.surrogate import ATan


def run(neuron: IF, currents: list[float]) -> tuple[list[float], list[float]]:
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
    # h: 0.75, 1.25 fires -> 0, 0.5, 1.0 fires on equality -> 0
    spikes, v = run(IF(ATan()), [0.75, 0.5, 0.5, 0.5])
    assert spikes == [0, 1, 0, 1]
    assert v == [0.75, 0, 0.5, 0]


def test_soft_reset_by_hand():
    # h: 0.75, 1.25 fires -> 0.25, 0.75, 1.25 fires -> 0.25
    spikes, v = run(IF(ATan(), reset="soft"), [0.75, 0.5, 0.5, 0.5])
    assert spikes == [0, 1, 0, 1]
    assert v == [0.75, 0.25, 0.75, 0.25]


def test_no_reset_by_hand():
    spikes, v = run(IF(ATan(), reset="none"), [0.75, 0.5, -0.5, 0.25])
    assert spikes == [0, 1, 0, 1]
    assert v == [0.75, 1.25, 0.75, 1.0]


def test_reset_value_and_threshold_by_hand():
    # starts at -0.25; h: 0.25, 0.75 fires (threshold 0.5) -> -0.25, 0.25
    spikes, v = run(IF(ATan(), threshold=0.5, reset_value=-0.25), [0.5, 0.5, 0.5])
    assert spikes == [0, 1, 0]
    assert v == [0.25, -0.25, 0.25]


def test_fires_at_the_threshold_and_not_below():
    below = np.nextafter(np.float32(1), np.float32(0)).item()
    assert run(IF(ATan()), [1.0])[0] == [1]
    assert run(IF(ATan()), [below])[0] == [0]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_gradient_by_the_chain_rule(reset, detach):
    """dL/dx backwards in time: dv/dh = 1 - s (hard), 1 (soft, none), and the reset's own path."""
    threshold, rest, alpha = 0.8, -0.3, 3.0
    generator = np.random.default_rng(5)
    x, weights = generator.normal(0.5, 0.6, (7, 4)), generator.normal(size=(7, 4))
    v, h, s = np.full(4, rest), [], []
    for x_t in x:
        h.append(v + x_t)
        s.append((h[-1] >= threshold).astype(float))
        v = {
            "hard": np.where(s[-1] == 1, rest, h[-1]),
            "soft": h[-1] - threshold * s[-1],
            "none": h[-1],
        }[reset]
    expected, grad_v = np.zeros_like(x), np.zeros(4)
    for t in reversed(range(7)):
        slope = alpha / 2 / (1 + (np.pi / 2 * alpha * (h[t] - threshold)) ** 2)
        through = {"hard": 1 - s[t], "soft": np.ones(4), "none": np.ones(4)}[reset]
        if not detach:
            through = through + slope * {"hard": rest - h[t], "soft": -threshold, "none": 0}[reset]
        grad_v = weights[t] * slope + grad_v * through  # now of h; dh/dv = dh/dx = 1
        expected[t] = grad_v
    neuron = IF(ATan(alpha), threshold, reset, rest, detach)
    given = torch.from_numpy(x).requires_grad_()
    out: Tensor = neuron(given)
    assert 0.1 < np.mean(s) < 0.9
    np.testing.assert_array_equal(out.detach().numpy(), s)
    (out * torch.from_numpy(weights)).sum().backward()
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), expected, rtol=1e-12)


def test_unknown_reset():
    with pytest.raises(ValueError) as error:
        IF(ATan(), reset="sfot")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == "reset must be hard, soft or none, got 'sfot'."
