"""Parts that only a converted network has: maximum pooling of spikes, and spikes that are dropped."""

from typing import Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Pool
from snnrun.neuron.base import recall, remember


class SpikingMaxPool(Pool):
    r"""Maximum pooling of spikes by what they sum up to, since the maximum of spikes is not a spike of the maximum.

    Lateral inhibition gives out the growth of the largest sum, so that the sum of the output is the maximum of sums;
    the output may be negative. The gate lets the present spike of the input with the largest sum through.

    $$o_t = \max_i S_{t,i} - \max_i S_{t-1,i} \qquad \text{or} \qquad
      o_t = \max_i (1000\, S_{t,i} + x_{t,i}) - \max_i 1000\, S_{t,i}, \qquad S_t = \sum_{k \le t} x_k$$

    **Arguments:**

    - `pool`: a maximum pooling, whose size, stride, padding and gain it takes.
    - `by`: `lateral` or `gate`.

    Li & Zeng, *Efficient and accurate conversion of spiking neural network with burst spikes*, IJCAI 2022; the gate:
    Rueckauer et al. 2017.
    """

    def __init__(self, pool: Pool, by: Literal["lateral", "gate"] = "lateral"):
        super().__init__("max", pool.size, pool.stride, pool.padding, pool.gain)
        self.by: Literal["lateral", "gate"] = by

    def extra_repr(self) -> str:
        """As of every pool, and how."""
        return f"{super().extra_repr()}, by={self.by}"

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to the same with a smaller image."""
        pool = super().forward
        # a thousand sums and a spike need more digits than float32 has
        wide = x if self.by == "lateral" else x.double()
        carried = recall(self)
        total, peak = carried or (torch.zeros_like(wide[:1]), torch.zeros_like(pool(wide[:1])))
        out = []
        for x_t in wide.split(1):  # cumsum over the leading axis is several times slower
            total = total + x_t
            if self.by == "gate":
                out.append(pool(1000 * total + x_t) - pool(1000 * total))
            else:
                before, peak = peak, pool(total)
                out.append(peak - before)
        remember(self, (total, peak))
        return torch.cat(out).to(x.dtype)


class SpikeConfidence(nn.Module):
    """Drops spikes at random during the first steps, when an accumulating neuron knows least; their charge is lost.

    **Arguments:**

    - `confidence`: probability that a spike is kept.
    - `steps`: number of steps during which spikes are dropped.

    He et al., *MSAT*, 2023, sec. 3.4.
    """

    def __init__(self, confidence: float, steps: int = 16):
        super().__init__()
        self.confidence, self.steps = confidence, steps

    def extra_repr(self) -> str:
        """Probability and number of steps."""
        return f"{self.confidence}, steps={self.steps}"

    def draw(self, x: Tensor) -> Tensor:
        """Uniform numbers between 0 and 1, one for every element and step of `x`."""
        return torch.rand_like(x)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to the same shape."""
        carried = recall(self)
        past = int(carried[0]) if carried else 0
        remember(self, (torch.tensor(past + len(x)),))
        unsure = min(max(self.steps - past, 0), len(x))
        kept = x[:unsure] * (self.draw(x[:unsure]) >= 1 - self.confidence)
        return torch.cat([kept, x[unsure:]])
