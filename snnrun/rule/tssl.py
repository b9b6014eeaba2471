"""Temporal spike sequence learning via backpropagation (TSSL-BP)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from snnrun.neuron.base import Kernel, Neuron, OwnBackward, State, wide
from snnrun.neuron.psc_lif import PSCLIF
from snnrun.rule.trace import TraceRule

Warmup = Literal["trace", "rate", "off", "always"]


@dataclass(frozen=True)
class Timing:
    r"""One step back of TSSL-BP, from the gradient of the trace to that of the current.

    $$E_t = \frac{G_t}{\tau_s} + (1 - \frac{1}{\tau_s}) E_{t+1}, \qquad h_t = s_t \min(8, \max(0, 1/d_t)), \qquad
      \delta_t = h_t E_t + \delta_{t+1} \left(\frac{u_t h_t}{\tau_m} + (1 - \frac{1}{\tau_m})(1 - s_t)\right)$$

    The current's gradient is $\delta_t$; with `warmup=trace` it is $D_t E_t$ where $a_t < 1/(4 \tau_s)$, which does
    not enter $\delta$. The carries are $\delta$ in the slot of the potential and $(1 - 1/\tau_s) \tau_s E$ in the
    trace's.
    """

    warmup: bool = True
    bound: float = 8.0  # on 1/d
    width: float = 0.2  # of the dense derivative
    clip: float = 8.0  # on its argument

    def __call__(
        self, neuron: Any, x: Tensor, state: State, out: Tensor, grad_out: Tensor, grad_state: State
    ) -> tuple[Tensor, State]:
        """Input, state before the step and gradients from above and from later, to gradient of `x` and carries."""
        d, u = rise(neuron, x, state)
        delta, later = grad_state
        later = later + grad_out
        error = neuron.theta_s * later
        fired = u > neuron.threshold
        moved = (1 / d).clamp(0, self.bound) * (error + neuron.theta_m * u * delta)
        delta = torch.where(fired, moved, (1 - neuron.theta_m) * delta)
        carries = (delta, (1 - neuron.theta_s) * later)
        if not self.warmup:
            return delta, carries
        warm = dense(neuron, u, self.width, self.clip) * error
        return torch.where(out < neuron.theta_s / 4, warm, delta), carries


@dataclass(frozen=True)
class Dense:
    r"""One step back of the dense rule alone: $g_t = D_t E_t$, with nothing carried through the potential."""

    width: float = 0.2
    clip: float = 8.0

    def __call__(
        self, neuron: Any, x: Tensor, state: State, out: Tensor, grad_out: Tensor, grad_state: State
    ) -> tuple[Tensor, State]:
        """As `Timing`."""
        _, u = rise(neuron, x, state)
        later = grad_state[1] + grad_out
        grad = dense(neuron, u, self.width, self.clip) * (neuron.theta_s * later)
        return grad, (torch.zeros_like(grad), (1 - neuron.theta_s) * later)


@dataclass(frozen=True)
class EarlyTiming:
    r"""One step back of the timing rule of the paper's time, used in layers that fire enough.

    $$N_t = s_t G_t + (1 - s_t)(1 - \frac{1}{\tau_m}) N_{t+1}, \quad
      F_t = \frac{1}{\tau_s}\left(G_t + \frac{s_t u_t}{\tau_m} N_{t+1}\right) + (1 - \frac{1}{\tau_s}) F_{t+1}, \quad
      g_t = s_t \min(10, \max(-10, 1/d_t))\, F_t$$

    $N$ is what the next spike gets: with it, the T x T matrix of the reset's effects is a recursion. Its carry lies in
    the slot of the potential.
    """

    bound: float = 10.0

    def __call__(
        self, neuron: Any, x: Tensor, state: State, out: Tensor, grad_out: Tensor, grad_state: State
    ) -> tuple[Tensor, State]:
        """As `Timing`."""
        d, u = rise(neuron, x, state)
        s = (u > neuron.threshold).to(u.dtype)
        following, later = grad_state
        later = later + grad_out + neuron.theta_m * s * u * following
        grad = (1 / d).clamp(-self.bound, self.bound) * s * (neuron.theta_s * later)
        following = s * grad_out + (1 - s) * (1 - neuron.theta_m) * following
        return grad, (following, (1 - neuron.theta_s) * later)


@dataclass(frozen=True)
class RateWarmup:
    """A kernel with one decision for each layer and batch: `fired` if spikes are frequent, else `silent`.

    **Arguments:**

    - `limit`: mean number of spikes a neuron and step above which a layer counts as firing.
    - `fired`, `silent`: kernels with a step back of their own.
    """

    limit: float = 0.1
    fired: Kernel = OwnBackward(EarlyTiming())
    silent: Kernel = OwnBackward(Dense())

    def __call__(self, neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run `neuron` over the leading axis of `x`; once more, where gradients are wanted."""
        assert isinstance(neuron, PSCLIF)
        with torch.no_grad():
            out, final = self.silent(neuron, x, state)
        if not torch.is_grad_enabled() or x.is_meta:  # a dry run has no numbers to decide by
            return out, final
        # the sum of all s[t] = a[t-1] + tau_s (a[t] - a[t-1])
        before, after = state[1].detach(), final[1]
        spikes = before + wide(out[:-1]).sum(0) + neuron.tau_s * (after - before)
        often = float(spikes.mean(dtype=torch.float64)) / len(x) > self.limit
        return (self.fired if often else self.silent)(neuron, x, state)


