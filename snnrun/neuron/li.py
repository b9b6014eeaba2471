"""The integrator that never fires."""

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State


class LI(Neuron):
    r"""Leaky integrator: its output is its potential. It reads a network out; it does not spike.

    $$v_t = v_{t-1} + \frac{x_t - v_{t-1}}{\tau}$$

    With `decay_input=false`, $v_t = v_{t-1} - v_{t-1}/\tau + x_t$; with `tau=inf` and that, a plain sum.

    **Arguments:**

    - `tau`: membrane time constant in steps, at least 1.
    - `decay_input`: divide the input by `tau` as well.

    Bellec et al. 2018, readout neurons.
    """

    traits = frozenset({"potential", "stepped", "leaky"})

    def __init__(self, tau: float = 2.0, decay_input: bool = True):
        super().__init__()
        if tau < 1:
            raise ValueError(f"tau must be at least 1, got {tau}.")
        if tau == float("inf") and decay_input:
            raise ValueError(
                "tau=inf with decay_input=true ignores every input; set decay_input=false to sum the input."
            )
        self.tau, self.decay_input = tau, decay_input

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def spikes(self, out: Tensor) -> Tensor:
        """None: an integrator does not fire."""
        return torch.zeros_like(out)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        v = v + (x - v) / self.tau if self.decay_input else v - v / self.tau + x
        return v, (v,)
