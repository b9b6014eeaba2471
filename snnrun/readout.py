"""How the output sequence of a network becomes one score a class, and what the last layer is."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Layer, NormFactory
from snnrun.neuron import Neuron
from snnrun.neuron.base import wide
from snnrun.neuron.dsr import Clamping


class Readout(nn.Module):
    r"""The head of a network and the reduction of its outputs over time.

    $$z = \mathrm{reduce}_t\, o_t, \qquad o_t = n(\mathrm{norm}(W x_t + b))$$

    **Arguments:**

    - `reduce`: `mean`, `sum`, `last` or `max` over time.
    - `neuron`: factory of the output neuron; null for a plain Linear head.
    - `norm`: factory of a normalisation before it; null for none.
    - `bias`: give the head a bias.

    The plain head with the mean is the default everywhere: a spiking output has logits between 0 and 1 under cross
    entropy, which costs points.
    """

    decay = 1.0  # what a step counts in the mean, relative to the one after it

    def __init__(
        self,
        reduce: Literal["mean", "sum", "last", "max"] = "mean",
        neuron: Callable[[int], Neuron] | None = None,
        norm: NormFactory | None = None,
        bias: bool = True,
    ):
        super().__init__()
        if reduce not in ("mean", "sum", "last", "max"):
            raise ValueError(f"reduce must be mean, sum, last or max, got {reduce!r}.")
        self.reduce, self.neuron, self.norm, self.bias = reduce, neuron, norm, bias

    def head(self, features: int, classes: int) -> Layer:
        """The last layer of a network."""
        norm = self.norm(classes) if self.norm else None
        neuron = self.neuron(classes) if self.neuron else None
        return Layer(nn.Linear(features, classes, bias=self.bias), norm, neuron)

    def forward(self, out: Tensor) -> Tensor:
        """`(T, B, C)` to `(B, C)`."""
        match self.reduce:
            case "mean":
                return weighted_mean(out, self.decay)
            case "sum":
                return out.sum(0)
            case "last":
                return out[-1]
            case _:
                return out.amax(0)

    def running(self, out: Tensor) -> Tensor:
        """`(T, B, C)` to the same shape: what `forward` makes of the first step, of the first two, and so on."""
        match self.reduce:
            case "mean":
                return weighted_means(out, self.decay)
            case "sum":
                return out.cumsum(0)
            case "last":
                return out
            case _:
                return out.cummax(0).values


class SpikingReadout(Readout):
    r"""A head of spiking neurons, read by rate or count.

    $$z = \frac{1}{T} \sum_t s_t \quad \text{or} \quad z = \sum_t s_t, \qquad s_t = n(W x_t + b)$$

    **Arguments:** as `Readout`; `neuron` is the network's own.
    """

    traits = frozenset({"spiking_output"})
    needs = frozenset({"spikes"})


class RepresentationReadout(Readout):
    r"""A head of normalised neurons whose rate is a clamp, read by it: the average that their input is clamped in.

    $$z = \bar o = \sum_t \beta^{T-t} o_t / \sum_t \beta^{T-t}, \qquad o_t = n(\mathrm{norm}(W x_t + b))$$

    **Arguments:** as `Readout`; `neuron` and `norm` are the network's own.

    Meng et al., CVPR 2022.
    """

    needs = frozenset({"clamped_rate"})

    def head(self, features: int, classes: int) -> Layer:
        """The last layer of a network, whose neurons say what steps count."""
        layer = super().head(features, classes)
        self.decay = layer.neuron.decay if isinstance(layer.neuron, Clamping) else 1.0
        return layer


class TraceReadout(Readout):
    r"""A head of spiking neurons that give out traces, read by their sum over time.

    $$z = \sum_t a_t, \qquad a_t = n(W x_t + b)$$

    **Arguments:** as `Readout`; `neuron` is the network's own.

    Zhang & Li, NeurIPS 2020.
    """

    traits = frozenset({"spiking_output", "trace_output"})
    needs = frozenset({"trace"})


class IntegratorReadout(Readout):
    r"""A head of integrators that never fire, read by their potential.

    $$z = \max_t v_t \quad \text{or} \quad z = v_T$$

    **Arguments:** as `Readout`; `neuron` is an integrator such as `snnrun.neuron.LI`.
    """


class RateReadout(Readout):
    r"""A Linear head, read by a mean over time that weighs late steps more: what the head makes of the weighted rate.

    $$z = \frac{\sum_t \lambda^{T-t} o_t}{\sum_t \lambda^{T-t}}, \qquad o_t = W s_t + b$$

    **Arguments:** as `Readout`, without `reduce`, and

    - `decay`: $\lambda$, that of the network's neurons; 1 for the plain mean.

    Xiao et al., *Training feedback spiking neural networks by implicit differentiation on the equilibrium state*,
    NeurIPS 2021.
    """

    traits = frozenset({"rate_readout"})

    def __init__(
        self,
        decay: float = 1.0,
        neuron: Callable[[int], Neuron] | None = None,
        norm: NormFactory | None = None,
        bias: bool = True,
    ):
        super().__init__("mean", neuron, norm, bias)
        if not 0 < decay <= 1:
            raise ValueError(f"readout.decay must be above 0 and at most 1, got {decay}.")
        self.decay = decay


class FirstSpikeReadout(Readout):
    r"""A head of neurons that fire once, read by their spike times: the first one decides.

    $$z = -t$$

    An output that is silent scores minus infinity; of equal scores that of the first class wins.

    **Arguments:** as `Readout`, without `reduce`; `neuron` is the network's own.
    """

    traits = frozenset({"time_output"})
    needs = frozenset({"loss_of_times", "spike_times"})

    def __init__(
        self,
        neuron: Callable[[int], Neuron] | None = None,
        norm: NormFactory | None = None,
        bias: bool = False,
    ):
        super().__init__("last", neuron, norm, bias)

    def forward(self, out: Tensor) -> Tensor:
        """`(1, B, C)` to `(B, C)`."""
        return -super().forward(out)

    def running(self, out: Tensor) -> Tensor:
        """`(1, B, C)` to the same shape."""
        return -super().running(out)


def weighted_mean(out: Tensor, decay: float) -> Tensor:
    """The mean over time of `(T, ...)`, in which every step back counts less by a factor."""
    if decay == 1:
        return out.mean(0)
    weights = _weights(out, decay)
    return (weights / weights.sum() * out).sum(0)


def weighted_means(out: Tensor, decay: float) -> Tensor:
    """`weighted_mean` of the first step, of the first two, and so on."""
    weights = _weights(out, decay)
    return (weights * out).cumsum(0) / weights.cumsum(0)


def _weights(out: Tensor, decay: float) -> Tensor:
    weights = [decay**age for age in range(len(out) - 1, -1, -1)]
    dtype = wide(out[:0]).dtype
    return torch.tensor(weights, dtype=dtype, device=out.device).view(-1, *[1] * (out.dim() - 1))
