"""Folding of amplitudes: every model and rule, shortcuts, several readers, negative amplitudes, and what cannot be."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun.config import Choices, factory, instantiate
from snnrun.model import Dropout, Layer, Pool, layers
from snnrun.neuron import LIF, Neuron, Ternary
from snnrun.norm import BatchNorm
from snnrun.rule import Rule
from snnrun.rule.fold import Scale, amplitude, fold_amplitudes
from snnrun.surrogate import ATan

CHOICES = Choices()
SHAPE = (2, 12, 12)
SMALL = {"event_resnet": ["model.spec=4C1-BP2x2"]}
# networks whose neurons all lose their amplitude; in others some give out what is summed at once
WHOLE = {"mlp", "convnet", "recurrent", "spiking_resnet", "plain_net"}
DEEP = ("model.down=avg", "model.stem=deep", "model.pool=avg", "model.stem_norm=step")
VARIANTS = (
    *([f"model={option}"] for option in CHOICES.options("model")),
    ["model=convnet", "model.spec=8C3-A2-M2-8C3-20-D-10", "model.dropout=0.3"],
    ["model=recurrent", "model.spec=8-R8"],
    ["model=spiking_resnet", "model.depth=19", "model.width=4"],
    ["model=spiking_resnet", "model.depth=18", "model.width=4", *DEEP],
    ["model=spiking_resnet", "model.depth=18", "model.width=4", "model.stem=imagenet"],
)


def side(*words: str) -> tuple[int, ...]:
    """What images a network takes: an average in a shortcut needs even sides."""
    return (2, 16, 16) if DEEP[0] in words else SHAPE


@functools.cache
def composed(*words: str) -> Any:
    return CHOICES.compose(list(words))


def build(words: list[str], **neuron: Any) -> nn.Module:
    torch.manual_seed(0)
    small = SMALL.get(words[0].partition("=")[2], [])
    cfg = composed("neuron=ternary", *words, *small, "dataset.steps=4").copy()
    cfg.neuron.update(neuron)
    readout = instantiate(
        cfg.readout, neuron=factory(cfg.readout.neuron), norm=factory(cfg.readout.norm)
    )
    return instantiate(
        cfg.model,
        neuron=factory(cfg.neuron),
        norm=factory(cfg.norm),
        head=readout.head,
        in_shape=side(*words),
        num_classes=4,
    )


def trained(net: nn.Module, amplitudes: Any = None, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """A network in evaluation whose running statistics and amplitudes are off their start."""
    net.double().train()
    generator = torch.Generator().manual_seed(1)
    for _, layer in layers(net):
        a = amplitude(layer)
        if a is not None:
            drawn = torch.rand(a.shape, generator=generator, dtype=a.dtype) + 0.5
            signs = torch.randn(a.shape, generator=generator).sign()
            a.data.copy_(signs * drawn if amplitudes is None else amplitudes)
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        net(images(shape))
    return net.eval()


def images(shape: tuple[int, ...] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return 2 * torch.rand(4, 3, *shape, generator=generator, dtype=torch.float64)


def left(net: nn.Module) -> dict[str, Tensor]:
    found = {name: amplitude(layer) for name, layer in layers(net)}
    return {name: a.detach() for name, a in found.items() if a is not None}


def spikes(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output of a network, and of every neuron in it."""
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda m, args, out, n=name: seen.update({n: out}))
        for name, layer in layers(net)
        if isinstance(layer.neuron, Neuron)
    ]
    with torch.no_grad():
        out = net(x)
    for hook in hooks:
        hook.remove()
    return out, seen


@pytest.mark.parametrize("per_channel", [False, True], ids=["layer", "channel"])
@pytest.mark.parametrize("words", VARIANTS, ids=" ".join)
def test_outputs_and_spikes_stay(words, per_channel):
    shape = side(*words)
    net = trained(build(words, per_channel=per_channel), shape=shape)
    kept = copy.deepcopy(net.state_dict())
    deployed = fold_amplitudes(net)
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    out, before = spikes(net, images(shape))
    again, after = spikes(deployed, images(shape))
    torch.testing.assert_close(again, out, rtol=1e-12, atol=1e-12)
    assert set(before) == set(after) and (out.std((0, 1)) > 0).any()
    for name, s in after.items():
        assert torch.equal(s.ne(0), before[name].ne(0)), name
    rest = left(deployed)
    for name in set(after) - set(rest):
        assert set(after[name].unique().tolist()) <= {-1, 0, 1}
    if words[0].partition("=")[2] in WHOLE:  # signs at most
        assert all((a.abs() == 1).all() for a in rest.values())
        assert len(left(net)) == len(after)


def test_an_ordinary_network_is_its_own_deployed_one():
    for made in (lambda: LIF(ATan()), lambda: Ternary(learnable=False)):
        net = nn.Sequential(
            Layer(nn.Linear(2, 3), None, made()), Layer(nn.Linear(3, 1), None, None)
        )
        assert Rule().deploy(net, []) is net


@pytest.mark.parametrize("option", CHOICES.options("rule"))
def test_every_rule_folds_what_it_trained(option):
    values = CHOICES.load("rule", option)
    rule = instantiate({k: v for k, v in values.items() if not str(v).startswith("${")})
    if type(rule).deploy is not Rule.deploy:
        pytest.skip(f"rule={option} deploys a network of its own")
    net = trained(build(["model=convnet"]), 0.7)
    deployed = rule.deploy(net, iter([]))
    assert deployed is not net and not left(deployed)


