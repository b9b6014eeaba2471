"""The LIF neuron whose time constant is learned."""

from snnrun.neuron.lif import LIF
from snnrun.neuron.reset import Reset
from snnrun.surrogate import Surrogate


class PLIF(LIF):
    r"""Parametric LIF neuron: a layer learns its membrane time constant.

    $$h_t = v_{t-1} + k(w)\,(x_t - (v_{t-1} - v_r)), \qquad k(w) = \frac{1}{1 + e^{-w}}, \qquad w_0 = -\ln(\tau - 1)$$

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `tau`: membrane time constant at the start, in steps, > 1.
    - `threshold`: firing threshold; a potential equal to it fires.
    - `reset`: `hard`, `soft` or `none`.
    - `reset_value`: resting potential, the start and the value after a hard reset.
    - `decay_input`: multiply the input by k(w) as well.
    - `detach_reset`: let no gradient through the reset.
    - `per_channel`: one time constant a channel instead of one a layer; needs `channels`.
    - `channels`: number of channels; the model passes it.

    Fang et al., *Incorporating learnable membrane time constant*, ICCV 2021, eq. 11.
    """

    traits = frozenset({"spikes", "stepped", "leaky"})
    traits_if = {("reset", "hard"): {"hard_reset"}, ("reset", "soft"): {"soft_reset"}}

    def __init__(
        self,
        surrogate: Surrogate,
        tau: float = 2.0,
        threshold: float = 1.0,
        reset: Reset = "hard",
        reset_value: float = 0.0,
        decay_input: bool = True,
        detach_reset: bool = True,
        per_channel: bool = False,
        channels: int | None = None,
    ):
        super().__init__(
            surrogate,
            tau,
            threshold,
            reset,
            reset_value,
            decay_input,
            detach_reset,
            True,
            per_channel,
            channels,
        )
