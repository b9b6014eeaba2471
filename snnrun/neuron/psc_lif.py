"""The LIF neuron that gives out its synaptic trace (postsynaptic current) instead of its spikes."""

from typing import Literal

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State, wide
from snnrun.surrogate import Surrogate

PSCReset = Literal["zero", "subtract"]


class PSCLIF(Neuron):
    r"""Leaky integrate-and-fire neuron whose output is a filter of its spikes: the current that they cause downstream.

    $$u_t = r_{t-1} + (x_t - r_{t-1} / \tau_m), \quad s_t = [u_t > \theta], \quad r_t = u_t (1 - s_t), \quad
      a_t = a_{t-1} + (s_t - a_{t-1}) / \tau_s$$

    The layer gives out $a$; a spike adds $1/\tau_s$ at once. With `reset=subtract`, $r_t = u_t - \theta s_t$.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass, where the rule has none of its own.
    - `tau_m`: membrane time constant in steps, at least 1.
    - `tau_s`: time constant of the trace in steps, at least 1.
    - `threshold`: firing threshold; a potential equal to it does not fire.
    - `reset`: `zero` or `subtract` (the threshold).
    - `detach_reset`: let no gradient through the reset.

    Zhang & Li, *Temporal Spike Sequence Learning via Backpropagation for Deep Spiking Neural Networks*, NeurIPS 2020.
    """

    traits = frozenset({"trace", "stepped", "leaky"})
    traits_if = {("reset", "zero"): {"hard_reset"}, ("reset", "subtract"): {"soft_reset"}}

    def __init__(
        self,
        surrogate: Surrogate,
        tau_m: float = 5.0,
        tau_s: float = 3.0,
        threshold: float = 1.0,
        reset: PSCReset = "zero",
        detach_reset: bool = True,
    ):
        super().__init__()
        for name, value in (("tau_m", tau_m), ("tau_s", tau_s)):
            if not 1 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 1 and finite, got {value}.")
        if reset not in ("zero", "subtract"):
            raise ValueError(f"reset must be zero or subtract, got {reset!r}.")
        self.surrogate, self.tau_m, self.tau_s, self.threshold = surrogate, tau_m, tau_s, threshold
        self.reset: PSCReset = reset
        self.detach_reset = detach_reset
        self.theta_m, self.theta_s = 1 / tau_m, 1 / tau_s

    def init_state(self, x: Tensor) -> State:
        return torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        r, a = state
        u = r + (x - self.theta_m * r)
        s = self.surrogate(u - self.threshold, strict=True)
        reset = s.detach() if self.detach_reset else s
        r = u * (1 - reset) if self.reset == "zero" else u - self.threshold * reset
        a = a + self.theta_s * (s - a)
        return a, (r, a)

    def spikes(self, out: Tensor) -> Tensor:
        """The spikes of a trace that begins at rest."""
        return unfilter(wide(out), self.tau_s).round().to(out.dtype)


def unfilter(a: Tensor, tau_s: float) -> Tensor:
    r"""What a trace that begins at rest was filtered from, along the leading axis, up to rounding.

    $$x_t = \tau_s (a_t - (1 - 1/\tau_s) a_{t-1})$$

    **Arguments:**

    - `a`: the trace, or a sum of traces with weights that are the same at all steps.
    - `tau_s`: its time constant.
    """
    before = torch.cat([torch.zeros_like(a[:1]), a[:-1]])
    return tau_s * (a - (1 - 1 / tau_s) * before)
