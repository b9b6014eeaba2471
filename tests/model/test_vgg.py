"""VGG: its layers, the grid that its head reads, and the size of the published one."""

import pytest
import torch
from torch import nn

from snnrun.model import VGG, Dropout, Pool
from snnrun.model.vgg import Grid
from snnrun.neuron import DSRLIF, IF, Neuron
from snnrun.norm import BatchNorm
from snnrun.readout import Readout, RepresentationReadout
from snnrun.surrogate import ATan


def neuron(channels: int) -> Neuron:
    return IF(ATan())


def made(in_shape=(3, 32, 32), **options) -> VGG:
    with torch.device("meta"):
        return VGG(neuron, BatchNorm, Readout().head, in_shape, 10, **options)


def test_the_published_size():
    """That of the authors' network for CIFAR10-DVS, thresholds included."""
    of = lambda channels: DSRLIF(ATan())  # noqa: E731
    head = RepresentationReadout(neuron=of, norm=BatchNorm).head
    with torch.device("meta"):
        net = VGG(of, BatchNorm, head, (2, 48, 48), 10)
    assert sum(p.numel() for p in net.parameters()) == 9_476_327
    assert net.head.synapse.in_features == 25_088
    assert net(torch.zeros(3, 2, 2, 48, 48, device="meta")).shape == (3, 2, 10)


@pytest.mark.parametrize(("depth", "convolutions"), [(11, 8), (13, 10), (16, 13), (19, 16)])
def test_depths(depth, convolutions):
    net = made(depth=depth)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == convolutions
    assert sum(isinstance(m, Dropout) for m in net.modules()) == convolutions
    pools = [m for m in net.modules() if isinstance(m, Pool)]
    assert [pool.kind for pool in pools] == ["avg"] * 5
    assert not any(isinstance(m, Dropout) for m in made(dropout=0.0).modules())
    assert {m.kind for m in made(pool="max").modules() if isinstance(m, Pool)} == {"max"}


def test_small_images_are_pooled_as_long_as_something_is_left():
    net = made((3, 8, 12), grid=1)
    assert sum(isinstance(m, Pool) for m in net.modules()) == 3
    assert net(torch.zeros(2, 1, 3, 8, 12, device="meta")).shape == (2, 1, 10)


def test_a_grid_averages_or_repeats():
    x = torch.rand(3, 2, 4, 4, 4)
    whole = Grid(2)(x)
    torch.testing.assert_close(whole[..., 0, 1], x[..., :2, 2:].mean((-2, -1)))
    assert torch.equal(Grid(7)(x[..., :1, :1]), x[..., :1, :1].expand(3, 2, 4, 7, 7))


def test_initial_weights():
    torch.manual_seed(0)
    net = VGG(neuron, BatchNorm, Readout().head, (3, 32, 32), 10)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (9 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is not None and not module.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 12}, "model.depth must be 11, 13, 16 or 19, got 12."),
        ({"pool": "sum"}, "model.pool must be avg or max, got 'sum'."),
        ({"grid": 0}, "model.grid must be at least 1, got 0."),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        made(**options)
    assert str(error.value) == message
