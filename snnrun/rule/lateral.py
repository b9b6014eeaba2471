"""Synapses inside a layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Ways(NamedTuple):
    """The K connections inside a layer of N neurons, by the neuron that they leave.

    `start` (N + 1,): where those of each neuron begin; `target`, `source` (K,): where each leads, and what it leaves.
    """

    start: Tensor
    target: Tensor
    source: Tensor


def ways(connected: Tensor) -> Ways:
    """The connections of (N, N), true where a row reads a column."""
    source, target = connected.t().nonzero(as_tuple=True)
    counts = torch.bincount(source, minlength=len(connected))
    return Ways(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), target, source)


class Reservoir(nn.Linear):
    """Weights between the neurons of a layer, of which most do not exist.

    **Arguments:**

    - `connected`: (N, N), true where a neuron (row) reads another one (column).
    """

    connected: Tensor

    def __init__(self, connected: Tensor):
        super().__init__(len(connected), len(connected), bias=False)
        self.register_buffer("connected", connected)
        with torch.no_grad():
            self.weight.mul_(connected)
        self.known: tuple[Tensor, int, Ways] | None = None

    @property
    def fan_out(self) -> Tensor:
        """Connections that leave each neuron."""
        return self.connected.sum(0, dtype=torch.float32)

    def ways(self) -> Ways:
        """The connections that exist."""
        now = (self.connected, self.connected._version)
        if self.known is None or self.known[0] is not now[0] or self.known[1] != now[1]:
            self.known = (*now, ways(self.connected))
        return self.known[2]


class Inhibition(nn.Module):
    """Every neuron inhibits all others of its layer; nothing is learned.

    **Arguments:**

    - `neurons`: how many there are.
    - `strength`: weight of a connection, with the sign turned.
    - `dtype`: of the weights.
    """

    weight: Tensor

    def __init__(self, neurons: int, strength: float, dtype: torch.dtype | None = None):
        super().__init__()
        self.strength = strength
        weight = strength * (torch.eye(neurons, dtype=dtype) - 1)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N)` to the same shape."""
        return nn.functional.linear(x, self.weight)

    def ways(self) -> Ways:
        """All connections between different neurons."""
        size = len(self.weight)
        return ways(~torch.eye(size, dtype=torch.bool, device=self.weight.device))
