"""The leaky neuron whose reset comes one step late, beside the leak."""

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.surrogate import Surrogate


class Leaky(Neuron):
    r"""Leaky integrate-and-fire neuron that subtracts its threshold one step after a spike, where none of it leaks.

    $$h_t = \beta h_{t-1} + x_t - \theta s_{t-1}, \qquad s_t = H(h_t - \theta)$$

    `neuron=lif neuron.reset=soft` subtracts first and then leaks, $\beta (h_{t-1} - \theta s_{t-1})$.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `beta`: what is left of the potential after a step, between 0 and 1; 1 does not leak.
    - `threshold`: firing threshold; a potential equal to it fires.
    - `detach_reset`: let no gradient through the reset.

    Eshraghian et al., *Training spiking neural networks using lessons from deep learning*, 2023 (snnTorch's Leaky); Wu
    et al., *A tandem learning rule for effective training and rapid inference of deep SNNs*, TNNLS 2021.
    """

    traits = frozenset({"spikes", "stepped", "leaky", "soft_reset", "fixed_decay"})

    def __init__(
        self,
        surrogate: Surrogate,
        beta: float = 0.9,
        threshold: float = 1.0,
        detach_reset: bool = True,
    ):
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie between 0 and 1, got {beta}.")
        self.surrogate, self.beta, self.threshold = surrogate, beta, threshold
        self.detach_reset = detach_reset

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state  # what the last step leaves: leaked, and reset
        h = v + x
        s = self.surrogate(h - self.threshold)
        reset = self.threshold * (s.detach() if self.detach_reset else s)
        return s, (self.beta * h - reset,)
