"""Time-to-first-spike coding."""

import torch
from torch import Tensor, nn


class Latency(nn.Module):
    r"""One spike an input: the brighter, the earlier; none at or below the floor.

    $$t = \mathrm{round}((T - 1)(1 - x)) \quad \text{for } x > f$$

    **Arguments:**

    - `steps`: number of time steps T.
    - `floor`: intensity f at and below which an input stays silent.

    Park et al., *T2FSNN*, DAC 2020 (here with the linear kernel).
    """

    traits = frozenset({"input_spikes"})
    needs = frozenset({"static", "intensity"})

    def __init__(self, steps: int, floor: float = 0.0):
        super().__init__()
        self.steps, self.floor = steps, floor

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` intensities to `(T, B, ...)` spikes."""
        t = torch.round((self.steps - 1) * (1 - x.clamp(0, 1)))
        clock = torch.arange(self.steps, device=x.device).view(-1, *[1] * x.dim())
        return ((clock == t) & (x > self.floor)).to(x.dtype)
