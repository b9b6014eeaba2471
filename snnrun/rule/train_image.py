"""Convolutions and pools that differentiate whole spike trains, with effects in closed form."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from snnrun.model.layers import Layer
from snnrun.neuron import RefractoryLIF
from snnrun.neuron.base import carrying
from snnrun.rule.delay import Delay
from snnrun.rule.effect_table import effect_table
from snnrun.rule.spike_train import bounded, powers, slopes, spike_times
from snnrun.rule.train_layer import Trains

REACH = 4  # membrane time constants that an input spike is remembered for
SILENT = 0.1  # effect of a train that fires on one that does not


def traces(pre: Tensor, neuron: RefractoryLIF) -> tuple[Tensor, Tensor]:
    """Trains filtered with the time constants of membrane and synapse, each `(T, ...)`."""
    found = []
    for tau in (neuron.tau_m, neuron.tau_s):
        decay, now, out = math.exp(-1 / tau), torch.zeros_like(pre[0]), torch.empty_like(pre)
        for t, step in enumerate(pre.unbind(0)):
            now = torch.add(step, now, alpha=decay, out=out[t])
        found.append(out)
    return found[0], found[1]


def closed_marks(post: Tensor, neuron: RefractoryLIF) -> tuple[Tensor, Tensor]:
    r"""What of the `traces` is to be added up for the effect on each train, `(T, ...)`.

    An input at $t_j$ adds to an output spike at $t_i$, whose rest ended at l (1 before any), with
    $a = t_i - l$ and $b = t_i - t_j - t_{ref} \ge 0$

    $$\frac{e^{-\max(b - a, 0)/\tau_s}}{1 - \tau_s/\tau_m}
      \left(e^{-\min(a, b)/\tau_m} - e^{-\min(a, b)/\tau_s}\right), \qquad
      \max(1, \lfloor t_i - 4 \tau_m \rfloor) \le t_j < t_i.$$

    A sum over all inputs since some step is a trace less what is left of the trace before that step.
    """
    rest, tau_m, tau_s = neuron.refractory, neuron.tau_m, neuron.tau_s
    owner, time, before = spike_times(post.flatten(1))
    rested = torch.where(before < 0, 1, before + rest)
    last, edge = time - rest, rested - rest  # the last input that counts; the first since the rest
    oldest = (time - math.ceil(REACH * tau_m)).clamp(min=1)
    first = torch.maximum(oldest, edge)
    until = torch.minimum(edge - 1, last)  # the last input before the rest
    near, far = last >= first, until >= oldest
    a = (time - rested).to(post.dtype)
    old = torch.exp(-a / tau_m) - torch.exp(-a / tau_s)

    def left(steps: Tensor, tau: float) -> Tensor:
        return torch.exp(-steps.to(post.dtype) / tau)

    one = torch.ones_like(old)
    entries = [
        [(near, last, one), (near, first - 1, -left(last - first + 1, tau_m))],
        [
            (near, last, -one),
            (near, first - 1, left(last - first + 1, tau_s)),
            (far, until, old * left(edge - until, tau_s)),
            (far, oldest - 1, -old * left(edge - oldest + 1, tau_s)),
        ],
    ]
    found = []
    for listed in entries:
        out = torch.zeros_like(post).flatten(1)
        where = torch.cat([at[on] for on, at, _ in listed])
        who = torch.cat([owner[on] for on, _, _ in listed])
        what = torch.cat([value[on] for on, _, value in listed])
        out.index_put_((where, who), what / (1 - tau_s / tau_m), accumulate=True)
        found.append(out.view_as(post))
    return found[0], found[1]


class TrainImage(Layer):
    """What convolutions and pools have in common: how they fire, and where their gradients come from."""

    neuron: RefractoryLIF  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, synapse: nn.Module, neuron: nn.Module):
        super().__init__(synapse, Delay(), neuron)

    @torch.compiler.disable
    def _run(self, x: Tensor) -> Tensor:
        if carrying() or x.is_meta:
            return super()._run(x)
        return Trains.apply(self, x, getattr(self.synapse, "weight", None), None)  # pyright: ignore[reportReturnType]

    def fire(self, x: Tensor) -> Tensor:
        """Output trains of input trains."""
        return super()._run(x)


class TrainConv(TrainImage):
    r"""A convolution whose gradient is one of spike counts: as a dense layer's, summed over positions.

    An effect on a silent neuron is 0.1 if the input fires.

    **Arguments:**

    - `layer`: what it takes the place of.
    - `rows`: rows of the table of effects.
    - `reference`: truncate the side effect to an integer, as the authors' code does.
    - `first`: whether it reads the data; with `reference` it then has no side effect.
    """

    synapse: nn.Conv2d  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, layer: Layer, rows: int = 100, reference: bool = False, first: bool = False):
        super().__init__(layer.synapse, layer.neuron)
        self.rows, self.reference, self.first = rows, reference, first
        self.table: Tensor | None = None  # in place of that for the neuron and T

    def gradients(
        self, x: Tensor, spikes: Tensor, delta: Tensor, below: bool
    ) -> tuple[Tensor, None, Tensor | None]:
        """As of `TrainLayer.gradients`, for images."""
        pre, post = x.sum(0), spikes.sum(0)
        gain = delta / self.neuron.threshold
        gain = gain / bounded(1 - self.side_effect(len(x), pre, post))
        pairs = list(zip(closed_marks(spikes, self.neuron), traces(x, self.neuron), strict=True))
        idle = gain * (post == 0)
        grad = SILENT * self.weight_gradient((pre > 0).to(x.dtype), idle)
        for mark, trace in pairs:
            grad = grad + self.weight_gradient(trace.flatten(0, 1), (gain * mark).flatten(0, 1))
        if not below:
            return grad, None, None
        sent = torch.zeros_like(pre)
        for mark, trace in pairs:
            down = self.down((gain * mark).flatten(0, 1), x.shape[-2:])
            sent += (down.view_as(trace) * trace).sum(0)
        half = self.down(idle, pre.shape[-2:]) / 2
        quiet = self.down(gain, pre.shape[-2:]) / 2
        return grad, None, torch.where(pre == 0, quiet, sent / pre.clamp(min=1) + half)

    def side_effect(self, steps: int, pre: Tensor, post: Tensor) -> Tensor:
        """1 - B, `(B, O, H, W)`."""
        if self.reference and self.first:
            return torch.zeros_like(post)
        table = self.table
        if table is None:
            table = effect_table(self.neuron, steps, self.rows)
        table = table.to(post.device)
        images = slopes(table, pre).to(pre.dtype).movedim(-1, 0)
        drive = self.up(images.flatten(0, 1)).view(4, *post.shape).movedim(0, -1)
        sums = (drive * powers(post.clamp(max=len(table)))).sum(-1) / self.neuron.threshold
        sums = torch.where(post == 0, 0.0, sums)
        return sums.trunc() if self.reference else sums

    def up(self, images: Tensor) -> Tensor:
        """The convolution of images `(N, C, H, W)`, without a bias."""
        c = self.synapse
        return functional.conv2d(images, c.weight, None, c.stride, c.padding, c.dilation, c.groups)

    def down(self, images: Tensor, size: Any) -> Tensor:
        """Its transpose: `(N, O, H, W)` to images of the input's size."""
        c = self.synapse
        shape = (len(images), c.in_channels, *size)
        how: Any = (c.stride, c.padding, c.dilation, c.groups)
        return conv2d_input(shape, c.weight.detach(), images, *how)

    def weight_gradient(self, images: Tensor, grad: Tensor) -> Tensor:
        """The sum over positions and images of products of input and output."""
        c = self.synapse
        how: Any = (c.stride, c.padding, c.dilation, c.groups)
        return conv2d_weight(images, c.weight.shape, grad, *how)


