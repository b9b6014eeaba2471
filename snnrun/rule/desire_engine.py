"""What desire backpropagation makes of a batch: by arrays in torch, or by compiled kernels that follow events."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from snnrun.model.layers import Layer
from snnrun.neuron import DesireLIF


@dataclass(frozen=True)
class Batch:
    """Input spikes `(T, B, J)`, labels `(B,)`, and who is dropped.

    `drops` has the share of the input of every layer, `kept` a mask `(B, J)` of the input and of each layer's neurons.
    """

    source: Tensor
    y: Tensor
    drops: Sequence[float]
    kept: Sequence[Tensor]

    def sample(self, b: int) -> "Batch":
        """One sample alone."""
        kept = [mask[b : b + 1] for mask in self.kept]
        return Batch(self.source[:, b : b + 1], self.y[b : b + 1], self.drops, kept)


@dataclass
class Pass:
    """What one layer did with a batch: its input and output spikes `(T, B, ...)`, and its desires `(B, I)`.

    Spikes are 0 and 1 of any type. A desire is 1 or -1 where a neuron that is not dropped should fire more or less, 0
    where it is left alone.
    """

    source: Tensor
    spikes: Tensor
    kept: Tensor
    desire: Tensor | None = None


class Arrays:
    """Desire backpropagation in torch, all samples at once, on any device.

    **Arguments:**

    - `chain`: the layers that are trained.
    - `target`: the count of a neuron that fires as it should.
    - `output_desire`, `hidden_desire`: errors above which a neuron should fire more or less.
    """

    def __init__(
        self, chain: Sequence[Layer], target: int, output_desire: float, hidden_desire: float
    ):
        self.target = target
        self.output_desire, self.hidden_desire = output_desire, hidden_desire
        self.neurons = [layer.neuron for layer in chain if isinstance(layer.neuron, DesireLIF)]

    def __call__(
        self,
        weights: Sequence[Tensor],
        batch: Batch,
        into: Sequence[Tensor],
        rate: float,
    ) -> list[Pass]:
        """Forward through all layers, desires down again, and weight changes into `into`."""
        passes: list[Pass] = []
        kept, source = batch.kept, batch.source * batch.kept[0]
        each = zip(weights, self.neurons, batch.drops, strict=True)
        for place, (weight, neuron, p) in enumerate(each):
            if place:
                source = torch.cat([torch.zeros_like(source[:1]), source[:-1]])
            spikes = neuron(functional.linear(source / (1 - p), weight)) * kept[place + 1]
            passes.append(Pass(source, spikes, kept[place + 1]))
            source = spikes
        desire = self.output_wish(passes[-1].spikes.sum(0), batch.y)
        for place in range(len(weights) - 1, -1, -1):
            done, weight = passes[place], weights[place]
            done.desire = desire * done.kept
            if place:
                desire = self.below(weight, done)
            into[place].add_(self.change(done, self.neurons[place].decay), alpha=rate)
        return passes

    def output_wish(self, counts: Tensor, y: Tensor) -> Tensor:
        """Desires of the output layer, from its spike counts `(B, C)`."""
        right = torch.arange(counts.shape[1], device=y.device) == y[:, None]
        error = counts.double() / self.target
        error = torch.where(right, 1 - error, error)
        return (error > self.output_desire) * torch.where(right, 1, -1)

    def below(self, weight: Tensor, done: Pass) -> Tensor:
        """Desires of the layer that a layer reads, dropped neurons included."""
        assert done.desire is not None
        right = (done.desire > 0).to(weight.dtype)
        error = (right - done.spikes.sum(0) / self.target).abs()
        wish = (error * done.desire) @ weight
        return (wish.abs() >= self.hidden_desire) * torch.where(wish > 0, 1, -1)

    @staticmethod
    def change(done: Pass, decay: float) -> Tensor:
        """Spikes meet traces: the sum over samples and steps."""
        assert done.desire is not None
        trace, traces = torch.zeros_like(done.source[0]), []
        for step in done.source.unbind(0):
            trace = decay * trace + step
            traces.append(trace)
        signed = done.spikes * done.desire
        return signed.flatten(0, 1).T @ torch.stack(traces).flatten(0, 1)


class Events(Arrays):
    """The same by compiled kernels that follow single events: on a CPU, several times faster."""

    def __call__(
        self,
        weights: Sequence[Tensor],
        batch: Batch,
        into: Sequence[Tensor],
        rate: float,
    ) -> list[Pass]:
        """As `Arrays`."""
        from snnrun.rule import desire_kernel as kernel  # compiles on first use

        real = weights[0].numpy().dtype.type
        source, kept = batch.source, batch.kept
        sources = [(source * kept[0]).permute(1, 2, 0).to(torch.uint8).contiguous().numpy()]
        masks = [mask.to(torch.uint8).numpy() for mask in kept]
        for place, (weight, neuron) in enumerate(zip(weights, self.neurons, strict=True)):
            spikes = kernel.np.empty((len(batch.y), len(weight), len(source)), kernel.np.uint8)
            constants = (min(place, 1), real(1 / (1 - batch.drops[place])), real(neuron.decay))
            read = (weight.numpy(), sources[-1], *constants, real(neuron.threshold))
            kernel.forward(*read, masks[place + 1], spikes)
            sources.append(spikes)
        counts = torch.from_numpy(sources[-1]).sum(2)
        desire = self.output_wish(counts, batch.y).to(torch.int8).numpy()
        passes = []
        for place in range(len(weights) - 1, -1, -1):
            read, spikes = sources[place], sources[place + 1]
            below = kernel.np.empty((len(batch.y), read.shape[1]), kernel.np.int8)
            if place:
                wish = (self.target, masks[place], self.hidden_desire, below)
                kernel.send(weights[place].numpy(), spikes, desire, *wish)
            how = (min(place, 1), real(self.neurons[place].decay))
            kernel.learn(into[place].numpy(), read, *how, spikes, desire, real(rate))
            shown, fired = (torch.from_numpy(a).permute(2, 0, 1) for a in (read, spikes))
            passes.append(Pass(shown, fired, kept[place + 1], torch.from_numpy(desire)))
            desire = below
        return passes[::-1]
