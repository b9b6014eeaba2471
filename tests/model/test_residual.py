"""Residual blocks, their start as the identity, and what all networks made of them share."""

from functools import partial

import pytest
import torch
from torch import nn

from snnrun.model import Layer, PlainNet, SEWResNet, SpikingResNet, layers
from snnrun.model.residual import (
    PlainBlock,
    SEWBlock,
    SpikingBlock,
    basic,
    bottleneck,
    zero_init,
)
from snnrun.neuron import IF, LIF, PLIF, Neuron
from snnrun.norm import BNTT, BatchNorm
from snnrun.surrogate import ATan


def spiking(kind=IF):
    return lambda channels: kind(ATan())


def head(features: int, classes: int) -> Layer:
    return Layer(nn.Linear(features, classes), None, None)


def spikes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).lt(0.3).float()


@pytest.mark.parametrize(
    ("connect", "expected"),
    [("add", [0, 1, 1, 2]), ("and", [0, 0, 0, 1]), ("iand", [0, 1, 0, 0])],
)
def test_how_a_residual_path_and_a_shortcut_are_joined(connect, expected):
    block = SEWBlock(spiking(), BatchNorm, 1, basic(1, 1), connect)
    path, shortcut = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    block.path = nn.Sequential()
    block.path.forward = lambda x: path
    block.shortcut.forward = lambda x: shortcut
    assert block(torch.zeros(4)).tolist() == expected


def test_a_join_that_does_not_exist():
    with pytest.raises(ValueError, match="connect must be add, and or iand, got 'or'"):
        SEWBlock(spiking(), BatchNorm, 1, basic(1, 1), "or")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("made", "path", "channels", "neurons", "convolutions"),
    [
        (SEWBlock, basic(4, 1), 4, 2, 2),
        (SEWBlock, basic(8, 2), 4, 3, 3),
        (SEWBlock, bottleneck(2, 1), 8, 3, 3),
        (SEWBlock, bottleneck(2, 2), 4, 4, 4),
        (SpikingBlock, basic(4, 1), 4, 2, 2),
        (SpikingBlock, bottleneck(2, 2), 4, 3, 4),
        (PlainBlock, basic(8, 2), 4, 2, 2),
    ],
)
def test_parts_of_a_block(made, path, channels, neurons, convolutions):
    block = made(spiking(), BatchNorm, channels, path)
    assert sum(isinstance(m, Neuron) for m in block.modules()) == neurons
    assert sum(isinstance(m, nn.Conv2d) for m in block.modules()) == convolutions
    assert not any(m.bias is not None for m in block.modules() if isinstance(m, nn.Conv2d))
    stride = max(convolution.stride for convolution in path)
    out = block(spikes(3, 2, channels, 6, 6))
    assert out.shape == (3, 2, path[-1].channels, 6 // stride, 6 // stride)
    if made is not PlainBlock:
        assert isinstance(block.shortcut, nn.Identity) == (convolutions == len(path))


def test_the_stride_of_a_bottleneck_is_in_its_3x3():
    assert [(c.channels, c.kernel, c.stride) for c in bottleneck(2, 2)] == [
        *((2, 1, 1), (2, 3, 2), (8, 1, 1)),
    ]
    assert [(c.channels, c.kernel, c.stride) for c in basic(2, 2)] == [(2, 3, 2), (2, 3, 1)]


def test_the_neuron_of_a_spiking_block_sees_the_sum():
    block = SpikingBlock(spiking(), BatchNorm, 4, basic(8, 2))
    assert isinstance(block.shortcut, Layer) and isinstance(block.shortcut.neuron, nn.Identity)
    assert isinstance(block.out.synapse, nn.Identity) and isinstance(block.out.neuron, IF)
    x = spikes(3, 2, 4, 6, 6)
    expected = IF(ATan())(block.path(x) + block.shortcut(x))
    assert torch.equal(block(x), expected) and expected.any()


BLOCKS = {
    **{c: partial(SEWBlock, connect=c) for c in ("add", "and", "iand")},
    "spiking": SpikingBlock,
}


@pytest.mark.parametrize("path", [basic(8, 1), bottleneck(2, 1)])
@pytest.mark.parametrize("name", BLOCKS)
def test_zero_init_is_the_identity(name, path):
    torch.manual_seed(0)
    block = BLOCKS[name](spiking(), BatchNorm, 8, path)
    x = spikes(4, 3, 8, 6, 6)
    assert not torch.equal(block(x), x)
    zero_init(block)
    assert torch.equal(block(x), x)


def test_zero_init_of_and_needs_a_neuron_that_fires_on_1():
    block = SEWBlock(spiking(PLIF), BatchNorm, 8, basic(8, 1), "and")
    zero_init(block)
    x = torch.ones(4, 1, 8, 6, 6)
    assert not block(x)[0].any(), "half of the current is below the threshold"
    assert torch.equal(SEWBlock(spiking(), BatchNorm, 8, basic(8, 1), "add")(x) >= 1, x > 0)


@pytest.mark.parametrize(
    ("norm", "connect", "words"),
    [
        (lambda channels: None, "add", "weight of the last norm"),
        (lambda channels: BNTT(channels, 4), "and", "weight and bias of the last norm"),
    ],
)
def test_zero_init_without_what_it_sets(norm, connect, words):
    net = SEWBlock(spiking(), norm, 4, basic(4, 1), connect)
    with pytest.raises(ValueError, match=rf"model.zero_init_residual sets {words} of each block"):
        zero_init(net)


NETS = [SEWResNet, SpikingResNet, PlainNet]


def net(made, depth, side=32, neuron=IF, norm=BatchNorm, **more):
    return made(spiking(neuron), norm, head, (3, side, side), 10, depth=depth, **more)


@pytest.mark.parametrize("made", NETS)
@pytest.mark.parametrize(
    ("depth", "side", "stem", "kernel", "stride"),
    [
        *((20, 32, "auto", 3, 1), (20, 224, "auto", 3, 1), (20, 32, "small", 3, 1)),
        *((18, 32, "auto", 3, 1), (18, 64, "auto", 3, 1), (18, 96, "auto", 7, 2)),
        *((18, 224, "auto", 7, 2), (50, 32, "imagenet", 7, 2), (34, 224, "small", 3, 1)),
    ],
)
def test_the_stem_follows_from_the_size_of_images(made, depth, side, stem, kernel, stride):
    with torch.device("meta"):
        network = net(made, depth, side, stem=stem)
    synapse = network.stem.synapse
    assert (synapse.kernel_size, synapse.stride) == ((kernel,) * 2, (stride,) * 2)
    assert (network.pool is None) == (kernel == 3)
    assert network.stem.synapse.out_channels == (16 if depth == 20 else 64)
    words = "7x7 stride 2 and pooling" if kernel == 7 else "3x3 without pooling"
    family = "CIFAR" if depth == 20 else "ImageNet"
    assert network.describe() == (
        f"{family} family of {depth} layers, stem {words} for images of {side}x{side}"
    )


@pytest.mark.parametrize("made", NETS)
@pytest.mark.parametrize(("depth", "width"), [(18, 64), (20, 16)])
def test_a_deep_stem(made, depth, width):
    with torch.device("meta"):
        network, small = net(made, depth, 32, stem="deep"), net(made, depth, 32, stem="small")
        assert network.stem(torch.zeros(1, 1, 3, 32, 32)).shape == (1, 1, width, 32, 32)
    more = [sum(p.numel() for p in n.parameters()) for n in (network, small)]
    assert more[0] - more[1] == 2 * (9 * width**2 + 2 * width)
    assert "stem three of 3x3 and pooling" in network.describe()


@pytest.mark.parametrize("made", NETS)
def test_depths_and_stems_that_do_not_exist(made):
    with pytest.raises(ValueError, match=r"model\.depth must be one of 18, 34, .* 56 .*, got 21"):
        net(made, 21)
    with pytest.raises(ValueError, match=r"model\.stem=imagenet does not go with model\.depth=20"):
        net(made, 20, stem="imagenet")
    with pytest.raises(ValueError, match=r"model\.stem must be auto, .*, got 'big'"):
        net(made, 20, stem="big")


@pytest.mark.parametrize("made", NETS)
def test_convolutions_start_as_published_and_the_rest_at_1_and_0(made):
    torch.manual_seed(0)
    network = net(made, 20)
    for _, layer in layers(network):
        if isinstance(layer.synapse, nn.Conv2d):
            w = layer.synapse.weight
            fan_out = w.shape[0] * w[0, 0].numel()
            assert w.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.25)
        if isinstance(layer.norm, BatchNorm):
            assert layer.norm.weight.eq(1).all() and layer.norm.bias.eq(0).all()


