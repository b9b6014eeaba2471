"""The LIF neuron with a synaptic current of its own."""

import math

import torch
from torch import Tensor, nn

from snnrun.neuron.base import Neuron, State, per_channel
from snnrun.neuron.reset import after_spike
from snnrun.surrogate import Surrogate


class CubaLIF(Neuron):
    r"""Current-based LIF neuron: the input charges a current, the current charges the potential.

    $$c_t = d_c c_{t-1} + x_t, \quad h_t = d_v v_{t-1} + c_t, \quad s_t = [h_t > \theta], \quad v_t = h_t (1 - s_t)$$

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `current_decay`: factor d_c that keeps the current from step to step, between 0 and 1.
    - `decay`: factor d_v that keeps the potential, between 0 and 1.
    - `threshold`: firing threshold; a potential equal to it does not fire.
    - `detach_reset`: let no gradient through the reset.
    - `learnable`: train both decays, through a sigmoid.
    - `per_channel`: one pair of decays a channel instead of one a layer; needs `channels`.
    - `channels`: number of channels; the model passes it.

    Tang et al., *Deep RL with population-coded spiking neural network*, CoRL 2020, eq. 3-5.
    """

    traits = frozenset({"spikes", "stepped", "leaky", "hard_reset"})
    potential = 1

    def __init__(
        self,
        surrogate: Surrogate,
        current_decay: float = 0.5,
        decay: float = 0.75,
        threshold: float = 0.5,
        detach_reset: bool = True,
        learnable: bool = False,
        per_channel: bool = False,
        channels: int | None = None,
    ):
        super().__init__()
        for name, value in (("current_decay", current_decay), ("decay", decay)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}.")
        if per_channel and channels is None:
            raise ValueError("per_channel needs channels, the number of channels of the layer.")
        self.surrogate, self.current_decay, self.decay = surrogate, current_decay, decay
        self.threshold, self.detach_reset = threshold, detach_reset
        size = (channels if per_channel and channels else 1,)
        self.w = (
            nn.Parameter(torch.full(size, math.log(decay / (1 - decay)))) if learnable else None
        )
        self.w_current = (
            nn.Parameter(torch.full(size, math.log(current_decay / (1 - current_decay))))
            if learnable
            else None
        )

    def init_state(self, x: Tensor) -> State:
        return torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        c, v = state
        d_c: Tensor | float = self.current_decay
        d_v: Tensor | float = self.decay
        if self.w is not None and self.w_current is not None:
            d_c, d_v = (
                per_channel(torch.sigmoid(self.w_current), x),
                per_channel(torch.sigmoid(self.w), x),
            )
        c = d_c * c + x
        h = d_v * v + c
        s = self.surrogate(h - self.threshold, strict=True)
        v = after_spike(
            h, s, self.threshold, reset="hard", reset_value=0.0, detach=self.detach_reset
        )
        return s, (c, v)
