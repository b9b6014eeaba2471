"""Backpropagation through time with a choice of what flows through the reset."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from snnrun.neuron.base import Kernel, Neuron, OwnBackward, State
from snnrun.rule.trace import TraceRule

ResetGrad = Literal["none", "leak", "full"]


@dataclass(frozen=True)
class ResetStep:
    r"""One step back: $g_t = E_t f_t + (1 - 1/\tau_m) J_t\, g_{t+1}$ with $E_t = G_t/\tau_s + (1 - 1/\tau_s) E_{t+1}$.

    The carries, $(1 - 1/\tau_m) g$ and $(1 - 1/\tau_s) \tau_s E$, are those of automatic differentiation.
    """

    reset_grad: ResetGrad

    def __call__(
        self, neuron: Any, x: Tensor, state: State, out: Tensor, grad_out: Tensor, grad_state: State
    ) -> tuple[Tensor, State]:
        """Input, state before the step and gradients from above and from later, to gradient of `x` and carries."""
        r, _ = state
        u = r + (x - neuron.theta_m * r)
        f = neuron.surrogate.derivative(u - neuron.threshold)
        carried, later = grad_state
        later = later + grad_out
        grad = neuron.theta_s * later * f
        if self.reset_grad != "none":
            grad = grad + self._through_reset(neuron, u, f) * carried
        return grad, ((1 - neuron.theta_m) * grad, (1 - neuron.theta_s) * later)

    def _through_reset(self, neuron: Any, u: Tensor, f: Tensor) -> Tensor | float:
        if neuron.reset == "subtract":
            return 1.0 if self.reset_grad == "leak" else 1 - neuron.threshold * f
        silent = (u <= neuron.threshold).to(u.dtype)
        return silent if self.reset_grad == "leak" else silent - f * u


class ResetBPTT(TraceRule):
    r"""Surrogate gradients through time, with or without the paths through the membrane and through its reset.

    $$g_t = E_t f_t + (1 - 1/\tau_m) J_t\, g_{t+1}, \qquad E_t = \sum_{k \ge t} \epsilon_{k-t} G_k, \qquad
      f = \sigma'(u - \theta)$$

    **Arguments:**

    - `reset_grad`: `none`: no path through the membrane, J = 0; `leak`: the reset is detached, J = 1 - s (reset to
      zero) or 1 (subtracting); `full`: the reset has its gradient, J = 1 - s - f u or 1 - threshold f.

    The rest as in `TraceRule`:

    - `pooling`: `keep` what the model says, or make every pool the `sum` of its window times `theta`.
    - `theta`: gain of sum pooling.
    - `dropout`: `element` draws for every neuron, `row` for every row of an image.
    - `init`: `keep` the model's initial weights, or `kaiming`.
    - `dense_weight_scale`, `conv_weight_scale`: factors on the initial weights.
    - `weight_clip`: bound on every weight after each step; null for none.

    Steep surrogates make $|(1 - 1/\tau_m) J| > 1$ under `full`, and long sequences then explode.

    Yang, *Temporal Surrogate Back-propagation for Spiking Neural Networks*, 2020.
    """

    needs = frozenset({"trace"})

    def __init__(self, reset_grad: ResetGrad = "full", **common: Any):
        super().__init__(**common)
        if reset_grad not in ("none", "leak", "full"):
            raise ValueError(f"rule.reset_grad must be none, leak or full, got {reset_grad!r}.")
        self.reset_grad: ResetGrad = reset_grad

    def kernel(self, neuron: Neuron) -> Kernel:
        """The rule's own backward for neurons that give out traces; others keep theirs."""
        if "trace" not in neuron.traits:
            return super().kernel(neuron)
        return OwnBackward(ResetStep(self.reset_grad))
