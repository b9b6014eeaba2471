"""The neuron of networks that are trained at their equilibrium."""

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.surrogate import Surrogate


class FeedbackLIF(Neuron):
    r"""Integrate-and-fire neuron that a spike takes down by the distance of threshold and rest, and that leaks last.

    $$h_t = v_{t-1} + x_t, \qquad s_t = H(h_t - \theta), \qquad v_t = \lambda (h_t - D s_t), \qquad D = \theta - v_r$$

    Its weighted rate $\sum_t \lambda^{T-t} s_t / \sum_t \lambda^{T-t}$ settles at the weighted mean of its current,
    divided by D and cut at 0 and 1. The potential starts at 0.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step, for rules that go back through time; `rule=ide` and `rule=spide`
      do not.
    - `threshold`: firing threshold; a potential equal to it fires.
    - `rest`: resting potential $v_r$, below the threshold: 0 in IDE, $-\theta$ in SPIDE.
    - `decay`: factor $\lambda$ on the potential, above 0 and at most 1; 1 for no leak.
    - `detach_reset`: let no gradient through the reset.

    Xiao et al., *Training feedback spiking neural networks by implicit differentiation on the equilibrium state*,
    NeurIPS 2021, and *SPIDE*, Neural Networks 2023.
    """

    traits = frozenset({"spikes", "stepped", "settling", "fixed_decay"})
    traits_if = {("decay", 1.0): {"integrating"}, ("rest", 0.0): {"soft_reset"}}

    def __init__(
        self,
        surrogate: Surrogate,
        threshold: float = 1.0,
        rest: float = 0.0,
        decay: float = 1.0,
        detach_reset: bool = True,
    ):
        super().__init__()
        if rest >= threshold:
            raise ValueError(
                f"neuron.rest must lie below neuron.threshold={threshold}, got {rest}."
            )
        if not 0 < decay <= 1:
            raise ValueError(f"neuron.decay must be above 0 and at most 1, got {decay}.")
        self.surrogate, self.threshold, self.rest = surrogate, threshold, rest
        self.decay, self.detach_reset = decay, detach_reset

    @property
    def swing(self) -> float:
        """D, what a spike subtracts."""
        return self.threshold - self.rest

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        h = v + x
        s = self.surrogate(h - self.threshold)
        v = h - self.swing * (s.detach() if self.detach_reset else s)
        return s, (v if self.decay == 1 else self.decay * v,)
