"""A current in the first step only."""

import pytest
import torch
from torch import nn

from snnrun.config import Choices, instantiate
from snnrun.encoder import ZeroExpand
from snnrun.model import over_time


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_first_step_only(steps):
    x = torch.randn(3, 2, 4)
    out = ZeroExpand(steps)(x)
    assert out.shape == (steps, 3, 2, 4)
    assert torch.equal(out[0], x) and not out[1:].any()
    assert torch.equal(out.sum(0), x)


@pytest.mark.parametrize("module", [nn.Linear(4, 3), nn.Conv2d(2, 3, 3, padding=1)])
def test_first_synapse_is_computed_once(module):
    x = torch.randn(5, 2, 4, 4) if isinstance(module, nn.Conv2d) else torch.randn(5, 4)
    rows = []
    hook = module.register_forward_hook(lambda m, args, out: rows.append(len(args[0])))
    out = over_time(module, ZeroExpand(6)(x))
    assert rows == [5]
    hook.remove()
    every = module(ZeroExpand(6)(x).flatten(0, 1)).unflatten(0, (6, 5))
    torch.testing.assert_close(out, every)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype(dtype):
    assert ZeroExpand(3)(torch.ones(2, 2, dtype=dtype)).dtype == dtype


def test_traits_and_yaml():
    assert ZeroExpand.traits == {"current"} and ZeroExpand.needs == {"static"}
    cfg = Choices().compose(["encoder=zero_expand", "dataset.steps=3"])
    assert instantiate(cfg.encoder, static=True)(torch.ones(1, 1)).flatten().tolist() == [1, 0, 0]
