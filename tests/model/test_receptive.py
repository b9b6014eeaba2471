"""Neurons that read their inputs one by one: a weighted sum of them is what the synapse computes."""

import pytest
import torch
from torch import Tensor, nn

from snnrun.metric import margins
from snnrun.model import Layer
from snnrun.model.receptive import by_input
from snnrun.neuron import RelPSP

CONVOLUTIONS = (
    {},
    {"stride": 2, "padding": 1},
    {"padding": (2, 0), "dilation": (1, 2)},
    {"padding": "same", "dilation": (3, 2)},
    {"padding": "valid", "groups": 2},
    {"padding": 1, "groups": 4, "stride": (1, 2)},
)


def added(rows: Tensor, weight: Tensor) -> Tensor:
    return rows @ weight.t()


@pytest.mark.parametrize("how", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_sums_are_those_of_the_convolution(how, memory):
    torch.manual_seed(0)
    synapse = nn.Conv2d(4, 8, (3, 2), bias=False, **how).double()
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64).to(memory_format=memory)
    out, expected = by_input(added, synapse, x, 0.0), synapse(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_sums_are_those_of_the_linear_map():
    synapse, x = nn.Linear(4, 3, bias=False), torch.randn(5, 4)
    torch.testing.assert_close(by_input(added, synapse, x, 0.0), synapse(x))


@pytest.mark.parametrize("synapse", [nn.Linear(2, 2), nn.Identity(), nn.Conv2d(2, 2, 1)], ids=str)
def test_what_cannot_be_read_so(synapse):
    with pytest.raises(ValueError, match=r"one by one through nn\.Linear or nn\.Conv2d"):
        by_input(added, synapse, torch.zeros(1, 2, 3, 3), 0.0)


def test_margins_are_those_of_the_module():
    for how in CONVOLUTIONS:
        convolution = nn.Conv2d(4, 8, (3, 2), **how)
        before, after = margins(convolution)
        left, right, top, bottom = convolution._reversed_padding_repeated_twice
        assert (before, after) == ([top, left], [bottom, right])


def test_a_layer_of_spike_times_is_dense_at_every_place():
    """Beyond the image nothing fires: each place alone is a dense layer over what it reads."""
    torch.manual_seed(0)
    synapse = nn.Conv2d(2, 5, 3, padding=1, bias=False).double()
    x = torch.rand(1, 2, 2, 4, 4, dtype=torch.float64)
    x[x > 0.8] = torch.inf
    out = Layer(synapse, None, RelPSP())(x)
    assert out.shape == (1, 2, 5, 4, 4)
    padded = nn.functional.pad(x[0], (1, 1, 1, 1), value=torch.inf)
    for row in range(4):
        for column in range(4):
            read = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            dense = nn.Linear(18, 5, bias=False)
            dense.weight = nn.Parameter(synapse.weight.detach().flatten(1))
            expected = Layer(dense, None, RelPSP())(read[None])
            torch.testing.assert_close(out[:, :, :, row, column], expected, rtol=1e-12, atol=0)
    assert out.isfinite().any() and out.isinf().any()
