"""Which neurons of a recurrent layer read each other: those that are near on a grid."""

from collections.abc import Sequence

import torch
from torch import Tensor

EXCITATORY = 0.8  # share of the neurons
# factor on the probability of a connection, from excitatory and inhibitory (rows) to the same (columns)
FACTORS = ((0.3, 0.2), (0.4, 0.1))
GAIN = 1.5


def near(grid: Sequence[int], width: float = 2.0) -> Tensor:
    r"""Connections drawn at random, likelier between neighbours: (N, N), true where a row reads a column.

    $$P(p \to i) = 1.5\, C\, e^{-d^2/\lambda^2}$$

    C is 0.3 between excitatory neurons, 0.2 from them to inhibitory ones, 0.4 back, and 0.1 between those. Four of five
    neurons are called excitatory, which says nothing about the sign of weights. A neuron may read itself.

    **Arguments:**

    - `grid`: numbers of neurons along three axes.
    - `width`: $\lambda$.

    Zhang & Li, NeurIPS 2019; after Maass, Natschlaeger & Markram 2002.
    """
    axes = [torch.arange(n, dtype=torch.float32, device="cpu") for n in grid]
    place = torch.cartesian_prod(*axes)
    distance = (place[:, None] - place).square().sum(2)
    inhibitory = (torch.rand(len(place), device="cpu") >= EXCITATORY).long()
    factor = torch.tensor(FACTORS, device="cpu")[inhibitory[None, :], inhibitory[:, None]]
    chance = GAIN * factor * torch.exp(-distance / width**2)
    return torch.rand(chance.shape, device="cpu") < chance


def compact(neurons: int) -> tuple[int, int, int]:
    """The grid of so many neurons whose sides add up to least."""
    sides = [n for n in range(1, neurons + 1) if neurons % n == 0]
    grids = [
        (a, b, neurons // (a * b))
        for a in sides
        for b in sides
        if neurons % (a * b) == 0 and a <= b
    ]
    return min(grids, key=sum)