@pytest.mark.parametrize("made", NETS)
def test_a_static_image_goes_through_the_stem_once_and_counts_once_for_its_statistics(made):
    torch.manual_seed(0)
    network, seen = net(made, 20), []
    network.stem.synapse.register_forward_hook(lambda m, args, out: seen.append(out))
    network.stem.neuron.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    x = torch.randn(4, 3, 32, 32)
    network(x.expand(3, *x.shape))
    current, driven = seen
    assert len(current) == 4 and driven.shape[:2] == (3, 4) and driven.stride(0) == 0
    values = current.transpose(0, 1).flatten(1)  # of 4 samples: torch.var divides by n - 1
    expected = 0.9 + 0.1 * values.var(1)
    torch.testing.assert_close(network.stem.norm.running_var, expected, rtol=1e-5, atol=1e-7)
    second = network.stages[0][0].path[0].norm
    assert not torch.equal(second.running_var, torch.ones(16))


@pytest.mark.parametrize(
    ("made", "neuron", "norm"),
    [
        *((SEWResNet, IF, BatchNorm), (SpikingResNet, IF, BatchNorm), (PlainNet, IF, BatchNorm)),
        (SEWResNet, LIF, lambda channels: None),
    ],
)
def test_training_lowers_the_loss_with_and_without_norm(made, neuron, norm):
    torch.manual_seed(0)
    network = net(made, 20, 8, neuron, norm)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    x, y = 2 * torch.randn(8, 3, 8, 8), torch.arange(8)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(network(x.expand(2, *x.shape)).mean(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
