"""The neuron whose threshold adapts."""

import math

import torch
from torch import Tensor, nn

from snnrun.neuron.base import Neuron, State, per_channel
from snnrun.neuron.reset import after_spike
from snnrun.surrogate import Surrogate


class ALIF(Neuron):
    r"""Adaptive LIF neuron: every spike raises the threshold for a while.

    $$h_t = d\, v_{t-1} + x_t, \quad \theta_t = \theta_0 + \beta a_{t-1}, \quad s_t = H(h_t - \theta_t), \quad
      v_t = h_t - \theta_t s_t, \quad a_t = \rho a_{t-1} + s_t$$

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `decay`: factor d that keeps the potential from step to step, between 0 and 1.
    - `adaptation_decay`: factor rho that keeps the adaptation, between 0 and 1.
    - `beta`: rise of the threshold a spike.
    - `threshold`: threshold at rest.
    - `detach_reset`: let no gradient through the reset.
    - `learnable`: train both decays, through a sigmoid.
    - `per_channel`: one pair of decays a channel instead of one a layer; needs `channels`.
    - `channels`: number of channels; the model passes it.

    Bellec et al., *Long short-term memory and learning-to-learn in networks of spiking neurons*, NeurIPS 2018, eq. 1-3.
    """

    traits = frozenset({"spikes", "stepped", "leaky", "soft_reset", "adaptive"})

    def __init__(
        self,
        surrogate: Surrogate,
        decay: float = 0.8,
        adaptation_decay: float = 0.9,
        beta: float = 0.5,
        threshold: float = 1.0,
        detach_reset: bool = True,
        learnable: bool = False,
        per_channel: bool = False,
        channels: int | None = None,
    ):
        super().__init__()
        for name, value in (("decay", decay), ("adaptation_decay", adaptation_decay)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}.")
        if per_channel and channels is None:
            raise ValueError("per_channel needs channels, the number of channels of the layer.")
        self.surrogate, self.decay, self.adaptation_decay = surrogate, decay, adaptation_decay
        self.beta, self.threshold, self.detach_reset = beta, threshold, detach_reset
        size = (channels if per_channel and channels else 1,)
        self.w = (
            nn.Parameter(torch.full(size, math.log(decay / (1 - decay)))) if learnable else None
        )
        self.w_adaptation = (
            nn.Parameter(torch.full(size, math.log(adaptation_decay / (1 - adaptation_decay))))
            if learnable
            else None
        )

    def init_state(self, x: Tensor) -> State:
        return torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        v, a = state
        d: Tensor | float = self.decay
        rho: Tensor | float = self.adaptation_decay
        if self.w is not None and self.w_adaptation is not None:
            d, rho = (
                per_channel(torch.sigmoid(self.w), x),
                per_channel(torch.sigmoid(self.w_adaptation), x),
            )
        h = d * v + x
        threshold = self.threshold + self.beta * a
        s = self.surrogate(h - threshold)
        v = after_spike(h, s, threshold, reset="soft", reset_value=0.0, detach=self.detach_reset)
        return s, (v, rho * a + s)
