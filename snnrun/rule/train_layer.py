"""Fully connected layers that differentiate whole spike trains."""

from typing import Any

import torch
from torch import Tensor, nn

from snnrun.model.layers import Layer
from snnrun.neuron import RefractoryLIF
from snnrun.neuron.base import carrying
from snnrun.neuron.kernel import Fused
from snnrun.rule.delay import Delay
from snnrun.rule.effect_table import effect_table
from snnrun.rule.lateral import Inhibition, Reservoir, Ways
from snnrun.rule.spike_train import bounded, effects, ratios, side_effect

ROUNDS = 60  # of an iteration that has come to rest by then, or is given up


class TrainLayer(Layer):
    r"""A dense layer whose gradient is one of spike counts: what a count does to the loss is all that comes back.

    $$\frac{\partial L}{\partial w_{ij}} = \frac{\delta_i}{\theta}\frac{e_{i|j}}{B_i}, \qquad
      \delta_j = \sum_i \frac{\delta_i}{\theta} \frac{w_{ij} \rho_{ij}}{B_i}, \qquad
      B_i = 1 - \frac{1}{\theta} \sum_j w_{ij} \frac{\partial e_{i|j}}{\partial o_i}$$

    What comes in as the gradient of a spike is averaged over time: for a loss of counts it is the same at all steps. In
    a layer that feeds itself, $\delta^\top \Omega^{-1} \Phi / \theta$ is sent down, with
    $\Omega = \mathrm{diag}(B) - w^{lat} \rho^{lat}/\theta$ off the diagonal and $\Phi = w \rho$. B is kept 1e-4 off 0.

    **Arguments:**

    - `layer`: what it takes the place of.
    - `rows`: rows of the table of effects.
    - `reference`: as the authors' code, send down $\delta^\top \Phi \Omega^{-1} / \theta$ and let no neuron learn
      what it does to itself.
    """

    neuron: RefractoryLIF  # pyright: ignore[reportIncompatibleVariableOverride]
    synapse: nn.Linear  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, layer: Layer, rows: int = 100, reference: bool = False):
        super().__init__(layer.synapse, Delay(), layer.neuron, layer.recurrent)
        self.rows, self.reference = rows, reference
        self.table: Tensor | None = None  # in place of that for the neuron and T

    # --- forward

    @torch.compiler.disable
    def _run(self, x: Tensor) -> Tensor:
        if carrying() or x.is_meta:
            return super()._run(x)
        lateral = getattr(self.recurrent, "weight", None)
        return Trains.apply(self, x, self.synapse.weight, lateral)  # pyright: ignore[reportReturnType]

    def compiled(self, x: Tensor) -> bool:
        """Whether kernels on the CPU do the work."""
        return x.device.type == "cpu" and isinstance(self.neuron.kernel, Fused)

    def fire(self, x: Tensor) -> Tensor:
        """Output trains of input trains."""
        if not self.compiled(x):
            return super()._run(x)
        from snnrun.rule import train_loop  # compiles on first use

        weight, neuron = self.synapse.weight.detach(), self.neuron
        if isinstance(self.recurrent, Reservoir | Inhibition):
            start, target, source = self.recurrent.ways()
            value = self.recurrent.weight.detach()[target, source]
        else:
            start = target = torch.zeros(len(weight) + 1, dtype=torch.long)
            value = weight.new_zeros(0)
        spikes = weight.new_empty(*x.shape[:2], len(weight))
        train_loop.fire(
            weight.t().contiguous().numpy(),
            x.to(weight.dtype).contiguous().numpy(),
            (start.numpy(), target.numpy(), value.numpy()),
            self.constants(weight.dtype),
            neuron.refractory,
            spikes.numpy(),
        )
        return spikes.to(x.dtype)

    def constants(self, dtype: torch.dtype) -> Any:
        """Time constants, and the potential above which a neuron fires."""
        neuron = self.neuron
        values = [neuron.tau_m, neuron.tau_s, neuron.threshold - neuron.tolerance]
        return torch.tensor(values, dtype=dtype).numpy()

    # --- backward

    def gradients(
        self, x: Tensor, spikes: Tensor, delta: Tensor, below: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of the weights and, where they are learned, of those inside the layer; error of the inputs' counts.

        **Arguments:**

        - `x`, `spikes`: trains `(T, B, J)` and `(T, B, I)`.
        - `delta`: error of the output's counts, `(B, I)`.
        - `below`: whether the error of the inputs is wanted.
        """
        d = delta / self.neuron.threshold
        bottom = self.denominator(x, spikes)
        gain = d / bottom
        if not isinstance(self.recurrent, Reservoir):
            grad, before = self.learn(x, spikes, gain, gain, below)
            return grad, None, before
        _, target, source = self.recurrent.ways()
        effect = self.inner(spikes, self.recurrent.ways(), d.any(1))
        inner = torch.zeros_like(self.recurrent.weight)
        inner[target, source] = (gain[:, target] * effect).sum(0)
        if self.reference:
            inner.fill_diagonal_(0)
        if not below:
            return self.learn(x, spikes, gain, d, False)[0], inner, None
        coupling = self.coupling(effect, spikes.sum(0))
        if not self.reference:
            back = self.solve(bottom, coupling, d)
            grad, before = self.learn(x, spikes, gain, back, True)
        elif x.shape[2] == spikes.shape[2]:
            grad, before = self.learn(x, spikes, gain, d, True)
            assert before is not None
            before = self.solve(bottom, coupling, before)
        else:
            grad, _ = self.learn(x, spikes, gain, d, False)
            sent = self.scrambled(self.system(bottom, coupling), x, spikes)
            before = torch.einsum("bi,bij->bj", d, sent)
        return grad, inner, before

    def denominator(self, x: Tensor, spikes: Tensor) -> Tensor:
        """B, `(B, I)`: what is left of the threshold after the side effect of one more spike."""
        pre, post = x.sum(0), spikes.sum(0)
        table = self.quartics(len(x), post)
        weight = self.synapse.weight
        if not isinstance(self.recurrent, Reservoir):
            sums = side_effect(weight, pre, post, table)
            return bounded(torch.where(post == 0, 1.0, 1 - sums / self.neuron.threshold))
        clipped = post.clamp(1, len(table))
        sums = side_effect(weight, pre, clipped, table)
        sums = sums + side_effect(self.recurrent.weight, post, clipped, table)
        return bounded(1 - sums / self.neuron.threshold)

    def quartics(self, steps: int, like: Tensor) -> Tensor:
        """The table of effects."""
        table = self.table
        if table is None:
            table = effect_table(self.neuron, steps, self.rows)
        return table.to(like.device)

    def coupling(self, effect: Tensor, count: Tensor) -> Tensor:
        """What connections inside the layer take off Omega, `(B, K)`, from their effects and the counts `(B, I)`."""
        assert isinstance(self.recurrent, Reservoir)
        _, target, source = self.recurrent.ways()
        weight = self.recurrent.weight.detach()[target, source] * (target != source)
        ratio = ratios(effect, count[:, source], count[:, target])
        return ratio * weight / self.neuron.threshold

    def system(self, bottom: Tensor, coupling: Tensor) -> Tensor:
        """The transpose of Omega, `(B, I, I)`, from its diagonal and what is taken off beside it."""
        assert isinstance(self.recurrent, Reservoir)
        _, target, source = self.recurrent.ways()
        system = torch.diag_embed(bottom)
        system[:, source, target] -= coupling
        return system

    def solve(self, bottom: Tensor, coupling: Tensor, right: Tensor) -> Tensor:
        """y in Omega^T y = right, for every sample `(B, I)`."""
        assert isinstance(self.recurrent, Reservoir)
        if self.compiled(right):
            from snnrun.rule import train_loop

            y, eps = torch.empty_like(bottom), torch.finfo(bottom.dtype).eps
            start, target, _ = self.recurrent.ways()
            given = (bottom, start, target, coupling, right)
            accuracy = torch.tensor([4 * eps], dtype=bottom.dtype).numpy()[0]
            if train_loop.relax(
                *(g.contiguous().numpy() for g in given), ROUNDS, accuracy, y.numpy()
            ):
                return y
        return torch.linalg.solve(self.system(bottom, coupling), right)

    def scrambled(self, system: Tensor, x: Tensor, spikes: Tensor) -> Tensor:
        """Effects sent down `(B, I, J)` by a solver that reads rows as columns."""
        pre, post = x.sum(0), spikes.sum(0)
        ratio = ratios(effects(x, spikes, self.neuron), pre[:, None], post[:, :, None])
        phi = self.synapse.weight.detach() * ratio
        columns = phi.reshape(len(phi), *phi.shape[:0:-1]).mT
        return torch.linalg.solve(system, columns).mT.reshape(phi.shape)

    def learn(
        self, x: Tensor, spikes: Tensor, gain: Tensor, back: Tensor, below: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Effects times `gain` (B, I), summed over samples, and `back` (B, I) times weights times ratios."""
        weight = self.synapse.weight.detach()
        if not self.compiled(x):
            effect = effects(x, spikes, self.neuron)
            grad = torch.einsum("bi,bij->ij", gain, effect)
            if not below:
                return grad, None
            ratio = ratios(effect, x.sum(0)[:, None], spikes.sum(0)[:, :, None])
            return grad, torch.einsum("bi,ij,bij->bj", back, weight, ratio)
        from snnrun.rule import train_loop

        grad = torch.zeros_like(weight)
        before = gain.new_empty(len(gain) if below else 0, x.shape[2])
        trains = [trains.to(weight.dtype).contiguous().numpy() for trains in (x, spikes)]
        shares = [share.to(weight.dtype).contiguous().numpy() for share in (gain, back)]
        known = (self.constants(weight.dtype), self.neuron.refractory)
        train_loop.learn(weight.numpy(), *trains, *shares, *known, grad.numpy(), before.numpy())
        return grad, before if below else None

    def inner(self, spikes: Tensor, ways: Ways, needed: Tensor) -> Tensor:
        """Effects along the connections inside the layer, `(B, K)`; 0 for samples (B,) where they are not needed."""
        if not self.compiled(spikes):
            return effects(spikes, spikes, self.neuron)[:, ways.target, ways.source]
        from snnrun.rule import train_loop

        effect = spikes.new_empty(spikes.shape[1], len(ways.target))
        trains = spikes.contiguous().numpy()
        known = (self.constants(spikes.dtype), self.neuron.refractory)
        start, target, wanted = ways.start.numpy(), ways.target.numpy(), needed.numpy()
        train_loop.pairs(trains, start, target, wanted, *known, effect.numpy())
        return effect


class Trains(torch.autograd.Function):
    """Trains in, trains out; back comes the error of counts, the same at every step.

    The layer has `fire(x)` and `gradients(x, spikes, delta, below)`.
    """

    @staticmethod
    def forward(ctx: Any, layer: Any, x: Tensor, weight: Tensor, lateral: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Output trains of a layer."""
        spikes = layer.fire(x)
        ctx.layer = layer
        ctx.save_for_backward(x, spikes)
        return spikes

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the weights, and the error of the input."""
        x, spikes = ctx.saved_tensors
        below, delta = ctx.needs_input_grad[1], count_error(grad)
        found, inner, before = ctx.layer.gradients(x, spikes, delta, below)
        return None, None if before is None else before.expand_as(x), found, inner


def count_error(grad: Tensor) -> Tensor:
    """The error of counts `(B, ...)` that a gradient of spikes `(T, B, ...)` stands for."""
    return grad[0] if grad.stride(0) == 0 else grad.mean(0)
