"""The neuron without a leak."""

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.neuron.reset import Reset, after_spike, check_reset
from snnrun.surrogate import Surrogate


class IF(Neuron):
    r"""Integrate-and-fire neuron.

    $$h_t = v_{t-1} + x_t, \qquad s_t = H(h_t - \theta), \qquad v_t = h_t (1 - s_t) + v_r s_t$$

    With `reset=soft`, $v_t = h_t - \theta s_t$; with `reset=none`, $v_t = h_t$.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `threshold`: firing threshold; a potential equal to it fires.
    - `reset`: `hard`, `soft` or `none`.
    - `reset_value`: potential at the start and after a hard reset.
    - `detach_reset`: let no gradient through the reset.

    Fang et al., *Deep residual learning in spiking neural networks*, NeurIPS 2021, eq. 1-3.
    """

    traits = frozenset({"spikes", "stepped", "integrating", "fixed_decay"})
    traits_if = {("reset", "hard"): {"hard_reset"}, ("reset", "soft"): {"soft_reset"}}

    def __init__(
        self,
        surrogate: Surrogate,
        threshold: float = 1.0,
        reset: Reset = "hard",
        reset_value: float = 0.0,
        detach_reset: bool = True,
    ):
        super().__init__()
        check_reset(reset)
        self.surrogate, self.threshold = surrogate, threshold
        self.reset: Reset = reset
        self.reset_value, self.detach_reset = reset_value, detach_reset

    def init_state(self, x: Tensor) -> State:
        return (torch.full_like(x, self.reset_value),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        h = v + x
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
