"""Input neurons without a leak."""

import pytest
import torch

from snnrun.encoder import Integrate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gives_evenly_spaced_spikes_of_the_inputs_shape_and_dtype(dtype):
    x = torch.tensor([[0.0, 0.25, 0.5], [1.0, 2.0, -1.0]]).to(dtype)
    out = Integrate(8)(x)
    assert out.shape == (8, 2, 3) and out.dtype == dtype
    trains = ["".join(str(int(s)) for s in train) for train in out.flatten(1).T]
    assert trains == ["0" * 8, "00010001", "01010101", "1" * 8, "1" * 8, "0" * 8]


def test_counts_are_intensities():
    x = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = Integrate(50)(x).sum(0)
    assert torch.equal(Integrate(50)(x).sum(0), counts)
    assert (counts - 50 * x).abs().max() <= 1
