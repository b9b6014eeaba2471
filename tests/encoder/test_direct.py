"""Direct coding."""

import pytest
import torch

from snnrun.config import Choices, instantiate
from snnrun.encoder import Direct


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_static_input_is_repeated_without_a_copy(shape, steps):
    x = torch.randn(shape)
    out = Direct(steps, static=True)(x)
    assert out.shape == (steps, *shape)
    assert out.stride(0) == 0 or steps == 1
    assert out.data_ptr() == x.data_ptr()
    assert all(torch.equal(out[t], x) for t in range(steps))


def test_a_sequence_is_passed_on():
    x = torch.randn(4, 2, 3)
    assert Direct(4, static=False)(x) is x


def test_gradient_is_the_sum_over_time():
    x = torch.randn(2, 3, requires_grad=True)
    Direct(5, static=True)(x).sum().backward()
    assert x.grad is not None and (x.grad == 5).all()


def test_traits_and_yaml():
    assert Direct.traits == {"current"} and not hasattr(Direct, "needs")
    cfg = Choices().compose(["encoder=direct", "dataset.steps=7"])
    assert instantiate(cfg.encoder, static=True)(torch.zeros(2, 3)).shape == (7, 2, 3)
