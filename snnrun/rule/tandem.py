"""Tandem learning: spikes give the values, a layer of rate units with the same weights gives the gradients."""

import copy
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.model.layers import Dropout, Layer, Pool, layers, over_time, parts
from snnrun.neuron.base import Neuron
from snnrun.rule.base import Rule

CALIBRATION = 16  # batches that the ANN's norms are measured on


class TandemLayer(Layer):
    r"""A layer of two halves that share their weights: neurons for the values, rate units for the gradients.

    With $c = \sum_t x_t$, the rate units give $a = \mathrm{relu}(\mathrm{norm}(W c + b))$, and the neurons run on the
    same map with the norm's running statistics, folded into $W'$, $b'$, and its bias spread over time:

    $$I_t = \frac{1}{\theta} \left(W' x_t + \frac{b'}{T}\right), \qquad
      \frac{\partial L}{\partial a} = \frac{1}{T} \sum_t \frac{\partial L}{\partial s_t}$$

    Without a norm to absorb it, $a$ is divided by the threshold. A layer without neurons passes $I_t$ on.

    **Arguments:**

    - `layer`: what it takes the place of; its norm must be a batch norm over time, or None.
    - `fold_eps`: what is added to the running variance where it is folded; None for the norm's own.
    """

    threshold: Tensor

    def __init__(self, layer: Layer, fold_eps: float | None = None):
        super().__init__(layer.synapse, layer.norm, layer.neuron)
        self.fold_eps = fold_eps
        self.spiking, self.held = True, False
        self.fires = isinstance(layer.neuron, Neuron)  # or could, if it ran as spiking
        self.resting: nn.Module = nn.ReLU() if self.fires else nn.Identity()  # the half not run
        self.register_buffer("threshold", torch.ones(()))  # in units of the neuron's own

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to the same: spikes, or a rate that is the same at every step."""
        differs = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        )
        learns = self.norm is not None and self.norm.training  # its statistics
        a = self.rate(x.sum(0)) if differs or learns or not self.spiking else None
        if not self.spiking:
            assert a is not None
            share = a / (len(x) * self.unit())
            return share.expand(len(x), *share.shape)
        with torch.no_grad():
            out = self.neuron(self.current(x))
        if a is None or not a.requires_grad:
            return out
        return _Coupled.apply(a if self.norm is not None else a / self.unit(), out)  # pyright: ignore[reportReturnType]

    def rate(self, count: Tensor) -> Tensor:
        """What the rate units make of the input's sum over time, `(B, ...)`."""
        z = self.synapse(count)
        if self.norm is not None:
            z = self.norm(z.unsqueeze(0)).squeeze(0)
        return (self.resting if self.spiking else self.neuron)(z)

    def current(self, x: Tensor) -> Tensor:
        """The current of the neurons, `(T, B, ...)`."""
        gain, shift = self.fold()
        gain, shift = gain / self.threshold, shift / (self.threshold * len(x))
        if isinstance(self.synapse, nn.Linear | nn.Conv2d):
            weight = self.synapse.weight
            scaled = weight * gain.view(-1, *[1] * (weight.dim() - 1))
            return over_time(twin(self.synapse, scaled, shift), x)
        per_channel = (-1, *[1] * (x.dim() - 3))
        return x * gain.view(per_channel) + shift.view(per_channel)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Factor and summand of every channel that stand for norm and bias in evaluation."""
        norm: Any = self.norm
        bias = getattr(self.synapse, "bias", None)
        if norm is None:
            weight = getattr(self.synapse, "weight", self.threshold)
            one = weight.new_ones(len(weight) if weight.dim() else 1)
            return one, one * 0 if bias is None else bias
        eps = norm.eps if self.fold_eps is None else self.fold_eps
        gain = norm.weight / (norm.running_var + eps).sqrt()
        mean = norm.running_mean if bias is None else norm.running_mean - bias
        return gain, norm.bias - mean * gain

    def unit(self) -> Tensor:
        """The charge of a spike."""
        neuron = self.neuron if self.spiking else self.resting
        return self.threshold * getattr(neuron, "threshold", 1.0)

    def run_as(self, *, spiking: bool) -> None:
        """Choose which half gives the values."""
        if spiking != self.spiking:
            self.neuron, self.resting, self.spiking = self.resting, self.neuron, spiking

    def freeze(self, *, statistics: bool) -> None:
        """Keep the weights as they are, and the norm's running statistics too, if asked."""
        for p in self.parameters():
            p.requires_grad_(False).grad = None
        self.held = statistics
        self.train(self.training)

    def thaw(self) -> None:
        """Let everything be trained."""
        self.requires_grad_()
        self.held = False

    def train(self, mode: bool = True) -> "TandemLayer":
        """Training mode, but where statistics are kept."""
        return super().train(mode and not self.held)


