"""The leaky integrate-and-fire neuron and its switches."""

import math

import torch
from torch import Tensor, nn

from snnrun.neuron.base import Neuron, State, per_channel
from snnrun.neuron.reset import Reset, after_spike, check_reset
from snnrun.surrogate import Surrogate


class LIF(Neuron):
    r"""Leaky integrate-and-fire neuron.

    $$h_t = v_{t-1} + \frac{x_t - (v_{t-1} - v_r)}{\tau}, \quad s_t = H(h_t - \theta), \quad
      v_t = h_t (1 - s_t) + v_r s_t$$

    With `decay_input=false`, $h_t = v_{t-1} - (v_{t-1} - v_r)/\tau + x_t$; with `reset=soft`, $v_t = h_t - \theta s_t$.
    A learnable $1/\tau$ is $k(w) = 1/(1 + e^{-w})$, which keeps $\tau$ above 1.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `tau`: membrane time constant in steps, > 1; where it is learnable, its start.
    - `threshold`: firing threshold; a potential equal to it fires.
    - `reset`: `hard`, `soft` or `none`.
    - `reset_value`: resting potential, the start and the value after a hard reset.
    - `decay_input`: divide the input by `tau` as well.
    - `detach_reset`: let no gradient through the reset.
    - `learnable`: train `tau`.
    - `per_channel`: one `tau` a channel instead of one a layer; needs `channels`.
    - `channels`: number of channels (dimension 1 of a step); the model passes it.

    Gerstner et al., *Neuronal Dynamics*, 2014, ch. 1.
    """

    traits = frozenset({"spikes", "stepped", "leaky"})
    traits_if = {
        ("reset", "hard"): {"hard_reset"},
        ("reset", "soft"): {"soft_reset"},
        ("learnable", False): {"fixed_decay"},
    }

    def __init__(
        self,
        surrogate: Surrogate,
        tau: float = 2.0,
        threshold: float = 1.0,
        reset: Reset = "hard",
        reset_value: float = 0.0,
        decay_input: bool = True,
        detach_reset: bool = True,
        learnable: bool = False,
        per_channel: bool = False,
        channels: int | None = None,
    ):
        super().__init__()
        check_reset(reset)
        if tau <= 1:
            raise ValueError(
                f"tau must be above 1, got {tau}. With tau=1 the neuron has no memory; raise tau,"
                " or use neuron=if for one that does not leak."
            )
        if per_channel and channels is None:
            raise ValueError("per_channel needs channels, the number of channels of the layer.")
        self.surrogate, self.tau, self.threshold = surrogate, tau, threshold
        self.reset: Reset = reset
        self.reset_value = reset_value
        self.decay_input, self.detach_reset = decay_input, detach_reset
        w = torch.full((channels if per_channel and channels else 1,), -math.log(tau - 1))
        self.w = nn.Parameter(w) if learnable else None

    def init_state(self, x: Tensor) -> State:
        return (torch.full_like(x, self.reset_value),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        drift = v if self.reset_value == 0 else v - self.reset_value
        if self.w is not None:
            k = per_channel(torch.sigmoid(self.w), x)
            h = v + (x - drift) * k if self.decay_input else v - drift * k + x
        else:
            h = v + (x - drift) / self.tau if self.decay_input else v - drift / self.tau + x
        s = self.surrogate(h - self.threshold)
        v = after_spike(
            h,
            s,
            self.threshold,
            reset=self.reset,
            reset_value=self.reset_value,
            detach=self.detach_reset,
        )
        return s, (v,)
