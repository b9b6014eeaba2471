"""What rules share that train a network with feedback at its equilibrium."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnrun.model.layers import Layer, over_time, unchanged
from snnrun.neuron.base import stepping, wide
from snnrun.rule.base import Learning, Rule
from snnrun.rule.bound import Bound, bind, bounds


class Loop(Protocol):
    """What a network with the trait `feedback` has: populations in a chain, and maps into and out of it."""

    input: Layer  # no neurons: the current of the first population
    body: nn.Sequential  # layers, dropout and flattening; the first layer has neurons only
    feedback: Layer | None  # no neurons: what the last population adds to the first one's current
    head: Layer


@dataclass(frozen=True)
class Map:
    """From the rate of one population to the current of another, `(B, ...)` to `(B, ...)`."""

    between: Sequence[nn.Module]  # dropout, flattening
    layer: Layer

    def __call__(self, rate: Tensor) -> Tensor:
        """The current for a rate."""
        x = rate.unsqueeze(0)
        for part in self.between:
            x = part(x)
        x = over_time(self.layer.synapse, x)
        return (x if self.layer.norm is None else self.layer.norm(x)).squeeze(0)


class Chain:
    """The populations of a loop, and the maps between them.

    **Arguments:**

    - `net`: a network with the trait `feedback`.
    """

    def __init__(self, net: Loop):
        self.net = net
        self.populations: list[Layer] = []
        self.maps: list[Map | None] = [None]  # the map into each population; the first is feedback
        between: list[nn.Module] = []
        for part in net.body:
            if not isinstance(part, Layer):
                between.append(part)
                continue
            if self.populations:
                self.maps.append(Map(between, part))
            self.populations.append(part)
            between = []
        self.last = between
        if net.feedback is not None:
            self.maps[0] = Map(between, net.feedback)
        self.input = Map([], net.input)
        first: Any = self.populations[0].neuron
        self.swing, self.decay = float(first.swing), float(first.decay)

    def classify(self, rate: Tensor) -> Tensor:
        """The output of the head, `(1, B, C)`, for the rate of the last population."""
        x = rate.unsqueeze(0)
        for part in self.last:
            x = part(x)
        return self.net.head(x.flatten(2))

    def norms(self) -> list[nn.Module]:
        """The norms behind the maps between populations."""
        found = (m.layer.norm for m in self.maps if m is not None)
        return [norm for norm in found if norm is not None]


class Rates:
    r"""Rates of populations while a network runs: $a = \sum_t \lambda^{T-t} s_t / \sum_t \lambda^{T-t}$.

    **Arguments:**

    - `chain`: whose populations.
    - `weighted_input`: weigh the steps of the input, too; its plain mean otherwise.
    """

    def __init__(self, chain: Chain, *, weighted_input: bool):
        self.chain, self.weighted_input = chain, weighted_input
        self.sums: dict[
            Layer, tuple[Tensor, float, int]
        ] = {}  # weighted sum, of the weights, steps
        self.counts: dict[Layer, Tensor] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Add up all that the network does inside."""
        chain = self.chain

        def see_input(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            assert isinstance(layer, Layer)
            self._add(layer, given[0], chain.decay if self.weighted_input else 1.0)

        def see_spikes(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            assert isinstance(layer, Layer)
            self._add(layer, out, chain.decay)
            if chain.decay != 1:
                count = wide(out).sum(0)
                self.counts[layer] = self.counts[layer] + count if layer in self.counts else count

        hooks = [chain.net.input.register_forward_hook(see_input)]
        hooks += [layer.register_forward_hook(see_spikes) for layer in chain.populations]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, layer: Layer, x: Tensor, decay: float) -> None:
        steps = len(x)
        if x.stride(0) == 0 and steps > 1:  # the same at every step, of which any mean is that
            self.sums[layer] = (wide(x[0]), 1.0, steps)
            return
        total, weight, before = self.sums.get(layer, (torch.zeros_like(wide(x[0])), 0.0, 0))
        if decay == 1:
            total, weight = total + wide(x).sum(0), weight + steps
        else:
            for x_t in x.unbind(0):
                total, weight = decay * total + wide(x_t), decay * weight + 1
        self.sums[layer] = (total, weight, before + steps)

    def rate(self, layer: Layer) -> Tensor:
        """The rate of a population, or the mean of the input, `(B, ...)`."""
        total, weight, _ = self.sums[layer]
        return total / weight

    def between(self, layer: Layer) -> Tensor:
        """1 where a neuron has fired at some steps and not at all of them, else 0."""
        total, _, steps = self.sums[layer]
        count = self.counts.get(layer, total)
        return ((count > 0) & (count < steps)).to(total.dtype)


class EquilibriumRule(Rule):
    """Base of rules that let a network with feedback run, and differentiate the equilibrium that it tends to.

    **Arguments:**

    - `feedback_bound`: limit to the norm of the feedback weights; null for none.
    """

    needs = frozenset({"feedback", "rate_readout", "settling"})
    ignores = frozenset({"recompute", "surrogate"})
    weighted_input = False  # whether the mean input weighs steps as the rates do

    def __init__(self, feedback_bound: float | None):
        super().__init__()
        if feedback_bound is not None and feedback_bound <= 0:
            raise ValueError(
                f"rule.feedback_bound must be above 0, or null for none; got {feedback_bound}."
            )
        self.feedback_bound = feedback_bound
        self.trained: list[nn.Module] = []  # in a list, so that the network is no part of the rule

    # --- the network

    def bound(self, limit: float, synapse: Any) -> Bound:
        """What keeps the feedback weights of `synapse` small."""
        raise NotImplementedError(f"{type(self).__name__} must define bound(limit, synapse).")

    def adapt(self, net: nn.Module) -> nn.Module:
        """Bound the feedback weights."""
        self.trained = [net]
        feedback: Any = net.feedback
        if feedback is not None and self.feedback_bound is not None:
            bind(feedback.synapse, self.bound(self.feedback_bound, feedback.synapse))
        return net

    def validate(self, shape: tuple[int, ...], steps: int) -> None:
        """Raise `ValueError` for what has no equilibrium to differentiate."""
        chain = Chain(self.trained[0])  # pyright: ignore[reportArgumentType]
        norms = [*chain.norms(), *([] if chain.net.input.norm is None else [chain.net.input.norm])]
        for norm in norms:
            if getattr(norm, "running_var", torch.zeros((0, 0))).dim() != 1:
                raise ValueError(
                    f"An equilibrium needs a norm that is the same at every step, not {type(norm).__name__};"
                    " use norm=batch or norm=none."
                )
        head = chain.net.head
        if head.norm is not None or not isinstance(head.neuron, nn.Identity):
            raise ValueError(
                "The rule reads a rate through a plain Linear head; set readout.neuron and readout.norm to null."
            )

    @torch.no_grad()
    def constrain(self, net: nn.Module) -> None:
        """Follow the norm of the feedback weights."""
        for bound, weight in bounds(net):
            bound.step(weight)

    # --- a batch

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        r"""The criterion of the simulated rate; its gradient is the rule's estimate.

        What is returned is $L + \sum_k \langle e_k, c_k \rangle$ less the value of the sum, with $e_k$ the estimate of
        the gradient of $c_k$: its value is the loss, and to differentiate it, scaled or not, gives the estimate.
        """
        refuse_low_precision(next(learner.net.parameters()).dtype)
        chain = Chain(learner.net)  # pyright: ignore[reportArgumentType]
        with parametrize.cached(), stepping():  # one bound and one dropout mask for all passes
            if chain.net.feedback is not None:
                _ = chain.net.feedback.synapse.weight  # computed here, where gradients are on
            rates = self.simulate(learner, chain, x)
            z = rates.rate(chain.populations[-1]).requires_grad_()
            loss = learner.score(chain.classify(z), y)
            (g,) = torch.autograd.grad(loss, z, retain_graph=True)
            with torch.autocast(x.device.type, enabled=False):
                attached = self.attach(learner, chain, rates, z.detach(), g, len(y))
        return loss + (attached - attached.detach())

    @torch.no_grad()
    def simulate(self, learner: Learning, chain: Chain, x: Tensor) -> Rates:
        """Run the network.

        Norms between populations use their running statistics, the norm of the input those of the batch; none is
        changed.
        """
        rates = Rates(chain, weighted_input=self.weighted_input)
        with rates.watch(), steady(chain.norms()), unchanged(chain.net.input.norm):
            if getattr(learner, "watching", False):
                learner(x)
            else:
                learner.net.forward(learner.encoder(x))  # not as compiled: that knows no hooks
        return rates

    def attach(
        self, learner: Learning, chain: Chain, rates: Rates, z: Tensor, g: Tensor, samples: int
    ) -> Tensor:
        """The sum of estimates times what they are the gradients of.

        **Arguments:**

        - `learner`, `chain`, `rates`: what was run, and what came out.
        - `z`, `g`: the rate of the last population, and the gradient of the loss.
        - `samples`: size of the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define attach(...).")


@contextmanager
def steady(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Norms in evaluation mode."""
    before = [norm.training for norm in norms]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm, training in zip(norms, before, strict=True):
            norm.train(training)


def refuse_low_precision(dtype: torch.dtype) -> None:
    """Raise `ValueError` unless weights have at least float32."""
    if dtype.itemsize < 4:
        raise ValueError(
            "rule=ide and rule=spide solve for an equilibrium, for which 16 bits are too coarse:"
            " set trainer.precision=32-true, 64-true or bf16-mixed."
        )
