"""The neuron of STDBP: one spike, in continuous time."""

import math

from torch import Tensor

from snnrun.neuron.base import Neuron
from snnrun.neuron.first_spike import FirstSpike


class RelPSP(Neuron):
    r"""Neuron with a rectified linear postsynaptic potential, which fires once, at a time that is a real number.

    $$V_i(t) = \sum_j w_{ij} \max(0, t - t_j), \qquad t_i = \min\{t : V_i(t) = \theta\}$$

    There is no axis of time: layers exchange spike times `(1, B, ...)`, infinity for a neuron that never fires. So that
    the neuron knows its inputs one by one, a layer calls `respond`.

    **Arguments:**

    - `threshold`: firing threshold; a potential equal to it fires.
    - `horizon`: the time when a sample ends; a neuron that would fire later is silent. Null for never.

    Zhang et al., *Rectified linear postsynaptic potential function for backpropagation in deep spiking neural
    networks*, TNNLS 2022.
    """

    traits = frozenset({"spike_times"})
    needs = frozenset({"input_times", "passes_times", "time_output"})
    potential = None
    silence = math.inf
    kernel: FirstSpike = FirstSpike()  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, threshold: float = 1.0, horizon: float | None = None):
        super().__init__()
        for name, value in (("threshold", threshold), ("horizon", horizon)):
            if value is not None and value <= 0:
                raise ValueError(f"neuron.{name} must be above 0, got {value}.")
        self.threshold, self.horizon = threshold, horizon

    def respond(self, times: Tensor, weight: Tensor) -> Tensor:
        """Input times `(rows, inputs)` and weights `(neurons, inputs)` to spike times `(rows, neurons)`."""
        horizon = math.inf if self.horizon is None else self.horizon
        return self.kernel(times, weight, self.threshold, horizon)

    def spikes(self, out: Tensor) -> Tensor:
        """One where there is a time."""
        return out.isfinite().to(out.dtype)
