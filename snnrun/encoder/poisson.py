"""Rate coding."""

import torch
from torch import Tensor, nn


class Poisson(nn.Module):
    r"""Draw a spike in every step with a probability equal to the intensity.

    $$x_t \sim \mathrm{Bernoulli}(\min(1, \max(0, g\, x)))$$

    Drawn afresh at every call, in evaluation too, from torch's global generator.

    **Arguments:**

    - `steps`: number of time steps T.
    - `gain`: factor g on the intensity, which lies in 0..1.

    Diehl & Cook, *Unsupervised learning of digit recognition*, 2015 (there as Poisson trains).
    """

    traits = frozenset({"input_spikes"})
    needs = frozenset({"static", "intensity"})

    def __init__(self, steps: int, gain: float = 1.0):
        super().__init__()
        self.steps, self.gain = steps, gain

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` intensities to `(T, B, ...)` spikes."""
        probability = (self.gain * x).clamp(0, 1)
        return torch.bernoulli(probability.expand(self.steps, *x.shape))
