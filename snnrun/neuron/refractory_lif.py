"""The LIF neuron with a synapse and a refractory period, in the form that ST-RSBP trains."""

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.surrogate import Surrogate


class RefractoryLIF(Neuron):
    r"""Leaky integrate-and-fire neuron that is silent for some steps after a spike, while its synapse goes on.

    $$q_t = q_{t-1} - \frac{q_{t-1}}{\tau_s} + x_t, \qquad
      h_t = v_{t-1} - \frac{v_{t-1}}{\tau_m} + \frac{q_t}{\tau_s}, \qquad s_t = [h_t > \theta - \epsilon], \qquad
      v_t = h_t (1 - s_t)$$

    In the `refractory` steps after a spike h is 0; q is never reset.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step, for rules that need one; `rule=st_rsbp` does not.
    - `tau_m`, `tau_s`: time constants of membrane and synapse in steps, at least 1.
    - `threshold`: firing threshold.
    - `tolerance`: $\epsilon$, how far below the threshold a potential fires already.
    - `refractory`: steps of silence after a spike.
    - `detach_reset`: let no gradient through the reset.

    Zhang & Li, *Spike-train level backpropagation for training deep recurrent spiking neural networks*, NeurIPS 2019.
    """

    traits = frozenset({"spikes", "stepped", "leaky", "hard_reset", "refractory"})

    def __init__(
        self,
        surrogate: Surrogate,
        tau_m: float = 64.0,
        tau_s: float = 8.0,
        threshold: float = 1.0,
        tolerance: float = 1e-6,
        refractory: int = 2,
        detach_reset: bool = True,
    ):
        super().__init__()
        for name, value in (("tau_m", tau_m), ("tau_s", tau_s)):
            if value < 1:
                raise ValueError(f"neuron.{name} must be at least 1 step, got {value}.")
        if refractory < 0:
            raise ValueError(f"neuron.refractory must be at least 0, got {refractory}.")
        if not 0 <= tolerance < threshold:
            raise ValueError(
                f"neuron.tolerance must be at least 0 and below the threshold, got {tolerance} and {threshold}."
            )
        self.surrogate, self.tau_m, self.tau_s = surrogate, tau_m, tau_s
        self.threshold, self.tolerance, self.refractory = threshold, tolerance, refractory
        self.detach_reset = detach_reset

    def init_state(self, x: Tensor) -> State:
        return torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        v, q, rest = state
        q = q - q / self.tau_s + x
        h = v - v / self.tau_m + q / self.tau_s
        resting = rest > 0
        h = torch.where(resting, torch.zeros_like(h), h)
        s = self.surrogate(h - (self.threshold - self.tolerance), strict=True)
        rest = torch.where(s > 0, self.refractory, torch.where(resting, rest - 1, rest))
        return s, (h * (1 - (s.detach() if self.detach_reset else s)), q, rest)