def test_an_identity_shortcut_gets_the_factor_that_the_convolution_gets():
    net = trained(build(["model=spiking_resnet"]))
    deployed = fold_amplitudes(net)
    a = left(net)
    block = deployed.stages[0][1]
    assert isinstance(block.shortcut, Layer) and isinstance(block.shortcut.synapse, Scale)
    assert torch.equal(block.shortcut.synapse.factor, a["stages.0.0.out"])
    expected = net.stages[0][1].path[0].synapse.weight * a["stages.0.0.out"]
    assert torch.equal(block.path[0].synapse.weight, expected)
    strided = deployed.stages[1][0].shortcut  # several readers with weights
    expected = net.stages[1][0].shortcut.synapse.weight * a["stages.0.2.out"]
    assert torch.equal(strided.synapse.weight, expected)


class Chain(nn.Module):
    """Layer, something between, and a layer that reads it."""

    def __init__(self, between: nn.Module, reader: nn.Module, **first: Any):
        super().__init__()
        convolution = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.first = Layer(convolution, None, Ternary(channels=4, **first))
        self.between = between
        self.reader = Layer(reader, None, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.between(self.first(x)))


MAX, AVG = Pool("max", 2), Pool("avg", 3, 2, 1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("between", "reader", "signs"),
    [
        (nn.Identity(), nn.Conv2d(4, 6, 3), False),
        (AVG, nn.Conv2d(4, 6, 3, groups=2), False),
        (MAX, nn.Conv2d(4, 6, 3), True),
        (nn.Sequential(MAX, Dropout(0.5), nn.Flatten(2)), nn.Linear(144, 3), True),
        (nn.Sequential(AVG, Pool("sum", 2), nn.Flatten(2)), nn.Linear(36, 3), False),
        (nn.Sequential(Pool("avg", None), nn.Flatten(2)), nn.Linear(4, 3), False),
        (AVG, nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), False),
        (AVG, nn.Identity(), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("negative", [False, True])
def test_ways_to_a_reader(between, reader, signs, per_channel, negative):
    torch.manual_seed(0)
    net = Chain(copy.deepcopy(between), copy.deepcopy(reader), per_channel=per_channel)
    a = torch.tensor([0.5, -2.0, 1.5, -0.25] if per_channel else [-0.6], dtype=torch.float64)
    net = trained(net, a if negative else a.abs())
    deployed = fold_amplitudes(net)
    torch.testing.assert_close(deployed(images()), net(images()), rtol=1e-12, atol=1e-12)
    rest = left(deployed)
    if signs and negative:
        assert torch.equal(rest["first"], a.sign())
    else:
        assert not rest


def test_the_maximum_of_negative_amplitudes_is_no_multiple_of_that_of_spikes():
    """What folding the whole of a negative amplitude behind a maximum would do."""
    net = trained(Chain(MAX, nn.Conv2d(4, 6, 3)), torch.tensor([-0.6]))
    wrong = copy.deepcopy(net)
    wrong.first.neuron.amplitude = None
    wrong.reader.synapse.weight.data.mul_(-0.6)
    assert not torch.allclose(wrong(images()), net(images()))


class Summing(Chain):
    def forward(self, x: Tensor) -> Tensor:
        s = self.first(x)
        return self.reader(s + s.flip(-1))


class Twice(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.first(x)) + self.reader(
            torch.ones_like(x[:, :, :1]).expand(-1, -1, 4, -1, -1)
        )


class Deciding(Chain):
    def forward(self, x: Tensor) -> Tensor:
        s = self.first(x)
        return self.reader(s if s.sum() > 0 else -s)


class Looking(Chain):
    def forward(self, x: Tensor) -> Any:
        s = self.first(x)
        return self.reader(s), s


@pytest.mark.parametrize("kind", [Summing, Twice, Deciding, Looking])
def test_where_it_cannot_be_folded_the_neuron_keeps_it(kind):
    torch.manual_seed(0)
    net = trained(kind(nn.Identity(), nn.Conv2d(4, 6, 3, bias=False)), torch.tensor([0.5]))
    deployed = fold_amplitudes(net)
    for one, other in zip(deployed(images()), net(images()), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(left(deployed)["first"], torch.tensor([0.5], dtype=torch.float64))


@pytest.mark.parametrize(
    ("between", "reader"),
    [
        (nn.Flatten(2), nn.Identity()),
        (nn.Sequential(nn.Flatten(2), nn.Identity()), nn.Linear(576, 3)),
        (nn.Flatten(2), nn.Sequential(nn.Linear(576, 3))),
        (Dropout(0.5), nn.Linear(12, 3)),
    ],
)
def test_channels_that_cannot_be_told_apart_keep_theirs(between, reader):
    for per_channel in (False, True):
        net = trained(Chain(copy.deepcopy(between), copy.deepcopy(reader), per_channel=per_channel))
        deployed = fold_amplitudes(net)
        torch.testing.assert_close(deployed(images()), net(images()), rtol=1e-12, atol=1e-12)
        assert bool(left(deployed)) == per_channel


def test_tied_weights_are_folded_apart():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(Layer(nn.Conv2d(2, 2, 3, padding=1), None, Ternary()) for _ in range(3)),
        Layer(nn.Conv2d(2, 4, 3), None, None),
    )
    net[1].synapse.weight = net[2].synapse.weight = net[0].synapse.weight
    net = trained(net)
    deployed = fold_amplitudes(net)
    torch.testing.assert_close(deployed(images()), net(images()), rtol=1e-12, atol=1e-12)
    assert not left(deployed) and deployed(images()).any()
