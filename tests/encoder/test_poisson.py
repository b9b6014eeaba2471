"""Rate coding."""

import pytest
import torch

from snnrun.config import Choices, instantiate
from snnrun.encoder import Poisson


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gives_spikes_of_the_inputs_shape_and_dtype(dtype):
    x = torch.rand(2, 3, 4).to(dtype)
    out = Poisson(5)(x)
    assert out.shape == (5, 2, 3, 4) and out.dtype == dtype
    assert set(out.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("gain", [1.0, 0.5, 2.0])
def test_rate_is_the_intensity_times_the_gain(gain):
    torch.manual_seed(0)
    x = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    n = 40_000
    rate = Poisson(n, gain)(x.unsqueeze(0)).mean(0)[0]
    p = (gain * x).clamp(max=1)
    error = 5 * (p * (1 - p) / n).sqrt()  # five standard deviations; 0 where it is certain
    assert ((rate - p).abs() <= error + 1e-6).all()


def test_out_of_range_is_clamped():
    out = Poisson(50)(torch.tensor([[-1.0, 2.0]]))
    assert not out[..., 0].any() and out[..., 1].all()


def test_steps_and_samples_are_drawn_apart():
    torch.manual_seed(0)
    out = Poisson(2)(torch.full((2, 1000), 0.5))
    rows = out.flatten(0, 1)
    for i in range(4):
        for j in range(i):
            assert 0.4 < (rows[i] == rows[j]).float().mean() < 0.6


def test_same_seed_same_spikes_and_fresh_ones_at_every_call():
    x, encoder = torch.rand(3, 50), Poisson(4).eval()
    torch.manual_seed(7)
    first, second = encoder(x), encoder(x)
    torch.manual_seed(7)
    assert torch.equal(encoder(x), first) and torch.equal(encoder(x), second)
    assert not torch.equal(first, second)


def test_traits_and_yaml():
    assert Poisson.traits == {"input_spikes"} and Poisson.needs == {"static", "intensity"}
    cfg = Choices().compose(["encoder=poisson", "dataset.steps=7", "encoder.gain=0"])
    out = instantiate(cfg.encoder, static=True)(torch.ones(2, 3))
    assert out.shape == (7, 2, 3) and not out.any()
