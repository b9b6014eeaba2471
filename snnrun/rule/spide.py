"""Implicit differentiation whose backward pass is a spiking network, too."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from snnrun.neuron.base import Neuron, State
from snnrun.rule.base import Learning
from snnrun.rule.bound import Bound, FrobeniusBound
from snnrun.rule.equilibrium import Chain, EquilibriumRule, Rates, steady


class SPIDE(EquilibriumRule):
    r"""SPIDE: implicit differentiation by ternary spikes that run backwards around the loop until they settle.

    $$h = u_j + J_j, \qquad b_j = D_b \left([h \ge \theta_b] - [h \le -\theta_b]\right), \qquad
      u_j \leftarrow \lambda (h - b_j)$$
    $$J_{L-1} = \kappa \frac{\partial \ell}{\partial a_{L-1}} + \tfrac1D W_{L-1}^\top (m_0 b_0[t-1]), \qquad
      J_j = \tfrac1D W_j^\top (m_{j+1} b_{j+1}[t])$$
    $$\frac{\partial L}{\partial W_j} = \frac{1}{\kappa B D} \sum_B (m_{j+1} \beta_{j+1})\, a_j^\top$$

    a are rates of the forward pass, m is 1 where 0 < a < 1, $\beta$ are the mean backward spikes, $\ell$ is the loss of
    a sample. As the number of steps grows this tends to the solution of IDE's implicit equation, but for what a spike
    rate cannot say: a gradient above $D_b$ is cut, one far below $D_b / T_b$ is lost, hence $\kappa$.

    **Arguments:**

    - `steps`: $T_b$, number of backward steps.
    - `threshold`: $\theta_b$; a backward potential equal to it fires.
    - `rest`: resting potential of the backward neurons; $D_b$ is the distance to the threshold.
    - `scale`: $\kappa$, on the gradient of a sample: the authors' factor on the mean loss of a batch of 128, over 128.
    - `feedback_bound`: limit to the Frobenius norm of the feedback weights; null for none.
    - `norm`: how that is found: `exact`, or the `estimate` of the authors' code, which differs in every pass.

    Xiao, Meng, Zhang, Wang & Lin, *SPIDE: A purely spike-based method for training feedback spiking neural networks*,
    Neural Networks 2023.
    """

    def __init__(
        self,
        steps: int = 100,
        threshold: float = 0.5,
        rest: float = -0.5,
        scale: float = 1.0,
        feedback_bound: float | None = 2.0,
        norm: Literal["exact", "estimate"] = "exact",
    ):
        super().__init__(feedback_bound)
        if steps < 1:
            raise ValueError(f"rule.steps must be at least 1, got {steps}.")
        if threshold <= 0 or rest >= threshold:
            raise ValueError(
                f"rule.threshold must be above 0 and above rule.rest, got {threshold} and {rest}."
            )
        if scale <= 0:
            raise ValueError(f"rule.scale must be above 0, got {scale}.")
        if norm not in ("exact", "estimate"):
            raise ValueError(f"rule.norm must be exact or estimate, got {norm!r}.")
        self.steps, self.threshold, self.swing, self.scale = (
            steps,
            threshold,
            threshold - rest,
            scale,
        )
        self.norm: Literal["exact", "estimate"] = norm
        self.fired, self.slots = (
            0.0,
            0,
        )  # backward spikes of the epoch, and places where they could be

    def bound(self, limit: float, synapse: Any) -> Bound:
        """The Frobenius norm, cut."""
        return FrobeniusBound(limit, self.norm)

    def attach(
        self, learner: Learning, chain: Chain, rates: Rates, z: Tensor, g: Tensor, samples: int
    ) -> Tensor:
        """The mean backward spikes times the currents that they are the gradients of."""
        a = [rates.rate(layer) for layer in chain.populations]
        masks = [rates.between(layer) for layer in chain.populations]
        # the gradient of a mean over the batch is that of a sample over its size
        counted = 1 if getattr(learner.criterion, "sums", False) else samples
        with steady(chain.norms()):
            beta, spikes = self.backward_pass(chain, a, masks, self.scale * counted * g)
        self.fired += sum(float(s.sum()) for s in spikes)
        self.slots += self.steps * sum(s.numel() for s in spikes)
        total = z.new_zeros(())
        for place, (drive, m, b) in enumerate(zip(chain.maps, masks, beta, strict=True)):
            estimate = m * b / (chain.swing * self.scale * counted)
            if drive is not None:
                total = total + (estimate * drive(a[place - 1])).sum()
            if place == 0:
                total = total + (estimate * chain.input(rates.rate(chain.net.input))).sum()
        return total

    def backward_pass(
        self, chain: Chain, a: list[Tensor], masks: list[Tensor], g: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Mean backward spikes of every population, and how many there were of each neuron.

        **Arguments:**

        - `chain`: the populations.
        - `a`: their rates, at which maps are turned around.
        - `masks`: 1 where a rate could be another.
        - `g`: what drives the last population at every step.
        """
        neuron = BackwardNeuron(self.threshold, self.swing, chain.decay)
        forward: Any = chain.populations[0].neuron
        neuron.kernel = forward.kernel  # fused, or step by step
        turned = [
            None if drive is None else Turned(drive, a[k - 1]) for k, drive in enumerate(chain.maps)
        ]
        gates = [m / chain.swing for m in masks]
        states = [neuron.init_state(rate) for rate in a]
        first: Tensor | None = None  # what the first population sent out in the step before
        weight = 0.0
        for _ in range(self.steps):
            weight = chain.decay * weight + 1
            back = turned[0]
            signal = g if first is None or back is None else g + back(gates[0] * first)
            for j in range(len(a) - 1, -1, -1):
                out, states[j] = neuron.kernel(neuron, signal.unsqueeze(0), states[j])
                first = out[0]
                if back := turned[j] if j else None:
                    signal = back(gates[j] * first)
        return [total / weight for _, total, _ in states], [count for *_, count in states]

    def epoch_end(self, learner: Learning, metrics: dict[str, float]) -> None:
        """Tell how often neurons fired in the backward pass, on this process."""
        if self.slots:
            metrics["rule/backward_rate"] = self.fired / self.slots
        self.fired, self.slots = 0.0, 0

    @property
    def progress(self) -> Mapping[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Backward spikes counted in the running epoch."""
        return {"fired": self.fired, "slots": self.slots}

    def prepare_load(self, net: Any, state: dict[str, Any]) -> None:
        """Go on counting."""
        known = state["snnrun"].get("rule", {})
        self.fired, self.slots = known.get("fired", 0.0), known.get("slots", 0)


class BackwardNeuron(Neuron):
    r"""The neuron of the backward pass, which keeps a weighted sum and a count of its spikes.

    $$h = u + x, \qquad b = D_b \left([h \ge \theta_b] - [h \le -\theta_b]\right), \qquad u \leftarrow \lambda (h - b)$$

    **Arguments:**

    - `threshold`, `swing`, `decay`: $\theta_b$, $D_b$ and $\lambda$.
    """

    def __init__(self, threshold: float, swing: float, decay: float):
        super().__init__()
        self.threshold, self.swing, self.decay = threshold, swing, decay

    def init_state(self, x: Tensor) -> State:
        """Potential, weighted sum, count."""
        return torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """A step of the backward pass."""
        u, total, count = state
        h = u + x
        s = (h >= self.threshold).to(h.dtype) - (h <= -self.threshold).to(h.dtype)
        b = self.swing * s
        return b, (self.decay * (h - b), self.decay * total + b, count + s.abs())


class Turned:
    """A linear map the other way round: from a current to the rate that drives it."""

    def __init__(self, drive: Any, rate: Tensor):
        with torch.enable_grad():
            self.rate = rate.detach().requires_grad_()
            self.current = drive(self.rate)

    def __call__(self, y: Tensor) -> Tensor:
        """The adjoint of the map, applied to what arrives at its output."""
        (found,) = torch.autograd.grad(self.current, self.rate, y, retain_graph=True)
        return found
