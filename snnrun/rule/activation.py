"""What networks of rates have in the place of neurons."""

import torch
from torch import Tensor, nn

from snnrun.neuron.base import Neuron


class ReLU(nn.Module):
    r"""The rectifier, $y = \max(z, 0)$, which keeps the neuron whose place it takes.

    **Arguments:**

    - `neuron`: the neuron.
    """

    def __init__(self, neuron: Neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x.relu()


class QCFS(ReLU):
    r"""Quantisation, clip, floor, shift: an activation with the steps that a spiking neuron has.

    $$y = \lambda \frac{1}{L} \left\lfloor L\, \mathrm{clip}(z / \lambda, 0, 1) + \tfrac{1}{2} \right\rfloor$$

    The floor has the gradient 1, the clip 1 from 0 to 1, both ends included, and 0 outside.

    **Arguments:**

    - `neuron`: the neuron whose place it takes.
    - `levels`: L.
    - `threshold`: learnable lambda at the start.

    Bu et al., *Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks*, ICLR 2022.
    """

    def __init__(self, neuron: Neuron, levels: int = 8, threshold: float = 8.0):
        super().__init__(neuron)
        self.levels = levels
        self.threshold = nn.Parameter(torch.full((1,), threshold))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        clipped = clamped(x / self.threshold, 0.0, 1.0)
        steps = (clipped.detach() * self.levels + 0.5).floor() / self.levels
        return self.threshold * (clipped + (steps - clipped).detach())


def clamped(x: Tensor, low: float, high: float) -> Tensor:
    """`x` cut at both ends, with derivative 1 from end to end, both included (torch's own has changed there)."""
    inside = (x >= low) & (x <= high)
    return torch.where(inside, x, x.detach().clamp(low, high))
