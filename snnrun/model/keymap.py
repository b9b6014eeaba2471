"""Names of weights in published checkpoints: those of the SEW ResNet authors, and SpikingJelly's, both ways."""

import re
from typing import Literal

import torch
from torch import Tensor, nn

from snnrun.model.event_resnet import EventResNet
from snnrun.model.layers import Layer, layers

Naming = Literal["original", "spikingjelly"]
NAMINGS: tuple[Naming, ...] = ("original", "spikingjelly")
COUNTER = "num_batches_tracked"  # of torch's batch norm: an entry of every published file that ours does without

_STAGE = re.compile(r"stages\.(\d+)\.(\d+)\.(path|shortcut|out)(?:\.(\d+))?")
_BODY = re.compile(r"body\.(\d+)(?:\.(path|out)(?:\.(\d+))?)?")


def keymap(net: nn.Module, naming: Naming) -> dict[str, str]:
    """Published key to our key, for every weight and buffer, in the order of the published file.

    Raises `ValueError` for a network that was not published under this naming.
    """
    return {theirs: ours for theirs, ours in _pairs(net, naming).items() if ours}


def _pairs(net: nn.Module, naming: Naming) -> dict[str, str | None]:
    """As `keymap`, with None for the counters of batch norm."""
    found: dict[str, str | None] = {}
    for name, own_places in places(net, naming).items():
        for part, place in zip(("synapse", "norm", "neuron"), own_places, strict=True):
            module = getattr(net.get_submodule(name), part)
            own = [] if module is None else list(module.state_dict())
            found |= {f"{place}.{key}": f"{name}.{part}.{key}" for key in own}
            if "running_mean" in own:
                found[f"{place}.{COUNTER}"] = None
    return found


def places(net: nn.Module, naming: Naming) -> dict[str, tuple[str, str, str]]:
    """Of each of our layers, where its synapse, norm and neuron are in the published network.

    Raises `ValueError` for a network that was not published under this naming.
    """
    found = {}
    for name, layer in layers(net):
        found[name] = _place(net, name, layer, naming)
        if found[name] is None:
            raise ValueError(
                f"There are no {naming} names for {name} of {type(net).__name__}."
                " Published names are known of sew_resnet, spiking_resnet and plain_net, and those of the authors"
                " (original) of event_resnet."
            )
    return found


def _place(net: nn.Module, name: str, layer: Layer, naming: Naming) -> tuple[str, str, str] | None:
    theirs = naming == "original"
    fires = not isinstance(layer.neuron, nn.Identity)
    if name == "stem":
        return "conv1", "bn1", "sn1"
    if name == "head":
        last = "out" if isinstance(net, EventResNet) else "fc"
        return last, f"{last}_bn", f"{last}_sn"
    if found := _STAGE.fullmatch(name):
        stage, block, part, k = found.groups()
        place = f"layer{int(stage) + 1}.{block}"
        if part == "path":
            n = int(k) + 1
            conv = f"{place}.conv{n}"
            pair = (f"{conv}.module.0", f"{conv}.module.1") if theirs else (conv, f"{place}.bn{n}")
            return *pair, f"{place}.sn{n}"
        if part == "out":
            path = net.get_submodule(name.removesuffix("out") + "path")
            return "", "", f"{place}.sn{sum(1 for _ in path.children())}"
        if k:  # an average before the convolution
            return None
        down = f"{place}.downsample"
        if theirs:
            inner = f"{down}.0.module" if fires else f"{down}.module"
            return f"{inner}.0", f"{inner}.1", f"{down}.1"
        return f"{down}.0", f"{down}.1", f"{down}.2"
    if isinstance(net, EventResNet) and theirs and (found := _BODY.fullmatch(name)):
        j, part, k = found.groups()
        if part == "out":
            return "", "", f"conv.{j}.sn"
        place = f"conv.{j}" if part is None else f"conv.{j}.conv.{k}"
        inner = f"{place}.0.module" if fires else f"{place}.module"
        return f"{inner}.0", f"{inner}.1", f"{place}.1"
    return None


def to_published(net: nn.Module, naming: Naming) -> dict[str, Tensor]:
    """The state of a network under published names, counters of batch norm (at 0) included."""
    state = net.state_dict()
    return {
        theirs: torch.tensor(0) if ours is None else state[ours]
        for theirs, ours in _pairs(net, naming).items()
    }


def from_published(net: nn.Module, state: dict[str, Tensor], naming: Naming) -> dict[str, Tensor]:
    """A published state under our names. Keys that the network does not have keep their published names."""
    pairs = _pairs(net, naming)
    return {pairs.get(key) or key: value for key, value in state.items() if pairs.get(key, key)}