class SumPool(nn.Module):
    """The sum over square windows.

    **Arguments:**

    - `size`: side of a window.
    - `ceil`: let the last window be smaller instead of leaving it out.
    """

    def __init__(self, size: int, ceil: bool = False):
        super().__init__()
        self.size, self.ceil = size, ceil

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to smaller images."""
        return functional.avg_pool2d(x, self.size, ceil_mode=self.ceil, divisor_override=1)


class TrainPool(TrainImage):
    r"""Pooling by neurons that read their window with weights of 1: $\delta_j = \delta_i e_{i|j} / (k^2 o_j)$.

    **Arguments:**

    - `size`: side k of a window.
    - `neuron`: what fires.
    - `ceil`: let the last window be smaller instead of leaving it out.
    """

    synapse: SumPool  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, size: int, neuron: RefractoryLIF, ceil: bool = False):
        super().__init__(SumPool(size, ceil), neuron)

    def gradients(
        self, x: Tensor, spikes: Tensor, delta: Tensor, below: bool
    ) -> tuple[None, None, Tensor]:
        """As of `TrainLayer.gradients`, for images; there are no weights."""
        pre = x.sum(0)
        effect = torch.zeros_like(pre)
        for mark, trace in zip(
            closed_marks(spikes, self.neuron), traces(x, self.neuron), strict=True
        ):
            effect += (self.spread(mark, pre) * trace).sum(0)
        error = self.spread(delta, pre) / self.synapse.size**2
        return None, None, error * effect / pre.clamp(min=1)

    def spread(self, images: Tensor, like: Tensor) -> Tensor:
        """Every position's value at all positions of its window."""
        k = self.synapse.size
        height, width = like.shape[-2:]
        wide = images.repeat_interleave(k, -2).repeat_interleave(k, -1)[..., :height, :width]
        missing = (0, width - wide.shape[-1], 0, height - wide.shape[-2])
        return functional.pad(wide, missing)
