"""Fully connected networks."""

import pytest
import torch

from snnrun.model import MLP, Dropout, Layer, layers, parts
from snnrun.model.mlp import sizes
from snnrun.neuron import LIF
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.surrogate import ATan


def net(in_shape=(1, 28, 28), norm=BatchNorm, **options) -> MLP:
    return MLP(lambda channels: LIF(ATan()), norm, Readout().head, in_shape, 10, **options)


def count(model: MLP) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_784_256_10():
    assert count(net()) == 784 * 256 + 256 + 512 + 2570
    assert count(net(bias=False)) == 784 * 256 + 512 + 2570
    assert count(net(norm=lambda channels: None)) == 784 * 256 + 256 + 2570


def test_layers_in_order():
    model = net(spec="40-30-20", dropout=0.1)
    assert [name for name, _ in layers(model)] == ["body.0", "body.2", "body.4", "head"]
    kinds = [type(part) for _, part in parts(model)]
    assert kinds == [Layer, Dropout, Layer, Dropout, Layer, Dropout, Layer]
    assert [layer.synapse.out_features for _, layer in layers(model)] == [40, 30, 20, 10]


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5), (2, 9)])
def test_input_of_any_shape_is_flattened(shape):
    model = net(shape, spec=6)
    assert model(torch.rand(4, 3, *shape)).shape == (4, 3, 10)


def test_linear_network():
    model = net((5,), spec="")
    x = torch.rand(4, 3, 5)
    torch.testing.assert_close(model(x), model.head.synapse(x))
    assert len(list(layers(model))) == 1


@pytest.mark.parametrize(
    ("spec", "expected"), [("400-300", [400, 300]), ("", []), (256, [256]), ("1", [1])]
)
def test_sizes(spec, expected):
    assert sizes(spec) == expected


@pytest.mark.parametrize(
    "spec", ["a", "400-", "-400", "400--300", "400,300", "R400", "0", "4-0", -3, " 4"]
)
def test_wrong_spec(spec):
    with pytest.raises(ValueError) as error:
        net(spec=spec)
    assert str(error.value) == (
        f"model.spec must be layer sizes joined by '-', such as 400-400, got {spec!r}."
    )
