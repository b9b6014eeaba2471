"""The neuron that fires several times a step."""

from typing import Literal

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.surrogate import Surrogate


class Burst(Neuron):
    r"""Integrate-and-fire neuron that fires up to $\gamma$ times a step.

    $$h_t = v_{t-1} + x_t, \qquad k_t = \min(\lfloor h_t / \theta \rfloor, \gamma)_{\ge 0} = \sum_{i=1}^{\gamma}
      H(h_t - i\,\theta), \qquad v_t = h_t - \theta k_t$$

    The output is $k$. With `gamma=1` it is the IF neuron with a soft reset.

    **Arguments:**

    - `surrogate`: derivative of each of the Heaviside steps, used in the backward pass.
    - `threshold`: firing threshold; a potential equal to a multiple of it fires.
    - `gamma`: most spikes a step.
    - `reset`: `soft` subtracts the threshold for each spike, `hard` sets the potential to `reset_value`.
    - `reset_value`: potential at the start and after a hard reset.

    No gradient flows through the reset.

    Li & Zeng, *Efficient and accurate conversion of spiking neural network with burst spikes*, IJCAI 2022.
    """

    traits = frozenset({"graded", "stepped", "integrating"})
    traits_if = {("reset", "hard"): {"hard_reset"}, ("reset", "soft"): {"soft_reset"}}

    def __init__(
        self,
        surrogate: Surrogate,
        threshold: float = 1.0,
        gamma: int = 5,
        reset: Literal["hard", "soft"] = "soft",
        reset_value: float = 0.0,
    ):
        super().__init__()
        check_burst(gamma, reset)
        self.surrogate, self.threshold, self.gamma = surrogate, threshold, gamma
        self.reset: Literal["hard", "soft"] = reset
        self.reset_value = reset_value

    def init_state(self, x: Tensor) -> State:
        return (torch.full_like(x, self.reset_value),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        h = v + x
        k = burst(self.surrogate, h, self.threshold, self.gamma)
        return k, (after_burst(h, k, self.threshold, self.reset, self.reset_value),)

    def spikes(self, out: Tensor) -> Tensor:
        return out.round()


def burst(surrogate: Surrogate, h: Tensor, threshold: Tensor | float, gamma: int) -> Tensor:
    """How often a potential `h` passes the threshold, at most `gamma` times."""
    k = surrogate(h - threshold)
    for i in range(2, gamma + 1):
        k = k + surrogate(h - i * threshold)
    return k


def after_burst(
    h: Tensor, k: Tensor, threshold: Tensor | float, reset: str, reset_value: Tensor | float
) -> Tensor:
    """The potential after `k` spikes; no gradient flows through `k`."""
    k = k.detach()
    return h - threshold * k if reset == "soft" else torch.where(k > 0, reset_value, h)


def check_burst(gamma: int, reset: str) -> None:
    """Raise `ValueError` for settings that make no sense."""
    if gamma < 1:
        raise ValueError(f"gamma, the most spikes a step, must be at least 1, got {gamma}.")
    if reset not in ("hard", "soft"):
        raise ValueError(f"reset must be hard or soft, got {reset!r}.")
