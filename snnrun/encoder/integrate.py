"""Input neurons without a leak, which turn an intensity into evenly spaced spikes."""

import torch
from torch import Tensor, nn


class Integrate(nn.Module):
    r"""One integrate-and-fire neuron a pixel: intensity x gives x T evenly spaced spikes, the same ones every time.

    $$h_t = v_{t-1} + x, \qquad s_t = [h_t \ge 1], \qquad v_t = h_t - s_t$$

    **Arguments:**

    - `steps`: number of time steps T.

    Gerlinghoff et al., *Desire backpropagation*, Neurocomputing 2023.
    """

    traits = frozenset({"input_spikes"})
    needs = frozenset({"static", "intensity"})

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` intensities to `(T, B, ...)` spikes."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        v, out = torch.zeros_like(wide), x.new_empty(self.steps, *x.shape)
        for t in range(self.steps):
            v = v + wide
            s = (v >= 1).to(v.dtype)
            v = v - s
            out[t] = s
        return out
