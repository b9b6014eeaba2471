"""A current that is there in the first step only."""

import torch
from torch import Tensor, nn

from snnrun.encoder.profile import with_profile


class ZeroExpand(nn.Module):
    r"""Feed a static input as a current in the first step, and nothing afterwards.

    $$x_0 = x, \qquad x_t = 0 \quad \text{for } t > 0$$

    Summed over time it is the input itself, whatever T. The sequence says what it is made of, so that the first synapse
    can be computed once.

    **Arguments:**

    - `steps`: number of time steps T.

    Wu et al., *Progressive tandem learning for pattern recognition with deep spiking neural networks*, TPAMI 2021.
    """

    traits = frozenset({"current"})
    needs = frozenset({"static"})

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` to `(T, B, ...)`."""
        profile = torch.zeros(self.steps, device=x.device, dtype=x.dtype)
        profile[:1] = 1
        return with_profile(x, profile)
