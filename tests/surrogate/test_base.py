"""What holds of every surrogate: the step it makes forward, and its derivative backward."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch

from snnrun.config import Choices, instantiate
from snnrun.surrogate import Surrogate

CHOICES = Choices()
OPTIONS = CHOICES.options("surrogate")
SHARP = {"rectangle", "dspike"}  # jump at their edges
SIGNED = {"multi_gaussian"}  # negative lobes
FLOORED = {"clipped_sigmoid"}  # does not fall to zero
every_option = pytest.mark.parametrize("option", OPTIONS)


@functools.cache
def build(option: str) -> Surrogate:
    return instantiate(CHOICES.compose([f"surrogate={option}"]).surrogate)


def grid(n: int = 4001, reach: float = 3.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.linspace(-reach, reach, n, dtype=dtype)


@every_option
def test_derivative_is_even_and_largest_at_the_threshold(option):
    v = grid()
    slope = build(option).derivative(v)
    assert slope.shape == v.shape and slope.isfinite().all()
    torch.testing.assert_close(slope, slope.flip(0), rtol=1e-12, atol=1e-12)
    middle = slope[2000]
    assert middle > 0 and middle == slope.max()
    assert slope[2000:].diff().max() <= 1e-15 or option in SIGNED


@every_option
def test_derivative_is_nonnegative_unless_it_has_lobes(option):
    slope = build(option).derivative(grid())
    assert (slope.min() < 0) == (option in SIGNED)


@every_option
def test_derivative_is_continuous_unless_it_is_a_box(option):
    v = grid(600_001)
    jump = build(option).derivative(v).diff().abs().max()
    assert (jump > 0.1) == (option in SHARP)


@every_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(option, dtype):
    v = torch.tensor([[-1.0, -0.25, 0.0, 0.25, 1.0]], dtype=dtype, requires_grad=True)
    surrogate = build(option)
    s = surrogate(v)
    assert s.dtype == dtype and s.shape == v.shape
    assert surrogate.derivative(v.detach()).dtype == dtype
    s.sum().backward()
    assert v.grad is not None and v.grad.dtype == dtype and v.grad.isfinite().all()


@every_option
def test_forward_is_the_step_and_strict_excludes_zero(option):
    tiny = np.nextafter(0.0, 1.0)
    v = torch.tensor([-2.0, -tiny, -0.0, 0.0, tiny, 2.0], dtype=torch.float64)
    surrogate = build(option)
    assert surrogate(v).tolist() == [0, 0, 1, 1, 1, 1]
    assert surrogate(v, strict=True).tolist() == [0, 0, 0, 0, 1, 1]


@every_option
@pytest.mark.parametrize("strict", [True, False])
def test_backward_is_the_derivative(option, strict):
    v = grid(101).requires_grad_()
    weights = torch.linspace(-1, 2, 101, dtype=torch.float64)
    surrogate = build(option)
    (surrogate(v, strict) * weights).sum().backward()
    assert v.grad is not None
    torch.testing.assert_close(
        v.grad, weights * surrogate.derivative(v.detach()), rtol=1e-14, atol=0
    )


@every_option
def test_far_away_is_finite(option):
    v = torch.tensor([-1e30, -1e4, 1e4, 1e30], requires_grad=True)
    surrogate = build(option)
    surrogate(v).sum().backward()
    assert v.grad is not None and v.grad.isfinite().all()
    assert v.grad.abs().max() < (2e-3 if option in FLOORED else 1e-4)


@every_option
def test_has_no_parameters_and_can_be_copied(option):
    surrogate = build(option)
    v = grid(11)
    for copied in (copy.deepcopy(surrogate), pickle.loads(pickle.dumps(surrogate))):
        assert torch.equal(copied.derivative(v), surrogate.derivative(v))
    assert not surrogate.state_dict()
    assert "surrogate" in surrogate.traits


@every_option
def test_empty_and_scalar(option):
    surrogate = build(option)
    assert surrogate(torch.zeros(0, 3)).shape == (0, 3)
    assert surrogate(torch.tensor(0.5)).item() == 1


def test_a_surrogate_without_derivative_says_so():
    with pytest.raises(NotImplementedError) as error:
        Surrogate().derivative(torch.zeros(1))
    assert str(error.value) == "Surrogate must define derivative(v)."
