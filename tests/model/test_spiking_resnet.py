"""The ResNet with its neurons behind the sums."""

import pytest
import torch
from torch import nn

from snnrun.model import Layer, SpikingResNet
from snnrun.neuron import IF, Neuron
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan


def net(depth: int, in_shape=(3, 32, 32), classes: int = 10, **more) -> SpikingResNet:
    head = lambda features, classes: Layer(nn.Linear(features, classes), None, None)  # noqa: E731
    return SpikingResNet(
        lambda c: IF(ATan()), BatchNorm, head, in_shape, classes, depth=depth, **more
    )


@pytest.mark.parametrize(
    ("depth", "neurons", "parameters"),
    [
        *((18, 17, 11_689_512), (34, 33, 21_797_672), (50, 49, 25_557_032)),
        *((101, 100, 44_549_160), (152, 151, 60_192_808), (20, 19, 272_474 + 65 * 990)),
    ],
)
def test_layers_and_parameters(depth, neurons, parameters):
    with torch.device("meta"):
        network = net(depth, (3, 224, 224), 1000)
    assert sum(isinstance(m, Neuron) for m in network.modules()) == neurons
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_every_block_gives_spikes_and_zero_init_lets_them_through():
    torch.manual_seed(0)
    for zero in (False, True):
        network, outs = net(20, zero_init_residual=zero), []
        for stage in network.stages:
            for block in stage:
                block.register_forward_hook(lambda m, args, out, seen=outs: seen.append(out))
        x = torch.rand(2, 2, 3, 32, 32)
        network(x)
        assert len(outs) == 9 and all(set(out.unique().tolist()) <= {0.0, 1.0} for out in outs)
        assert torch.equal(outs[0], outs[2]) == zero


@pytest.mark.parametrize(
    ("more", "channels", "parameters"),
    [
        ({"depth": 19}, (128, 512), 12_569_226),
        ({"depth": 20, "width": 128}, (128, 512), 17_289_866),
        ({"depth": 18, "stem": "deep", "pool": "avg", "down": "avg"}, (64, 512), 11_247_946),
        ({"depth": 18, "stem": "small", "width": 8}, (8, 64), 176_402),
    ],
)
def test_networks_of_the_ternary_spike(more, channels, parameters):
    with torch.device("meta"):
        network = net(in_shape=(3, 32, 32), **more)
    first = network.stem[0] if more.get("stem") == "deep" else network.stem
    assert (first.synapse.out_channels, network.head.synapse.in_features) == channels
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(len(stage) for stage in network.stages) == {19: 8, 20: 9, 18: 8}[more["depth"]]


def test_a_deep_stem_is_three_convolutions_and_a_pool():
    network = net(18, (3, 16, 16), stem="deep", pool="avg", width=4)
    assert [layer.synapse.kernel_size for layer in network.stem] == [(3, 3)] * 3
    assert (network.pool.kind, network.pool.size, network.pool.stride) == ("avg", 2, None)
    assert network.describe().endswith("stem three of 3x3 and pooling for images of 16x16")
    assert network(torch.rand(2, 2, 3, 16, 16)).shape == (2, 2, 10)


def test_a_stem_without_a_pool():
    network = net(18, (3, 16, 16), stem="deep", pool="none", width=4)
    assert network.pool is None
    assert network.describe().endswith("stem three of 3x3 without pooling for images of 16x16")


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_the_stems_pool(pool):
    found = net(18, (3, 224, 224), pool=pool, width=4).pool
    assert (found.kind, found.size, found.stride, found.padding) == (pool, 3, 2, 1)


def test_a_shortcut_strides_by_its_convolution_or_by_an_average_before_it():
    plain, averaged = (net(20, width=4, down=down).stages[1][0] for down in ("conv", "avg"))
    assert plain.shortcut.synapse.stride == (2, 2)
    pool, layer = averaged.shortcut
    assert (pool.kind, pool.size, layer.synapse.stride) == ("avg", 2, (1, 1))
    x = torch.rand(2, 2, 4, 6, 6)
    expected = nn.functional.avg_pool2d(x.flatten(0, 1), 2)
    expected = layer.synapse(expected).unflatten(0, (2, 2))
    layer.norm = None
    torch.testing.assert_close(averaged.shortcut(x), expected)


@pytest.mark.parametrize(
    ("side", "stem", "met"), [(30, "small", 15), (20, "deep", 5), (72, "imagenet", 9)]
)
def test_an_average_does_not_halve_odd_sides(side, stem, met):
    with pytest.raises(ValueError, match=f"images of {side} pixels come to {met}\\."):
        net(18, (3, side, side), stem=stem, down="avg", width=4)
    net(18, (3, side, side), stem=stem, width=4)


def test_the_stem_alone_is_normalised_step_by_step():
    network = net(18, stem="deep", width=4, stem_norm="step")
    each = {name for name, m in network.named_modules() if getattr(m, "per_step", False)}
    assert each == {f"stem.{i}.norm" for i in range(3)}
    with pytest.raises(ValueError, match="stem_norm=step is of norm=batch"):
        SpikingResNet(
            lambda c: IF(ATan()),
            lambda c: None,
            lambda f, c: Layer(nn.Linear(f, c), None, None),
            (3, 32, 32),
            10,
            stem_norm="step",
        )


@pytest.mark.parametrize(
    ("name", "value"), [("down", "max"), ("stem_norm", "batch"), ("pool", "sum")]
)
def test_settings_that_do_not_exist(name, value):
    with pytest.raises(ValueError, match=rf"model\.{name} must be .* or .*, got '{value}'"):
        net(20, width=4, **{name: value})
