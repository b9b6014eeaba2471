"""The LIF neuron of desire backpropagation."""

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.surrogate import Surrogate


class DesireLIF(Neuron):
    r"""Leaky integrate-and-fire neuron that decays before it integrates; a spike subtracts 1, whatever the threshold.

    $$h_t = \lambda v_{t-1} + x_t, \qquad s_t = H(h_t - \theta), \qquad v_t = h_t - s_t$$

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step, for rules that have a backward pass; `rule=desire_bp` has none.
    - `decay`: factor $\lambda$ on the potential, in hardware $1 - 2^{-m}$.
    - `threshold`: firing threshold; a potential equal to it fires.
    - `detach_reset`: let no gradient through the reset.

    Gerlinghoff et al., *Desire backpropagation*, Neurocomputing 2023.
    """

    traits = frozenset({"spikes", "stepped", "leaky", "unit_reset", "fixed_decay"})

    def __init__(
        self,
        surrogate: Surrogate,
        decay: float = 0.75,
        threshold: float = 1.0,
        detach_reset: bool = True,
    ):
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be between 0 and 1, got {decay}.")
        self.surrogate, self.decay, self.threshold = surrogate, decay, threshold
        self.detach_reset = detach_reset

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        h = self.decay * v + x
        s = self.surrogate(h - self.threshold)
        return s, (h - (s.detach() if self.detach_reset else s),)
