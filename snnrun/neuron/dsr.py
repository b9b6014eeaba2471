"""Neurons whose firing rate is a clamp of their input's: those of differentiation on spike representation (DSR)."""

import math

import torch
from torch import Tensor, nn

from snnrun.neuron.base import Neuron, State
from snnrun.surrogate import Surrogate


class Clamping(Neuron):
    r"""What these neurons have in common: spikes as large as a threshold V that is learned, and fired below it.

    $$h_t = \beta m_{t-1} + \gamma x_t, \quad s_t = H(h_t - \alpha V), \quad m_t = h_t - V s_t, \quad o_t = V s_t / u$$

    Averages over time, with weights that decay into the past where the potential leaks, are related by a clamp:

    $$\bar o \approx \mathrm{clamp}(\bar x / \tau, 0, V / u), \qquad
      \bar z = \sum_t \beta^{T-t} z_t / \sum_t \beta^{T-t}$$

    The state is the potential m and the weighted sum of the input so far, from which a rule takes the average.
    """

    decay = 1.0  # beta
    share = 1.0  # gamma
    unit = 1.0  # u: the size of a spike is V / u
    tau = 1.0
    closed = True  # whether the ends of the clamp belong to its linear part
    threshold: Tensor

    def __init__(
        self,
        surrogate: Surrogate,
        threshold: float,
        alpha: float,
        bound: float,
        learnable: bool,
        detach_reset: bool,
    ):
        super().__init__()
        if bound <= 0:
            raise ValueError(f"bound must be above 0, got {bound}.")
        if threshold < bound:
            raise ValueError(f"threshold must be at least bound={bound}, got {threshold}.")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}.")
        self.surrogate, self.alpha, self.bound = surrogate, alpha, bound
        self.detach_reset = detach_reset
        start = torch.full((1,), float(threshold))
        if learnable:
            self.threshold = nn.Parameter(start)
        else:
            self.register_buffer("threshold", start)

    def init_state(self, x: Tensor) -> State:
        return torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        m, total = state
        v = torch.where(self.threshold >= self.bound, self.threshold, self.bound)
        h = m + x if self.decay == 1 else self.decay * m + self.share * x
        s = self.surrogate((h - self.alpha * v) * (1 / v))
        m = h - v * (s.detach() if self.detach_reset else s)
        total = total + x if self.decay == 1 else self.decay * total + x
        return (v if self.unit == 1 else v / self.unit) * s, (m, total)

    def spikes(self, out: Tensor) -> Tensor:
        """One where there is a spike, whatever its size."""
        return out.ne(0).to(out.dtype)

    def weights(self, steps: int) -> list[float]:
        """The weight of every step in an average."""
        return [self.decay ** (steps - t) for t in range(1, steps + 1)]

    def whole(self, steps: int) -> float:
        """The sum of the weights, added up as a step adds up its input."""
        total = 0.0
        for _ in range(steps):
            total = self.decay * total + 1
        return total

    def regions(self, average: Tensor) -> tuple[Tensor, Tensor]:
        """Where an average input lies on the linear part of the clamp, and where above it."""
        top = self.threshold.clamp(min=self.bound) * self.tau / self.unit
        if self.closed:
            return (average >= 0).logical_and_(average <= top), average > top
        return (average > 0).logical_and_(average < top), average > top


class DSRIF(Clamping):
    r"""Integrate-and-fire neuron of DSR: spikes as large as its learned threshold, fired below it.

    $$h_t = m_{t-1} + x_t, \quad s_t = H(h_t - \alpha V), \quad m_t = h_t - V s_t, \quad o_t = V s_t; \qquad
      \bar o \approx \mathrm{clamp}(\bar x, 0, V)$$

    The averages are those over time. V is at least `bound`.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step of the potential in units of V, where the rule has none of its own.
    - `threshold`: V at the start, the input that saturates a neuron.
    - `alpha`: share of V at which a spike is fired, above 0 and at most 1.
    - `bound`: what V is at least.
    - `learnable`: train V, one a layer.
    - `detach_reset`: let no gradient through the reset, where the rule has none of its own.

    Meng et al., *Training high-performance low-latency spiking neural networks by differentiation on spike
    representation*, CVPR 2022.
    """

    traits = frozenset({"clamped_rate", "stepped", "soft_reset"})

    def __init__(
        self,
        surrogate: Surrogate,
        threshold: float = 6.0,
        alpha: float = 0.5,
        bound: float = 0.01,
        learnable: bool = True,
        detach_reset: bool = True,
    ):
        super().__init__(surrogate, threshold, alpha, bound, learnable, detach_reset)


class DSRLIF(Clamping):
    r"""Leaky integrate-and-fire neuron of DSR: spikes as large as its learned threshold over the length of a step.

    $$h_t = \beta m_{t-1} + (1 - \beta) x_t, \quad s_t = H(h_t - \alpha V), \quad m_t = h_t - V s_t, \quad
      o_t = V s_t / \Delta; \qquad \bar o \approx \mathrm{clamp}(\bar x / \tau, 0, V / \Delta)$$

    with $\beta = e^{-\Delta/\tau}$ and averages $\bar z = \sum_t \beta^{T-t} z_t / \sum_t \beta^{T-t}$. V is at least
    `bound`.

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step of the potential in units of V, where the rule has none of its own.
    - `tau`: membrane time constant.
    - `dt`: $\Delta$, the length of a step in the unit of `tau`.
    - `threshold`: V at the start; an input of `V tau / dt` saturates a neuron.
    - `alpha`: share of V at which a spike is fired, above 0 and at most 1.
    - `bound`: what V is at least.
    - `learnable`: train V, one a layer.
    - `detach_reset`: let no gradient through the reset, where the rule has none of its own.

    Meng et al., *Training high-performance low-latency spiking neural networks by differentiation on spike
    representation*, CVPR 2022.
    """

    traits = frozenset({"clamped_rate", "stepped", "leaky", "soft_reset"})
    closed = False

    def __init__(
        self,
        surrogate: Surrogate,
        tau: float = 1.0,
        dt: float = 0.05,
        threshold: float = 0.3,
        alpha: float = 0.3,
        bound: float = 0.0005,
        learnable: bool = True,
        detach_reset: bool = True,
    ):
        super().__init__(surrogate, threshold, alpha, bound, learnable, detach_reset)
        for name, value in (("tau", tau), ("dt", dt)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {value}.")
        self.tau, self.dt = tau, dt
        self.decay = math.exp(-dt / tau)
        self.share = 1 - self.decay
        self.unit = dt