class _Coupled(torch.autograd.Function):
    """The neurons' output with the rate units' gradient: the mean over time of what comes in."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, out: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.dtype = a.dtype
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        once = grad.stride(0) == 0
        return (grad[0] if once else grad.mean(0)).to(ctx.dtype), None


def twin(synapse: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Module:
    """The same map with other numbers."""
    other = copy.copy(synapse)
    other._parameters = {"weight": weight, "bias": bias}  # pyright: ignore[reportAttributeAccessIssue]
    return other


class SteadyDropout(Dropout):
    """Dropout that evaluation does not switch off."""

    def train(self, mode: bool = True) -> "SteadyDropout":
        """Training mode, always."""
        return super().train(True)


class Tandem(Rule):
    r"""Tandem learning: each layer passes spikes on, and learns through rate units that read spike counts.

    $$s = \mathrm{neuron}(I), \qquad a_l = \mathrm{relu}(\mathrm{norm}(W_l c_{l-1} + b_l)), \qquad
      \frac{\partial c_l}{\partial a_l} := 1, \qquad c_l = \sum_t s_{l,t}$$

    The weights are shared: the neurons' current is $W' s_{l-1,t} + b'/T$ with the norm folded in. The backward pass
    does not go through time. Between layers there may be what is linear or the same at every step; pools that take a
    maximum take the mean instead. The readout sums over time, so that the head reads counts.

    The weights are tested as an ANN as well, `test/acc_ann`: the same network with rates in the place of spikes, and
    the norms' statistics taken anew from a few batches of training data.

    **Arguments:**

    - `fold_eps`: added to the running variance where the norm is folded; null for the norm's own, which makes both
      halves agree; 0 in the authors' code, where a channel that is always silent divides by zero.
    - `norm_scale`: standard deviation of the norms' initial scales, drawn around 0; null keeps the model's.
    - `dropout_in_eval`: drop out in evaluation too, as the authors' code does.

    Wu et al., *A tandem learning rule for effective training and rapid inference of deep spiking neural networks*,
    TNNLS 2021.
    """

    needs = frozenset({"feedforward", "spikes", "soft_reset"})
    ignores = frozenset({"recompute", "surrogate"})

    def __init__(
        self,
        fold_eps: float | None = None,
        norm_scale: float | None = None,
        dropout_in_eval: bool = False,
    ):
        super().__init__()
        if fold_eps is not None and fold_eps < 0:
            raise ValueError(f"rule.fold_eps must be at least 0, or null; got {fold_eps}.")
        self.fold_eps, self.norm_scale = fold_eps, norm_scale
        self.dropout_in_eval = dropout_in_eval

    def adapt(self, net: nn.Module) -> nn.Module:
        """Put a tandem layer in the place of every layer."""
        for name, part in list(parts(net)):
            if isinstance(part, Layer):
                check(name, part)
                if self.norm_scale is not None and part.norm is not None:
                    assert isinstance(part.norm.weight, Tensor)
                    nn.init.normal_(part.norm.weight, 0, self.norm_scale)
                net.set_submodule(name, TandemLayer(part, self.fold_eps))
            elif isinstance(part, Pool) and part.kind == "max":
                part.kind = "avg"
            elif isinstance(part, Dropout) and self.dropout_in_eval:
                net.set_submodule(name, SteadyDropout(part.p, part.share))
        return net

    @torch.no_grad()
    def ann(self, net: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
        """The network of the rate units alone; its norms, which knew counts, measure rates."""
        other = copy.deepcopy(net).eval()
        norms: list[Any] = []
        for layer in tandem_layers(other).values():
            layer.run_as(spiking=False)
            norms += [] if layer.norm is None else [layer.norm.train()]
        for seen, x in enumerate(islice(calibration, CALIBRATION) if norms else ()):
            for norm in norms:
                norm.momentum = 1 / (seen + 1)  # the mean over all batches
            other(x)
        return other.eval()


def tandem_layers(net: nn.Module) -> dict[str, TandemLayer]:
    """The tandem layers of a network by name, in forward order."""
    return {name: layer for name, layer in layers(net) if isinstance(layer, TandemLayer)}


def check(name: str, layer: Layer) -> None:
    """Raise `ValueError` for a layer that has no two halves."""
    problem = None
    norm = layer.norm
    if layer.recurrent is not None:
        problem = "feeds itself"
    elif not isinstance(layer.synapse, nn.Linear | nn.Conv2d | nn.Identity):
        problem = f"has a synapse of the kind {type(layer.synapse).__name__}"
    elif any(True for _ in layer.neuron.parameters()):
        problem = "has neurons with parameters, which no gradient reaches"
    elif norm is not None and getattr(norm, "running_var", torch.zeros((0, 0))).dim() != 1:
        problem = f"has a norm that is not the same at every step, {type(norm).__name__}; use norm=batch or norm=none"
    if problem:
        raise ValueError(f"Tandem learning: {name} {problem}.")
