"""Neurons whose spike has the gradient of a clamp: ternary ones, and the binary ones that they are compared with."""

import torch
from torch import Tensor, nn

from snnrun.neuron.base import Neuron, State, per_channel


class Ternary(Neuron):
    r"""LIF neuron whose spikes have a sign, and a size that is learned.

    $$h_t = \kappa u_{t-1} + x_t, \quad r_t = \frac{h_t}{V}, \quad s_t = [r_t \ge \tfrac12] - [r_t \le -\tfrac12], \quad
      u_t = h_t (1 - |s_t|), \quad o_t = a\, s_t$$

    The derivative of a spike is that of a clamp, $\partial s / \partial r := [-1 \le r \le 1]$, and the reset has its
    gradient. The amplitude a starts at 1 and does not decay with the weights; deployed, it is folded into the weights
    that read the spikes.

    **Arguments:**

    - `decay`: factor kappa that keeps the potential from step to step.
    - `threshold`: V; a neuron fires at half of it, on either side of 0.
    - `learnable`: train the amplitude; without, it is 1 (the vanilla ternary spike).
    - `per_channel`: one amplitude a channel instead of one a layer; needs `channels`.
    - `channels`: number of channels (dimension 1 of a step); the model passes it.

    Guo et al., *Ternary Spike: Learning ternary spikes for spiking neural networks*, AAAI 2024.
    """

    traits = frozenset({"signed_spikes", "stepped", "leaky", "hard_reset"})
    undecayed = frozenset({"amplitude"})
    # the derivative at r = -1 and r = 1; torch's clamp had 1 there when the paper was written, and has had 0 since 2026
    ends = True

    def __init__(
        self,
        decay: float = 0.25,
        threshold: float = 1.0,
        learnable: bool = True,
        per_channel: bool = False,
        channels: int | None = None,
    ):
        super().__init__()
        check(decay, threshold)
        if per_channel and channels is None:
            raise ValueError("per_channel needs channels, the number of channels of the layer.")
        self.decay, self.threshold = decay, threshold
        size = (channels if per_channel and channels else 1,)
        self.amplitude = nn.Parameter(torch.ones(size)) if learnable else None

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (u,) = state
        h = self.decay * u + x
        s: Tensor = _Spike.apply(h / self.threshold, True, self.ends)  # pyright: ignore[reportAssignmentType]
        out = s if self.amplitude is None else per_channel(self.amplitude, x) * s
        return out, (h * (1 - s.abs()),)

    def spikes(self, out: Tensor) -> Tensor:
        """Spikes of either sign."""
        return out.ne(0).to(out.dtype)


class Binary(Neuron):
    r"""LIF neuron whose spike has the gradient of a clamp: what `neuron=ternary` is compared with.

    $$h_t = \kappa u_{t-1} + x_t, \quad r_t = \frac{h_t}{V}, \quad s_t = [r_t > \tfrac12], \quad
      u_t = h_t (1 - s_t), \quad \frac{\partial s}{\partial r} := [0 \le r \le 1]$$

    The reset has its gradient.

    **Arguments:**

    - `decay`: factor kappa that keeps the potential from step to step.
    - `threshold`: V; a neuron fires above half of it.

    Guo et al., *Ternary Spike: Learning ternary spikes for spiking neural networks*, AAAI 2024, its baseline.
    """

    traits = frozenset({"spikes", "stepped", "leaky", "hard_reset"})

    def __init__(self, decay: float = 0.25, threshold: float = 1.0):
        super().__init__()
        check(decay, threshold)
        self.decay, self.threshold = decay, threshold

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (u,) = state
        h = self.decay * u + x
        s: Tensor = _Spike.apply(h / self.threshold, False, True)  # pyright: ignore[reportAssignmentType]
        return s, (h * (1 - s),)


def check(decay: float, threshold: float) -> None:
    """Raise `ValueError` for constants that make no neuron."""
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay}.")
    if threshold <= 0:
        raise ValueError(f"threshold must be above 0, got {threshold}.")


class _Spike(torch.autograd.Function):
    """A step forward, a clamp backward, whose derivative at both ends is `ends`."""

    @staticmethod
    def forward(r: Tensor, signed: bool, ends: bool) -> Tensor:
        if signed:
            return (r >= 0.5).to(r.dtype) - (r <= -0.5).to(r.dtype)
        return (r > 0.5).to(r.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        r, signed, ctx.ends = inputs
        ctx.low = -1.0 if signed else 0.0
        ctx.save_for_backward(r)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (r,) = ctx.saved_tensors
        inside = (r >= ctx.low) & (r <= 1) if ctx.ends else (r > ctx.low) & (r < 1)
        return grad * inside.to(grad.dtype), None, None
