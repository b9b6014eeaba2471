"""Amplitudes of spikes, folded into the weights that read them."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnrun.model.layers import Dropout, Layer, Pool, layers
from snnrun.neuron.base import Neuron, per_channel


class Scale(nn.Module):
    r"""A factor, one or one a channel: what is left of an amplitude where no weights take it, as on a shortcut.

    $$y = a x$$

    **Arguments:**

    - `factor`: a, of shape (1,) or (C,).
    """

    def __init__(self, factor: Tensor):
        super().__init__()
        self.factor: Tensor
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, ...)` to the same shape."""
        return x * per_channel(self.factor, x).to(x.dtype)


class Reader(NamedTuple):
    """A module that reads spikes: as they are, or what pools, dropout and flattening made of them."""

    name: str
    flat: bool  # pixels lie beside each other in the features
    chosen: bool  # a maximum was taken


@torch.no_grad()
def fold_amplitudes(net: nn.Module) -> nn.Module:
    r"""A network with the same output whose neurons give out -1, 0 and 1: weights that read $a s$ become $a W$.

    Every reader of a layer's output is looked for along pools, dropout and flattening, so that convolution and shortcut
    of a block both get the factor. An identity shortcut has no weights and becomes a `Scale`. A maximum of $a s$ is not
    a times that of s where a is negative: there the neuron keeps the sign, and its readers take $|a|$. Where the output
    goes elsewhere (into a sum right away, out of the network, to a layer that is used twice), or the network does other
    things in each call, the neuron keeps its amplitude.

    Returns `net` itself if no neuron has an amplitude, else a copy.

    **Arguments:**

    - `net`: a network of layers; neurons with an `amplitude` may be among them.
    """
    if all(amplitude(layer) is None for _, layer in layers(net)):
        return net
    net = copy.deepcopy(net)
    graph = flow(net)
    if graph is None:
        return net
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        layer = net.get_submodule(node.target) if node.op == "call_module" else None
        a = amplitude(layer)
        if a is None or not isinstance(layer, Layer) or calls[node.target] > 1:
            continue
        found = readers(net, node, calls)
        if found is None:
            continue
        signs = torch.where(a < 0, -1, 1).to(a.dtype)
        kept = signs if any(reader.chosen for reader in found) and (a < 0).any() else None
        taken = a if kept is None else a.abs()
        changes = [change(net, reader, taken, layer) for reader in found]
        if layer.recurrent is not None:
            changes.append(weigh(layer, "recurrent", taken, flat=False, wide=True))
        if all(c is not None for c in changes):
            neuron: Any = layer.neuron
            neuron.amplitude = None if kept is None else nn.Parameter(kept)
            for apply in changes:
                assert apply is not None
                apply()
    return net


def amplitude(layer: nn.Module | None) -> Tensor | None:
    """The factor on the output of a layer's neuron."""
    if not isinstance(layer, Layer) or not isinstance(layer.neuron, Neuron):
        return None
    return getattr(layer.neuron, "amplitude", None)


def flow(net: nn.Module) -> Any:
    """What flows from module to module, as a graph of `torch.fx`; None where that depends on what flows."""
    from torch.fx import Tracer

    class Flow(Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            known = isinstance(m, Layer | Pool | Dropout)
            return known or super().is_leaf_module(m, module_qualified_name)

        def to_bool(self, obj: Any) -> bool:
            if getattr(obj, "attr", None) == "factors":  # of the encoder: knowledge, not values
                return False
            return super().to_bool(obj)

    try:
        return Flow().trace(net)
    except Exception:  # a model is any code, and fails on symbols in ways of its own
        return None


def readers(net: nn.Module, node: Any, calls: Counter[Any]) -> list[Reader] | None:
    """All that read what a node gives out; None if something else does than layers and shortcuts."""
    found, todo = [], [(node, False, False)]
    while todo:
        at, flat, chosen = todo.pop()
        for user in at.users:
            module = net.get_submodule(user.target) if user.op == "call_module" else None
            if module is not None and calls[user.target] > 1:
                return None
            match module:
                case Layer() | nn.Identity():
                    found.append(Reader(user.target, flat, chosen))
                case Pool(kind=kind):
                    todo.append((user, flat, chosen or kind == "max"))
                case Dropout():
                    todo.append((user, flat, chosen))
                case nn.Flatten(start_dim=2, end_dim=-1):
                    todo.append((user, True, chosen))
                case None if flattens(user):
                    todo.append((user, True, chosen))
                case _:
                    return None
    return found


def flattens(node: Any) -> bool:
    """Whether a node is `x.flatten(2)`."""
    method = node.op == "call_method" and node.target == "flatten"
    return method and tuple(node.args[1:]) == (2,) and not node.kwargs


Change = Callable[[], None]


def change(net: nn.Module, reader: Reader, a: Tensor, source: Layer) -> Change | None:
    """What gives a reader the factor; None if it is one a channel and channels are not to be told apart."""
    module = net.get_submodule(reader.name)
    if isinstance(module, Layer):
        dense = isinstance(source.synapse, nn.Linear)
        return weigh(module, "synapse", a, flat=reader.flat, wide=dense)
    if reader.flat and a.numel() > 1:
        return None
    return lambda: net.set_submodule(reader.name, Layer(Scale(a.clone()), None, None))


def weigh(layer: Layer, name: str, a: Tensor, *, flat: bool, wide: bool) -> Change | None:
    """What gives the weights `name` of a layer the factor on their input; None if that cannot be.

    **Arguments:**

    - `layer`: the layer.
    - `name`: `synapse` or `recurrent`.
    - `a`: the factor.
    - `flat`: whether its input was flattened.
    - `wide`: whether the last dimension of its input is that of channels even though it was not.
    """
    synapse, single = getattr(layer, name), a.numel() == 1
    if type(synapse) not in (nn.Linear, nn.Conv2d):
        if flat and not single:
            return None
        before = Scale(a.clone())
        whole = before if isinstance(synapse, nn.Identity) else nn.Sequential(before, synapse)
        return lambda: setattr(layer, name, whole)
    factor = a.reshape(()) if single else a
    if not single and isinstance(synapse, nn.Conv2d):
        if flat or len(a) != synapse.in_channels:
            return None
        groups, each = synapse.groups, synapse.in_channels // synapse.groups
        rows = a.view(groups, 1, each).expand(groups, synapse.out_channels // groups, each)
        factor = rows.reshape(synapse.out_channels, each, 1, 1)
    elif not single:
        pixels, rest = divmod(synapse.in_features, len(a))
        if rest or not (flat or (wide and pixels == 1)):
            return None
        factor = a.repeat_interleave(pixels)
    weight = synapse.weight * factor.to(synapse.weight.dtype)
    return lambda: setattr(synapse, "weight", nn.Parameter(weight))
