"""Nets of blocks and pools for event cameras."""

import pytest
import torch
from torch import nn

from snnrun.model import EventResNet, Layer, Pool
from snnrun.model.event_resnet import units
from snnrun.model.residual import PlainBlock, SEWBlock, SpikingBlock
from snnrun.neuron import IF, PLIF
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan


def head(features: int, classes: int) -> Layer:
    return Layer(nn.Linear(features, classes), None, None)


def net(in_shape=(2, 128, 128), classes: int = 11, neuron=PLIF, **more) -> EventResNet:
    return EventResNet(lambda c: neuron(ATan()), BatchNorm, head, in_shape, classes, **more)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("32C1-BP2x2", "32C1 B P2 B P2"),
        ("32C3-B16Bx2-P2", "32C3 B16 B B16 B P2"),
        ("B", "B"),
        ("4C1Bx10", " ".join(["4C1 B"] * 10)),
    ],
)
def test_words(spec, words):
    assert [m[0] for m in units(spec)] == words.split()


@pytest.mark.parametrize("spec", ["", "32C", "P", "B-", "32C1-Q2", "(B-P2)x7", "0C1", "B x2"])
def test_unreadable_specs(spec):
    with pytest.raises(ValueError, match=r"model\.spec: cannot read '.*' in "):
        net(spec=spec)


def test_published_sizes():
    with torch.device("meta"):
        for block in ("sew", "spiking", "plain"):
            assert sum(p.numel() for p in net(block=block).parameters()) == 130_426
        wide = net(classes=10, spec="64C1-BP2x4-128C1-BP2x3")
        assert sum(p.numel() for p in wide.parameters()) == 1_192_218


@pytest.mark.parametrize(
    ("block", "kind"), [("sew", SEWBlock), ("spiking", SpikingBlock), ("plain", PlainBlock)]
)
def test_parts_in_their_order(block, kind):
    network = net((2, 12, 12), spec="4C1-B2P2-6C3-B-P3", block=block)
    kinds = [Layer, kind, Pool, Layer, kind, Pool]
    assert [type(m) for m in network.body] == kinds
    first, middle = network.body[1].path[0].synapse, network.body[3].synapse
    assert (first.in_channels, first.out_channels, first.kernel_size) == (4, 2, (3, 3))
    assert (middle.out_channels, middle.kernel_size) == (6, (3, 3))
    assert network.head.synapse.in_features == 6 * 2 * 2
    assert network(torch.rand(3, 2, 2, 12, 12)).shape == (3, 2, 11)


def test_pools_that_leave_nothing_are_named():
    with pytest.raises(ValueError) as error:
        net((2, 34, 34))
    assert str(error.value) == (
        "model.spec: nothing is left of the image (2, 34, 34) after 'P2', layer 13 of '32C1-BP2x7'."
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"block": "dense"}, "model.block must be sew, spiking or plain, got 'dense'"),
        ({"block": "plain", "connect": "and"}, "model.connect=and has no effect with model.block"),
        ({"block": "plain", "zero_init_residual": True}, "model.zero_init_residual has no effect"),
    ],
)
def test_settings_that_do_not_go_together(more, message):
    with pytest.raises(ValueError, match=message):
        net(**more)


@pytest.mark.parametrize("more", [{"connect": "iand"}, {"block": "spiking"}, {"connect": "and"}])
def test_zero_init_makes_blocks_the_identity(more):
    torch.manual_seed(0)
    network = net((2, 12, 12), neuron=IF, spec="4C1-B", zero_init_residual=True, **more)
    x = 3 * torch.rand(3, 2, 2, 12, 12)
    stem = network.body[0](x)
    assert torch.equal(network.body(x), stem) and stem.any()
