"""Networks with recurrent layers."""

import pytest
import torch
from torch import nn

from snnrun.model import Dropout, Layer, Recurrent, layers, parts
from snnrun.neuron import LIF
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.surrogate import ATan


def net(in_shape=(7,), norm=BatchNorm, **options) -> Recurrent:
    return Recurrent(lambda channels: LIF(ATan()), norm, Readout().head, in_shape, 10, **options)


def test_parameters():
    model = net((2, 3, 5), spec="40-R30")
    feedforward = (30 * 40 + 40) + (40 * 30 + 30) + (30 * 10 + 10)
    assert sum(p.numel() for p in model.parameters()) == feedforward + 30 * 30 + 2 * (40 + 30)
    assert model(torch.rand(4, 3, 2, 3, 5)).shape == (4, 3, 10)


def test_r_makes_a_layer_recurrent_and_without_bias():
    model = net(spec="R5-6-R7", dropout=0.2)
    loops = [layer.recurrent for _, layer in layers(model)]
    assert [type(loop) for loop in loops] == [nn.Linear, type(None), nn.Linear, type(None)]
    assert loops[0].bias is None and loops[0].weight.shape == (5, 5)
    kinds = [type(part) for _, part in parts(model)]
    assert kinds == [Layer, Dropout, Layer, Dropout, Layer, Dropout, Layer]


def test_equals_a_loop_by_hand():
    """Two layers, one of them recurrent, and the head, written out in float64."""
    torch.manual_seed(2)
    model = net(norm=lambda channels: None, spec="6-R5").double()
    first, second, head = (layer for _, layer in layers(model))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
        first.synapse.bias.add_(1)
        second.synapse.bias.add_(1)
    x = torch.rand(8, 4, 7, dtype=torch.float64)
    v = torch.zeros(4, 6, dtype=torch.float64)
    u = s = torch.zeros(4, 5, dtype=torch.float64)
    expected, rates = [], []
    for x_t in x:
        h = v + (first.synapse(x_t) - v) / 2
        hidden = (h >= 1).double()
        v = h * (1 - hidden)
        g = u + (second.synapse(hidden) + s @ second.recurrent.weight.T - u) / 2
        s = (g >= 1).double()
        u = g * (1 - s)
        rates.append(s.mean())
        expected.append(head.synapse(s))
    assert 0.02 < torch.stack(rates).mean() < 0.98
    torch.testing.assert_close(model(x), torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", ["", "r5", "5R", "R", "RR5", "R0", "0", "5-", "5-R", -5])
def test_wrong_spec(spec):
    with pytest.raises(ValueError) as error:
        net(spec=spec)
    assert str(error.value) == (
        f"model.spec must be layer sizes joined by '-', R before a recurrent one, got {spec!r}."
    )
