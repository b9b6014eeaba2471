"""The pre-activation ResNet: its parts, and the sizes of the published ones."""

import pytest
import torch
from torch import nn

from snnrun.model import Dropout, Layer, Pool, PreActResNet, layers
from snnrun.model.preact_resnet import PreActBlock, convolutions
from snnrun.neuron import DSRIF, IF, Neuron
from snnrun.norm import BatchNorm
from snnrun.readout import Readout, RepresentationReadout
from snnrun.surrogate import ATan


def neuron(channels: int) -> Neuron:
    return IF(ATan())


def made(in_shape=(3, 32, 32), classes=10, head=None, of=neuron, **options) -> PreActResNet:
    with torch.device("meta"):
        return PreActResNet(of, BatchNorm, head or Readout().head, in_shape, classes, **options)


@pytest.mark.parametrize(("classes", "parameters"), [(10, 11_176_945), (100, 11_223_295)])
def test_published_sizes(classes, parameters):
    """Those of the authors' networks, thresholds included."""
    of = lambda channels: DSRIF(ATan())  # noqa: E731
    head = RepresentationReadout(neuron=of, norm=BatchNorm).head
    net = made(classes=classes, head=head, of=of)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(isinstance(m, Neuron) for m in net.modules()) == 2 * 8 + 3


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_depths_count_the_layers_with_weights(depth):
    net = made((3, 224, 224), 1000, depth=depth)
    found = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = [b.shortcut for b in net.modules() if isinstance(b, PreActBlock)]
    assert len(found) - sum(isinstance(s, Layer) for s in shortcuts) == depth
    out = net(torch.zeros(2, 1, 3, 224, 224, device="meta"))
    assert out.shape == (2, 1, 1000)


def test_what_a_large_stem_changes():
    small, large = made(), made((3, 224, 224))
    assert (small.stem.norm, type(small.stem.neuron)) == (None, nn.Identity)
    assert isinstance(large.stem.norm, BatchNorm) and isinstance(large.stem.neuron, IF)
    assert isinstance(large.pool, Pool) and large.pool.kind == "avg"
    for net, biased in ((small, True), (large, False)):
        inner = [m for b in net.stages.modules() if isinstance(b, PreActBlock) for m in b.modules()]
        assert {m.bias is not None for m in inner if isinstance(m, nn.Conv2d)} == {biased}
        shortcuts = [b.shortcut for b in net.modules() if isinstance(b, PreActBlock)]
        norms = {s.norm is None for s in shortcuts if isinstance(s, Layer)}
        assert norms == {biased} and sum(isinstance(s, Layer) for s in shortcuts) == 3
    assert made(stem="imagenet").stem.synapse.kernel_size == (7, 7)


def test_a_block_adds_what_its_path_makes_of_spikes_to_the_spikes():
    block = PreActBlock(neuron, BatchNorm, 4, convolutions(4, 1, False, True)).eval()
    assert isinstance(block.shortcut, nn.Identity)
    x = 3 * torch.rand(3, 2, 4, 5, 5)
    spikes = block.pre(x)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(block(x), block.path(spikes) + spikes)
    wider = PreActBlock(neuron, BatchNorm, 4, convolutions(8, 2, False, True)).eval()
    torch.testing.assert_close(wider(x), wider.path(spikes) + wider.shortcut(spikes))
    assert wider(x).shape == (3, 2, 8, 3, 3)


def test_the_first_convolution_of_a_bottleneck_strides():
    path = convolutions(2, 2, True, False)
    assert [(c.channels, c.kernel, c.stride) for c in path] == [(2, 1, 2), (2, 3, 1), (8, 1, 1)]


def test_places_of_dropout():
    small, large = made(dropout=0.2), made((3, 224, 224), dropout=0.2, depth=50)
    for net, more in ((small, 1), (large, 0)):
        blocks = [m for m in net.modules() if isinstance(m, PreActBlock)]
        assert all(isinstance(block.path[-2], Dropout) for block in blocks)
        assert sum(isinstance(m, Dropout) for m in net.modules()) == len(blocks) + more


def test_initial_weights():
    torch.manual_seed(0)
    net = PreActResNet(neuron, BatchNorm, Readout().head, (3, 32, 32), 10, width=32)
    for _, layer in layers(net):
        if isinstance(layer.synapse, nn.Conv2d):
            fan_out = layer.synapse.out_channels * layer.synapse.kernel_size[0] ** 2
            assert layer.synapse.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert not net.head.synapse.bias.any()  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "model.depth must be one of 18, 34, 50, 101, 152, got 20."),
        ({"stem": "deep"}, "model.stem must be auto, imagenet or small, got 'deep'."),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        made(**options)
    assert str(error.value) == message
