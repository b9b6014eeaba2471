"""Latency coding in continuous time."""

from typing import Literal

import torch
from torch import Tensor, nn


class SpikeTime(nn.Module):
    r"""The time of one spike an input, as a real number: the brighter, the earlier.

    $$t = t_{\mathrm{window}} (1 - x)$$

    **Arguments:**

    - `window`: time of the darkest input that fires.
    - `black`: whether an input of intensity 0 is `silent` (infinity) or fires `last`.

    Zhang et al., *Rectified linear postsynaptic potential function*, TNNLS 2022.
    """

    traits = frozenset({"input_times"})
    needs = frozenset({"spike_times", "static", "intensity"})

    def __init__(self, window: float = 1.0, black: Literal["silent", "last"] = "silent"):
        super().__init__()
        if window <= 0:
            raise ValueError(f"encoder.window must be above 0, got {window}.")
        if black not in ("silent", "last"):
            raise ValueError(f"encoder.black must be silent or last, got {black!r}.")
        self.window, self.black = window, black

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` intensities to `(1, B, ...)` spike times."""
        t = self.window * (1 - x.clamp(0, 1))
        if self.black == "silent":
            t = torch.where(x > 0, t, torch.inf)
        return t.unsqueeze(0)
