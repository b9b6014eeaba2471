"""STDBP: backpropagation through the times of spikes."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Dropout, Layer, Pool, parts
from snnrun.neuron.base import Neuron
from snnrun.neuron.first_spike import FirstSpike
from snnrun.rule.base import Learning, Rule


class STDBP(Rule):
    r"""Spike-timing-dependent backpropagation: exact gradients of spike times, for neurons that fire once.

    $$\frac{\partial t_i}{\partial t_j} = \frac{w_{ij}}{S_i}, \qquad
      \frac{\partial t_i}{\partial w_{ij}} = -\frac{t_i - t_j}{S_i}, \qquad S_i = \sum_{j \in C_i} w_{ij}, \quad
      C_i = \{j : t_j < t_i\}$$

    Silent neurons have no gradient. A network is trained without biases, and its maximum pools hand on the earliest
    spike of a window.

    **Arguments:**

    - `grad_clip`: bound on $1 / S_i$ in the gradients, which a potential that barely reaches the threshold makes large;
      null for none, as published.
    - `silent_penalty`: factor on $-V_y$ at the neuron's horizon, for samples whose right output y is silent: raises the
      weights that it reads. 0 for none, as published.
    - `init`: `positive` (normal, with the two settings below), or `keep` the model's initial weights.
    - `init_mean`: mean sum of a neuron's initial weights; well above `init_std`, neurons fire.
    - `init_std`: deviation of that sum.

    Zhang et al., *Rectified linear postsynaptic potential function for backpropagation in deep spiking neural
    networks*, TNNLS 2022. The initial weights, the penalty and the bound are ours.
    """

    needs = frozenset({"spike_times"})
    ignores = frozenset({"surrogate"})
    wakes = "a lower neuron.threshold, a larger rule.init_mean, or a later neuron.horizon"
    wakes_output = "a lower neuron.threshold, a larger rule.init_mean, or rule.silent_penalty=1"

    def __init__(
        self,
        grad_clip: float | None = 1.0,
        silent_penalty: float = 1.0,
        init: Literal["positive", "keep"] = "positive",
        init_mean: float = 4.0,
        init_std: float = 1.0,
    ):
        super().__init__()
        if grad_clip is not None and grad_clip <= 0:
            raise ValueError(f"rule.grad_clip must be above 0, or null for none; got {grad_clip}.")
        for name, value in (("silent_penalty", silent_penalty), ("init_std", init_std)):
            if value < 0:
                raise ValueError(f"rule.{name} must be at least 0, got {value}.")
        if init not in ("positive", "keep"):
            raise ValueError(f"rule.init must be positive or keep, got {init!r}.")
        self.grad_clip, self.silent_penalty = grad_clip, silent_penalty
        self.init, self.init_mean, self.init_std = init, init_mean, init_std

    def kernel(self, neuron: Neuron) -> Any:
        """Exact gradients, bounded if so asked."""
        return FirstSpike(grad_clip=self.grad_clip, raises=self.silent_penalty > 0)

    def adapt(self, net: nn.Module) -> nn.Module:
        """Take away biases, draw weights, and let pools hand on the earliest spike.

        Raises `ValueError` for parts that spike times cannot pass.
        """
        for name, part in parts(net):
            if isinstance(part, Pool) and part.kind in ("max", "min"):
                part.kind = "min"
            elif isinstance(part, Pool):
                raise ValueError(
                    f"rule=stdbp: {name} is a pool of kind {part.kind}, and spike times have no mean."
                    " Set model.pool=max: the earliest spike is handed on."
                )
            elif isinstance(part, Dropout) and part.p:
                raise ValueError(
                    f"rule=stdbp: {name} would scale spike times by what it drops. Set model.dropout=0."
                )
            elif isinstance(part, Layer):
                self._adapt(name, part)
        return net

    def _adapt(self, name: str, layer: Layer) -> None:
        synapse, neuron, why = layer.synapse, layer.neuron, None
        if layer.norm is not None:
            why = "is normalised, and spike times are no currents: set norm=none"
        elif not isinstance(synapse, nn.Linear | nn.Conv2d):
            why = "has no weights of its own"
        elif layer.recurrent is not None:
            why = "feeds itself"
        elif "spike_times" not in getattr(neuron, "traits", ()):
            why = "gives out no spike times: set neuron=rel_psp readout=first_spike"
        elif self.silent_penalty and getattr(neuron, "horizon", None) is None:
            why = "never ends a sample: rule.silent_penalty needs a neuron.horizon"
        if why:
            raise ValueError(f"rule=stdbp: {name} {why}.")
        synapse.bias = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        if self.init == "positive":
            weight: Any = synapse.weight
            n = weight[0].numel()
            nn.init.normal_(weight, self.init_mean / n, self.init_std / math.sqrt(n))

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        """The criterion, and what silence of right outputs costs."""
        out = learner(x)
        loss = learner.score(out, y)
        if self.silent_penalty:
            right = out[0].gather(1, y[:, None])
            loss = loss + self.silent_penalty * _Silent.apply(right)  # pyright: ignore[reportOperatorIssue]
        return loss


class _Silent(torch.autograd.Function):
    """The share of silent neurons, with the gradient 1/n at each of them."""

    @staticmethod
    def forward(times: Tensor) -> Tensor:
        return times.isinf().to(times.dtype).mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (times,) = ctx.saved_tensors
        return grad / times.numel() * times.isinf()
