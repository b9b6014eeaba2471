"""Recorded events as spikes."""

from torch import Tensor, nn


class Events(nn.Module):
    r"""Take a recording as spikes: one in every step in which anything happened.

    $$x_t = [x[t] \ne 0]$$
    """

    traits = frozenset({"input_spikes"})
    needs = frozenset({"events"})

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` numbers of events to as many spikes, at most one each."""
        return (x != 0).to(x.dtype)
