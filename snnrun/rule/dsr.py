"""Differentiation on spike representation (DSR)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.model.layers import Dropout, parts
from snnrun.neuron.base import Kernel, Neuron, State, wide
from snnrun.neuron.dsr import Clamping
from snnrun.neuron.kernel import Fused
from snnrun.neuron.kernel.layout import Layout, layout
from snnrun.rule.base import Learning, Rule
from snnrun.rule.progressive_tandem import percentile

SAMPLE = 1_000_000  # activations of a layer that a threshold is taken from, at most


@dataclass(frozen=True)
class Representation:
    """A kernel that runs a neuron step by step, and differentiates the clamp that its rate is.

    The backward pass knows no time: the average of the input, which the forward pass adds up as it goes, says where the
    clamp is linear, and every step gets the same gradient.

    **Arguments:**

    - `threshold_grad_scale`: factor on the gradient of the threshold.
    - `forward`: how the neuron is run.
    """

    threshold_grad_scale: float = 1.0
    forward: Kernel = Fused()

    def __call__(self, neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run `neuron` from a state; gradients take what follows for a sequence of its own."""
        assert isinstance(neuron, Clamping)
        with torch.no_grad():
            out, final = self.forward(neuron, x, state)
        before = state[1].detach() * neuron.decay ** len(x)
        return self._differentiable(neuron, x, out, final[1] - before), final

    def from_rest(self, neuron: Neuron, x: Tensor) -> Tensor:
        """Run `neuron` over a whole sequence."""
        assert isinstance(neuron, Clamping)
        with torch.no_grad():
            if isinstance(self.forward, Fused):
                out, final = self.forward.to_end(neuron, x)
            else:
                out, final = self.forward(neuron, x, neuron.init_state(wide(x[0])))
        return self._differentiable(neuron, x, out, final[1])

    def _differentiable(self, neuron: Clamping, x: Tensor, out: Tensor, total: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return out
        with torch.no_grad():
            inside, above = neuron.regions(total.div_(neuron.whole(len(x))))
        scale = self.threshold_grad_scale
        return _Clamp.apply(x, neuron.threshold, out, neuron, inside, above, scale)  # pyright: ignore[reportReturnType]


class _Clamp(torch.autograd.Function):
    r"""The output as it is, with the gradient of the clamp.

    $$g = \frac{T}{W} \sum_t w_t G_t, \qquad \frac{\partial L}{\partial x_t} = \frac{g}{\tau T} [\text{inside}], \qquad
      \frac{\partial L}{\partial V} = u \sum g\, [\text{above}]$$
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        threshold: Tensor,
        out: Tensor,
        neuron: Clamping,
        inside: Tensor,
        above: Tensor,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(inside, above)
        ctx.neuron, ctx.scale, ctx.steps = neuron, scale, len(x)
        ctx.place, ctx.constant = layout(x), x.stride(0) == 0
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inside, above = ctx.saved_tensors
        neuron, steps = ctx.neuron, ctx.steps
        mean = weighted_sum(grad, neuron) / neuron.whole(steps)
        of_input = of_threshold = None
        if ctx.needs_input_grad[0]:
            step = (mean * inside).div_(neuron.tau).to(grad.dtype)
            of_input = step.expand(steps, *step.shape)
            if not ctx.constant:  # in the memory order of the input, as what it came from expects
                of_input = ctx.place.like(grad, steps).copy_(of_input)
        if ctx.needs_input_grad[1]:
            factor = ctx.scale * neuron.unit * steps
            of_threshold = ((mean * above).sum() * factor).to(neuron.threshold.dtype).reshape(1)
        return of_input, of_threshold, None, None, None, None, None


def weighted_sum(x: Tensor, neuron: Clamping) -> Tensor:
    """The sum over the leading axis with the neuron's weights, float32 or wider."""
    if x.stride(0) == 0:
        return wide(x[0]) * neuron.whole(len(x))
    place: Layout = layout(x)  # in memory order it is several times faster
    rows = wide(x.permute(0, *(d + 1 for d in place.order)).flatten(1))
    weights = torch.tensor(neuron.weights(len(x)), dtype=rows.dtype, device=rows.device)
    return (weights @ rows).view(place.sizes).permute(place.back)


@dataclass(frozen=True)
class Rectifier:
    """A kernel that has a ReLU in the place of a neuron, without time."""

    def __call__(self, neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What the ReLU makes of each step; the state stays as it is."""
        return self.from_rest(neuron, x), state

    def from_rest(self, neuron: Neuron, x: Tensor) -> Tensor:
        """What the ReLU makes of each step."""
        return x[0].relu().expand(x.shape) if x.stride(0) == 0 else x.relu()


class DSR(Rule):
    r"""Differentiation on spike representation: spikes forward; backward, the clamp that a layer's firing rate is.

    $$\bar o \approx \mathrm{clamp}(\bar x / \tau, 0, V / u), \quad g = \sum_t \frac{T w_t}{W} G_t, \quad
      \frac{\partial L}{\partial x_t} = \frac{g}{\tau T} [0 \le \bar x \le V \tau / u], \quad
      \frac{\partial L}{\partial V} = u \sum g\, [\bar x > V \tau / u]$$

    There is no surrogate and no path through time: every step of a layer gets the same gradient. Averages have the
    weights $w_t = \beta^{T-t}$, W in all. For `neuron=dsr_if`, $w = \tau = u = 1$; for `neuron=dsr_lif`, $u = \Delta$
    and the ends of the clamp are outside. Thresholds V are learned, and kept above a bound. What lies between layers
    should be linear, such as average pooling.

    As in the authors' code, the gradient of V has the factor u where the clamp has 1/u. With n processes that code
    adds up the gradients of V, and averages those of the weights: `threshold_grad_scale=n` does so.

    **Arguments:**

    - `threshold_grad_scale`: factor on the gradient of the thresholds; 0.001 in the authors' ImageNet code.
    - `dropout`: a draw for every `step`, or one of an `element` for all steps.
    - `ann`: train the network with ReLUs in the place of neurons, to begin another run with its weights (`start=RUN`).
    - `calibrate`: number of training batches, 0 for none, from which thresholds are taken before training: the
      percentile of each layer's activations when ReLUs stand in the place of neurons.
    - `percentile`: of activations, in percent.

    Meng et al., *Training high-performance low-latency spiking neural networks by differentiation on spike
    representation*, CVPR 2022.
    """

    needs = frozenset({"clamped_rate", "feedforward"})
    ignores = frozenset({"surrogate"})

    def __init__(
        self,
        threshold_grad_scale: float = 1.0,
        dropout: Literal["step", "element"] = "step",
        ann: bool = False,
        calibrate: int = 0,
        percentile: float = 99.9,
    ):
        super().__init__()
        if dropout not in ("step", "element"):
            raise ValueError(f"rule.dropout must be step or element, got {dropout!r}.")
        if calibrate < 0:
            raise ValueError(f"rule.calibrate must be a number of batches or 0, got {calibrate}.")
        if ann and calibrate:
            raise ValueError(
                "rule.ann=true trains the ANN, which has no thresholds to calibrate: set rule.calibrate=0 here, and"
                " calibrate in the run that starts from this one's weights."
            )
        if not 0 < percentile <= 100:
            raise ValueError(f"rule.percentile must be above 0 and at most 100, got {percentile}.")
        self.threshold_grad_scale = threshold_grad_scale
        self.dropout: Literal["step", "element"] = dropout
        self.rectified, self.calibrate, self.percentile = ann, calibrate, percentile

    def kernel(self, neuron: Neuron) -> Kernel:
        """The gradient of the clamp, or a ReLU, for neurons whose rate is one; others keep theirs."""
        if not isinstance(neuron, Clamping):
            return super().kernel(neuron)
        return Rectifier() if self.rectified else Representation(self.threshold_grad_scale)

    def adapt(self, net: nn.Module) -> nn.Module:
        """Set dropouts; in an ANN thresholds are not trained."""
        for _, part in parts(net):
            if isinstance(part, Dropout):
                part.share = self.dropout
        if self.rectified:
            for neuron in clamping(net):
                neuron.threshold.requires_grad_(False)
        return net

    def constrain(self, net: nn.Module) -> None:
        """Keep the thresholds above their bounds."""
        for neuron in clamping(net):
            neuron.threshold.clamp_(min=neuron.bound)

    @torch.no_grad()
    def begin(self, learner: Learning) -> None:
        """Calibrate the thresholds."""
        if not self.calibrate:
            return
        net = learner.net
        neurons, training = list(clamping(net)), net.training
        spiking = [neuron.kernel for neuron in neurons]
        seen: dict[Neuron, list[Tensor]] = {neuron: [] for neuron in neurons}
        draw = torch.Generator().manual_seed(0)

        def record(neuron: Any, inputs: Any, out: Tensor) -> None:
            values = (out[0] if out.stride(0) == 0 else out).flatten()
            most = max(1, SAMPLE // self.calibrate)
            if len(values) > most:
                picked = torch.randint(len(values), (most,), generator=draw)
                values = values[picked.to(values.device)]
            seen[neuron].append(values.float())

        hooks = [neuron.register_forward_hook(record) for neuron in neurons]
        try:
            net.eval()
            for neuron in neurons:
                neuron.kernel = Rectifier()
            for number in range(self.calibrate):
                x, _ = learner.training_batch(number)
                net.forward(learner.encoder(x))
        finally:
            net.train(training)
            for neuron, kernel, hook in zip(neurons, spiking, hooks, strict=True):
                neuron.kernel = kernel
                hook.remove()
        for neuron in neurons:
            scale = percentile(torch.cat(seen[neuron]), self.percentile)
            neuron.threshold.fill_(max(scale * neuron.unit, neuron.bound))


def clamping(net: nn.Module) -> Iterator[Clamping]:
    """The neurons whose rate is a clamp."""
    return (module for module in net.modules() if isinstance(module, Clamping))