def rise(neuron: PSCLIF, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Increment and potential of a step."""
    r, _ = state
    d = x - neuron.theta_m * r
    return d, r + d


def dense(neuron: PSCLIF, u: Tensor, width: float, clip: float) -> Tensor:
    """The derivative of a sigmoid of this width at the threshold."""
    e = torch.exp(((neuron.threshold - u) * (1 / width)).clamp(-clip, clip))
    return e / (width * ((1 + e) * (1 + e)))


class TSSL(TraceRule):
    r"""TSSL-BP: the gradient of a trace reaches a neuron through the times of its spikes.

    A spike moves in time as its potential rises more steeply, by $1/d$ of the increment $d$, at most 8; a later spike
    depends on it through the reset, and on the leak through silent steps. A neuron whose trace is small has no spike to
    move: until it fires ("warm-up") it learns from a dense derivative instead. The whole is a recursion back in time
    (`Timing`), O(T) where it was published as O(T^2).

    **Arguments:**

    - `warmup`: `trace` warms up each neuron whose trace is below $1/(4 \tau_s)$; `rate`, as in the paper's time,
      whole layers that fire less than `rate_limit`, the others with an earlier form of the timing rule
      (`EarlyTiming`); `always` uses the dense derivative only; `off` never does.
    - `rate_limit`: spikes a neuron and step, averaged over a layer and a batch, above which `warmup=rate` ends; the
      paper's code had 0.1, later 0.05. In a recurrent layer the decision is made at each step.

    The rest as in `TraceRule`:

    - `pooling`: `keep` what the model says, or make every pool the `sum` of its window times `theta`.
    - `theta`: gain of sum pooling.
    - `dropout`: `element` draws for every neuron, `row` for every row of an image.
    - `init`: `keep` the model's initial weights, or `kaiming`.
    - `dense_weight_scale`, `conv_weight_scale`: factors on the initial weights.
    - `weight_clip`: bound on every weight after each step; null for none.

    Zhang & Li, *Temporal Spike Sequence Learning via Backpropagation for Deep Spiking Neural Networks*, NeurIPS 2020.
    """

    needs = frozenset({"trace", "hard_reset"})
    ignores = frozenset({"surrogate"})

    def __init__(self, warmup: Warmup = "trace", rate_limit: float = 0.1, **common: Any):
        super().__init__(**common)
        if warmup not in ("trace", "rate", "off", "always"):
            raise ValueError(f"rule.warmup must be trace, rate, off or always, got {warmup!r}.")
        self.warmup, self.rate_limit = warmup, rate_limit

    def kernel(self, neuron: Neuron) -> Kernel:
        """The rule's own backward for neurons that give out traces; others keep theirs."""
        if "trace" not in neuron.traits:
            return super().kernel(neuron)
        match self.warmup:
            case "rate":
                return RateWarmup(self.rate_limit)
            case "always":
                return OwnBackward(Dense())
            case warmup:
                return OwnBackward(Timing(warmup == "trace"))
