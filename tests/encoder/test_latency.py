"""Time-to-first-spike coding."""

import pytest
import torch

from snnrun.config import Choices, instantiate
from snnrun.encoder import Latency


def times(out: torch.Tensor) -> list[int]:
    """The time of the one spike of each input; -1 for none."""
    assert (out.sum(0) <= 1).all()
    return [int(column.argmax()) if column.any() else -1 for column in out.flatten(1).T]


def test_times_by_hand():
    # five steps: t = round(4 (1 - x)); half a step rounds to the even one
    x = torch.tensor([[1.0, 0.9, 0.75, 0.7, 0.5, 0.3, 0.25, 0.1, 1e-6, 0.0]])
    assert times(Latency(5)(x)) == [0, 0, 1, 1, 2, 3, 3, 4, 4, -1]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_each_input_above_the_floor_fires_once(steps):
    x = torch.linspace(0, 1, 101).view(1, 101)
    out = Latency(steps, floor=0.3)(x)
    assert out.shape == (steps, 1, 101)
    assert torch.equal(out.sum(0), (x > 0.3).float())


def test_brighter_is_never_later():
    found = times(Latency(9)(torch.linspace(0.01, 1, 100).view(1, 100)))
    assert found == sorted(found, reverse=True) and found[-1] == 0 and found[0] == 8


def test_the_floor_itself_is_silent():
    assert times(Latency(3, floor=0.5)(torch.tensor([[0.5, 0.6]]))) == [-1, 1]


def test_brighter_than_one_is_one():
    assert times(Latency(4)(torch.tensor([[1.7, -0.5]]))) == [0, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_shape(dtype):
    out = Latency(4)(torch.rand(2, 3, 5, 5).to(dtype))
    assert out.shape == (4, 2, 3, 5, 5) and out.dtype == dtype


def test_traits_and_yaml():
    assert Latency.traits == {"input_spikes"} and Latency.needs == {"static", "intensity"}
    cfg = Choices().compose(["encoder=latency", "dataset.steps=3", "encoder.floor=0.9"])
    assert times(instantiate(cfg.encoder, static=True)(torch.tensor([[1.0, 0.8]]))) == [0, -1]
