"""Names in published checkpoints, against lists of the keys and shapes of every published net."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from snnrun.model import EventResNet, Layer, PlainNet, SEWResNet, SpikingResNet
from snnrun.model.keymap import NAMINGS, from_published, keymap, to_published
from snnrun.neuron import IF, PLIF, Neuron
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan

FACTS = json.loads((Path(__file__).parent / "published.json").read_text())
EVENT = {
    "dvsgesture_sew_7b": ("32C1-BP2x7", "sew", 11),
    "dvsgesture_spiking_7b": ("32C1-BP2x7", "spiking", 11),
    "dvsgesture_plain_7b": ("32C1-BP2x7", "plain", 11),
    "cifar10dvs_wide_7b": ("64C1-BP2x4-128C1-BP2x3", "sew", 10),
}


def head(features: int, classes: int) -> Layer:
    return Layer(nn.Linear(features, classes), None, None)


def spiking(kind=IF):
    return lambda channels: kind(ATan())


def published(name: str) -> nn.Module:
    """The net of a list, without memory for its weights."""
    model = name.partition("_")[2]
    with torch.device("meta"):
        if model in EVENT:
            spec, block, classes = EVENT[model]
            return EventResNet(
                spiking(PLIF), BatchNorm, head, (2, 128, 128), classes, spec=spec, block=block
            )
        made = SEWResNet if model.startswith("sew") else SpikingResNet
        depth = int(model.rpartition("resnet")[2])
        return made(spiking(), BatchNorm, head, (3, 224, 224), 1000, depth=depth)


def listed(name: str) -> list[tuple[str, list[int]]]:
    """Keys and shapes of a published state; those of BatchNorm's five entries are written once."""
    entries = []
    for key, shape in FACTS[name]["state"]:
        if key.endswith(".*"):
            names = ("weight", "bias", "running_mean", "running_var")
            entries += [(key[:-1] + n, shape) for n in names]
            entries.append((key[:-1] + "num_batches_tracked", []))
        else:
            entries.append((key, shape))
    return entries


@pytest.mark.parametrize("more", [{"stem": "deep"}, {"down": "avg"}])
@pytest.mark.parametrize("naming", NAMINGS)
def test_a_variant_that_was_not_published_has_no_published_names(more, naming):
    with torch.device("meta"):
        net = SpikingResNet(spiking(), BatchNorm, head, (3, 32, 32), 10, depth=18, **more)
    with pytest.raises(ValueError, match=f"There are no {naming} names for (stem|stages)"):
        keymap(net, naming)


@pytest.mark.parametrize("name", FACTS)
def test_published_nets(name):
    net = published(name)
    naming = name.partition("_")[0]
    state = to_published(net, naming)
    assert [(key, list(value.shape)) for key, value in state.items()] == listed(name)
    assert sum(p.numel() for p in net.parameters()) == FACTS[name]["parameters"]
    assert sum(isinstance(m, Neuron) for m in net.modules()) == FACTS[name]["neurons"]
    back = from_published(net, state, naming)
    assert list(back) == list(net.state_dict())
    assert list(keymap(net, naming).values()) == list(net.state_dict())


SMALL = {"in_shape": (2, 16, 16), "num_classes": 3}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("made", [SEWResNet, SpikingResNet, PlainNet])
def test_values_survive_both_ways(made, naming):
    torch.manual_seed(0)
    one, other = (made(spiking(PLIF), BatchNorm, head, depth=18, **SMALL) for _ in range(2))
    x = torch.rand(2, 2, *SMALL["in_shape"])
    one(x)  # moves the buffers
    state = from_published(other, to_published(one, naming), naming)
    assert not torch.equal(one.eval()(x), other.eval()(x))
    other.load_state_dict(state, strict=True)
    assert torch.equal(one(x), other(x))
    assert len(keymap(one, naming)) == len(one.state_dict())


def test_unknown_keys_keep_their_names():
    net = published("original_sew_resnet18")
    state = to_published(net, "original") | {"conv9.weight": torch.zeros(1)}
    assert "conv9.weight" in from_published(net, state, "original")


def test_networks_that_nobody_published():
    with torch.device("meta"):
        net = EventResNet(spiking(), BatchNorm, head, (2, 8, 8), 3, spec="4C1-BP2")
    with pytest.raises(ValueError, match=r"no spikingjelly names for body\.0 of EventResNet"):
        keymap(net, "spikingjelly")
