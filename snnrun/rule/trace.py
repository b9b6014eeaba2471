"""What rules for networks of traces have in common: pools, dropout, initial weights and bounds."""

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Dropout, Pool, layers, parts
from snnrun.rule.base import Rule


class TraceRule(Rule):
    """A rule for layers that exchange traces. Its switches make a network what the papers train; the defaults leave it
    as the model made it, but for the bound on the weights.

    **Arguments:**

    - `pooling`: `keep` what the model says, or make every pool the `sum` of its window times `theta`.
    - `theta`: gain of sum pooling.
    - `dropout`: `element` draws for every neuron, `row` for every row of an image (as in the public code); both keep
      the draw over time.
    - `init`: `keep` the model's initial weights, or `kaiming`: dense ones normal with deviation sqrt(2/fan-in),
      convolutions uniform within 1/sqrt(fan-in).
    - `dense_weight_scale`, `conv_weight_scale`: factors on the initial weights.
    - `weight_clip`: bound on the size of every weight of a synapse after each step; null for none.
    """

    def __init__(
        self,
        pooling: Literal["keep", "sum"] = "keep",
        theta: float = 1.1,
        dropout: Literal["element", "row"] = "element",
        init: Literal["keep", "kaiming"] = "keep",
        dense_weight_scale: float = 1.0,
        conv_weight_scale: float = 1.0,
        weight_clip: float | None = 4.0,
    ):
        super().__init__()
        choices = {
            "pooling": ("keep", "sum"),
            "dropout": ("element", "row"),
            "init": ("keep", "kaiming"),
        }
        for (name, allowed), given in zip(choices.items(), (pooling, dropout, init), strict=True):
            if given not in allowed:
                raise ValueError(f"rule.{name} must be {' or '.join(allowed)}, got {given!r}.")
        if weight_clip is not None and weight_clip <= 0:
            raise ValueError(
                f"rule.weight_clip must be above 0, or null for none; got {weight_clip}."
            )
        self.pooling, self.theta, self.init = pooling, theta, init
        self.dropout: Literal["element", "row"] = dropout
        self.dense_weight_scale, self.conv_weight_scale = dense_weight_scale, conv_weight_scale
        self.weight_clip = weight_clip
        self.trained: list[
            nn.Module
        ] = []  # the network, in a list so that it is no part of the rule

    def adapt(self, net: nn.Module) -> nn.Module:
        """Set pools, dropouts and initial weights."""
        for _, part in parts(net):
            if isinstance(part, Pool) and self.pooling == "sum" and part.size is not None:
                part.kind, part.gain = "sum", self.theta
            elif isinstance(part, Dropout):
                part.share = self.dropout
        with torch.no_grad():
            for synapse in synapses(net):
                self._initialise(synapse.weight, dense=isinstance(synapse, nn.Linear))
        self.trained = [net]
        return net

    def _initialise(self, weight: Tensor, *, dense: bool) -> None:
        fan_in = weight[0].numel()
        if self.init == "kaiming" and dense:
            weight.normal_(0, math.sqrt(2 / fan_in))
        elif self.init == "kaiming":
            weight.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        weight *= self.dense_weight_scale if dense else self.conv_weight_scale

    def constrain(self, net: nn.Module) -> None:
        """Clamp the weights."""
        if self.weight_clip is not None:
            for synapse in synapses(net):
                synapse.weight.clamp_(-self.weight_clip, self.weight_clip)

    def validate(self, shape: tuple[int, ...], steps: int) -> None:
        """Raise `ValueError` for a sum pool that would leave pixels out."""
        for net in self.trained:
            if any(isinstance(part, Pool) and part.kind == "sum" for _, part in parts(net)):
                self._check_pools(net, shape, steps)

    def _check_pools(self, net: nn.Module, shape: tuple[int, ...], steps: int) -> None:
        shadow = copy.deepcopy(net).to("meta").eval()
        for name, part in parts(shadow):
            if isinstance(part, Pool) and part.kind == "sum":
                part.register_forward_pre_hook(_refuse_odd(name))
        with torch.no_grad():
            shadow(torch.zeros((steps, 1, *shape), device="meta"))


def _refuse_odd(name: str):
    def check(pool: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert (
            isinstance(pool, Pool) and pool.size is not None
        )  # a pool of the whole image is none of sums
        height, width = inputs[0].shape[-2:]
        if height % pool.size or width % pool.size:
            raise ValueError(
                f"{name}: sum pooling over {pool.size}x{pool.size} would leave out pixels of {height}x{width}."
                " Pad the convolution before it, resize the input, or set rule.pooling=keep."
            )

    return check


def synapses(net: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The weighted synapses of all layers, recurrent ones too."""
    return [
        synapse
        for _, layer in layers(net)
        for synapse in (layer.synapse, layer.recurrent)
        if isinstance(synapse, nn.Linear | nn.Conv2d)
    ]
