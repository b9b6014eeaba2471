"""The synaptic filter that turns an input into the traces that TSSL-BP's layers exchange."""

import torch
from torch import Tensor, nn

from snnrun.encoder.profile import with_profile
from snnrun.neuron import LI


class PSC(nn.Module):
    r"""Filter the input once, as a neuron filters its spikes: a static input counts as a constant one.

    $$a_t = a_{t-1} + (x_t - a_{t-1}) / \tau_s$$

    A static input becomes $a_t = (1 - (1 - 1/\tau_s)^{t+1})\, x$, and says so, so that the first synapse can be
    computed once and scaled.

    **Arguments:**

    - `steps`: number of time steps T.
    - `tau_s`: time constant in steps, at least 1; that of the neurons.
    - `static`: whether the input lacks a time axis; the runner passes it.

    Zhang & Li, NeurIPS 2020.
    """

    traits = frozenset({"input_trace"})

    def __init__(self, steps: int, static: bool, tau_s: float = 3.0):
        super().__init__()
        self.filter = LI(tau_s)
        self.steps, self.static, self.tau_s = steps, static, tau_s

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` or `(T, B, ...)` to `(T, B, ...)`."""
        if not self.static:
            return self.filter(x)
        t = torch.arange(1, self.steps + 1, device=x.device, dtype=torch.float64)
        return with_profile(x, (1 - (1 - 1 / self.tau_s) ** t).to(x.dtype))
