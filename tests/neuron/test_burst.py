"""The neuron that fires several times a step."""

import pytest
import torch
from torch import Tensor

from snnrun.neuron import IF, Burst
from snnrun.surrogate import ATan


def drawn(steps: int = 30) -> Tensor:
    return torch.randn(steps, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.4


def test_three_steps_by_hand():
    # 1: h 2.5, two spikes, 0.5 left; 2: h 4.5, three at most, 1.5 left; 3: h 1.25, one, 0.25 left
    x = torch.tensor([2.5, 4.0, -0.25]).view(3, 1, 1)
    assert Burst(ATan(), gamma=3)(x).flatten().tolist() == [2, 3, 1]
    assert Burst(ATan(), gamma=3, reset="hard")(x).flatten().tolist() == [2, 3, 0]


def test_a_multiple_of_the_threshold_fires_and_a_negative_potential_is_kept():
    x = torch.tensor([-1.0, 2.0, 1.0]).view(3, 1, 1)
    assert Burst(ATan(), threshold=0.5)(x).flatten().tolist() == [0, 2, 2]


@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_a_floor_that_is_clipped(gamma):
    x, v, expected = drawn() * 3, torch.zeros(4, 5), []
    for x_t in x:
        v = v + x_t
        k = (v / 0.75).floor().clamp(0, gamma)
        v = v - 0.75 * k
        expected.append(k)
    assert torch.equal(Burst(ATan(), threshold=0.75, gamma=gamma)(x), torch.stack(expected))
    assert torch.stack(expected).max() == gamma


def test_one_spike_a_step_is_the_if_neuron():
    x = drawn().requires_grad_()
    weights = drawn()
    found = []
    for neuron in (Burst(ATan(), gamma=1), IF(ATan(), reset="soft")):
        out = neuron(x)
        found.append((out, *torch.autograd.grad((out * weights).sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Burst(ATan(), gamma=0)
    with pytest.raises(ValueError, match="reset must be hard or soft, got 'none'"):
        Burst(ATan(), reset="none")  # pyright: ignore[reportArgumentType]
