"""The neuron of converted networks whose threshold follows its potential and its input."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from snnrun.neuron.base import Neuron, State, per_channel
from snnrun.neuron.burst import after_burst, burst, check_burst
from snnrun.surrogate import Surrogate


class MSAT(Neuron):
    r"""Multi-stage adaptive threshold: an integrate-and-fire neuron with a threshold of its own at every step.

    $$\theta_t = \theta\, \sigma\!\big( \tau_{mp} (\alpha d_t - \theta + k_a \ln(1 + e^{d_t / k_i}))
      + \tau_{rd}\, e^{-x_t / C} \big), \qquad d_t = v_{t-1} - \tfrac{1}{t} \sum_{k<t} v_k, \qquad \theta_0 = \theta$$
    $$h_t = v_{t-1} + x_t, \qquad k_t = \min(\lfloor h_t / \theta_t \rfloor, \gamma)_{\ge 0}, \qquad
      v_t = h_t - \theta_t k_t, \qquad o_t = \theta_t k_t$$

    A spike is as large as the threshold that it passed. The constants are not free of scale: the first term depends on
    the potential's history (dynamic tracking threshold), the second on the input (dynamic evoked threshold).

    **Arguments:**

    - `surrogate`: derivative of each of the Heaviside steps, used in the backward pass.
    - `threshold`: the largest threshold, and that of the first step; `rule=conversion` sets it to the layer's scale.
    - `alpha`, `ka`, `ki`: weights of the potential's distance from its mean.
    - `C`: scale of the input's influence.
    - `tau_mp`, `tau_rd`: weights of the two terms.
    - `use_dtt`, `use_det`: have the first term, the second; without either the threshold is constant.
    - `gamma`: most spikes a step.
    - `reset`: `soft` subtracts the threshold for each spike, `hard` sets the potential to `reset_value`.
    - `reset_value`: potential at the start and after a hard reset, in units of `threshold`.
    - `unit`: what `rule=conversion` does: `activation` states the constants in the unit of the ANN's activations;
      `normalised` divides the input by the layer's scale first, which makes another neuron.

    He et al., *MSAT: Biologically inspired multi-stage adaptive threshold for conversion of spiking neural networks*,
    arXiv 2303.13080, 2023.
    """

    traits = frozenset({"graded", "stepped", "integrating", "adaptive"})
    traits_if = {("reset", "hard"): {"hard_reset"}, ("reset", "soft"): {"soft_reset"}}

    def __init__(
        self,
        surrogate: Surrogate,
        threshold: float = 1.0,
        alpha: float = 0.3,
        ka: float = 1.0,
        ki: float = 1.0,
        C: float = 5.0,
        tau_mp: float = 0.5,
        tau_rd: float = 0.5,
        use_dtt: bool = True,
        use_det: bool = True,
        gamma: int = 1,
        reset: Literal["hard", "soft"] = "soft",
        reset_value: float = 0.0,
        unit: Literal["activation", "normalised"] = "activation",
    ):
        super().__init__()
        check_burst(gamma, reset)
        if ki == 0 or C == 0:
            raise ValueError(f"ki and C divide, and must not be 0; got {ki} and {C}.")
        if unit not in ("activation", "normalised"):
            raise ValueError(f"unit must be activation or normalised, got {unit!r}.")
        self.surrogate = surrogate
        self.threshold: float | Tensor = threshold
        self.alpha, self.ka, self.ki, self.C = alpha, ka, ki, C
        self.tau_mp, self.tau_rd = tau_mp, tau_rd
        self.use_dtt, self.use_det, self.gamma = use_dtt, use_det, gamma
        self.reset: Literal["hard", "soft"] = reset
        self.reset_value = reset_value
        self.unit: Literal["activation", "normalised"] = unit

    def _largest(self, x: Tensor) -> Tensor | float:
        theta = self.threshold
        return per_channel(theta, x) if isinstance(theta, Tensor) else theta

    def init_state(self, x: Tensor) -> State:
        """The potential, its sum over all past steps, and their number."""
        zero = torch.zeros_like(x)
        return zero + self.reset_value * self._largest(x), zero, zero

    def threshold_at(self, x: Tensor, state: State) -> Tensor:
        """The threshold of a step, from its input and the state before it."""
        v, total, count = state
        largest = self._largest(x)
        d = v - total / count.clamp(min=1)
        drive = torch.zeros_like(x)
        if self.use_dtt:
            track = self.ka * functional.softplus(d / self.ki)
            drive = drive + self.tau_mp * (self.alpha * d - largest + track)
        if self.use_det:
            drive = drive + self.tau_rd * torch.exp(-x / self.C)
        adapts = self.use_dtt or self.use_det
        adapted = largest * torch.sigmoid(drive) if adapts else largest + drive
        return torch.where(count == 0, largest, adapted)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        v, total, count = state
        h = v + x
        theta = self.threshold_at(x, state)
        k = burst(self.surrogate, h, theta, self.gamma)
        v = after_burst(h, k, theta, self.reset, self.reset_value * self._largest(x))
        return theta * k, (v, total + v, count + 1)

    def spikes(self, out: Tensor) -> Tensor:
        """1 for every event: how many spikes of this size it was made of can't be told where gamma is above 1."""
        return out.ne(0).to(out.dtype)
