"""What is kept of a network for pictures: predictions, and what a few test samples did in it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnrun.dataset.base import DataModule
from snnrun.learner import Learner
from snnrun.model.layers import Layer, fires, layers
from snnrun.neuron.base import Neuron, State, wide


@torch.no_grad()
def snapshot(
    learner: Learner, data: DataModule, samples: int = 4, neurons: int = 100
) -> dict[str, np.ndarray]:
    """What `plot` draws: labels and predictions of the test split, and what a few test samples did in the network.

    `label`, `predicted`: (samples of the test split,). `input`: (N, T, ...) as encoded. `out`: (N, T, classes).
    `sample`: (N, ...) before it is encoded, where that adds the time axis.
    `spikes/LAYER`: (N, T, neurons), every spiking layer. `potential/LAYER`: (T, neurons), of the first sample, what a
    step leaves; `neurons/LAYER`: which neurons these are; `threshold/LAYER`: (), where there is one number.
    `accuracy`: (T,), on the test split after every step.
    """
    learner.eval()
    x, _ = data.samples["test"][data.indices["test"][:samples].tolist()]
    prepared = learner.prepare(x.to(learner.device), train=False)
    encoded = learner.encoder(prepared)
    spikes, out = watch_spikes(learner.net, encoded, neurons)
    label, predicted = torch.cat(learner.predicted, 1).numpy()
    drawn = {"input": encoded, "out": out, **{f"spikes/{name}": s for name, s in spikes.items()}}
    arrays = {name: value.transpose(0, 1).float().cpu().numpy() for name, value in drawn.items()}
    if learner.static:
        arrays["sample"] = prepared.float().cpu().numpy()
    for name, trace in watch_potentials(learner.net, encoded, neurons).items():
        arrays[f"potential/{name}"] = trace.potential.float().cpu().numpy()
        arrays[f"neurons/{name}"] = trace.neurons.numpy()
        if trace.threshold is not None:
            arrays[f"threshold/{name}"] = np.array(trace.threshold)
    steps = np.array(learner.accuracy_by_step)
    return {"label": label, "predicted": predicted, "accuracy": steps, **arrays}


def watch_spikes(net: nn.Module, x: Tensor, neurons: int) -> tuple[dict[str, Tensor], Tensor]:
    """The spikes of some neurons of every layer, and the network's output.

    **Arguments:**

    - `net`: a network of `Layer`s.
    - `x`: its input `(T, B, ...)`.
    - `neurons`: how many neurons of a layer at most, evenly spaced.
    """
    seen: dict[str, list[Tensor]] = {}  # in a loop a layer is called once a step

    def keep(name: str, layer: Layer) -> Any:
        def hook(_: nn.Module, inputs: Any, out: Tensor) -> None:
            if fires(layer.neuron):
                flat = layer.neuron.spikes(out).flatten(2)
                seen.setdefault(name, []).append(
                    flat[:, :, evenly(flat.shape[2], neurons)].detach()
                )

        return layer.register_forward_hook(hook)

    hooks = [keep(name, layer) for name, layer in layers(net)]
    try:
        out = net.forward(x)  # not as compiled: that would not know of the hooks
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(chunks) for name, chunks in seen.items()}, out


def evenly(count: int, most: int) -> Tensor:
    """At most so many of the first `count` numbers, evenly spaced."""
    return torch.linspace(0, count - 1, min(most, count)).long()


@dataclass
class Trace:
    """The membrane potential of some neurons of a layer, while one sample runs through it.

    **Arguments:**

    - `neurons`: which they are, `(n,)`, counted through the layer; the same that `watch_spikes` picks.
    - `potential`: what every step leaves, after a reset, `(T, n)`.
    - `threshold`: at which they fire, if that is the same number for all and at all times.
    """

    neurons: Tensor
    potential: Tensor
    threshold: float | None


@dataclass(eq=False)
class _Recorder:
    """A kernel that runs step by step, as `scan` does, and writes down potentials of the first sample."""

    most: int
    neurons: Tensor | None = None

    def __post_init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
        out = []
        for x_t in x.unbind(0):
            out_t, state = neuron.step(wide(x_t), state)
            out.append(out_t.to(x.dtype))
            if neuron.potential is not None and neuron.potential < len(state):
                flat = state[neuron.potential].expand_as(x_t)[0].flatten()
                if self.neurons is None:
                    self.neurons = evenly(len(flat), self.most)
                self.seen.append(flat[self.neurons])
        return torch.stack(out), state


@torch.no_grad()
def watch_potentials(net: nn.Module, x: Tensor, neurons: int) -> dict[str, Trace]:
    """The membrane potentials of some neurons of every layer that has them and runs in steps of time.

    **Arguments:** as of `watch_spikes`; of the first sample of `x` alone.
    """
    watched = {
        name: layer.neuron
        for name, layer in layers(net)
        if isinstance(layer.neuron, Neuron)
        and "stepped" in layer.neuron.traits
        and layer.neuron.potential is not None
    }
    recorders = {name: _Recorder(neurons) for name in watched}
    kernels = {name: neuron.kernel for name, neuron in watched.items()}
    try:
        for name, neuron in watched.items():
            neuron.kernel = recorders[name]
        net.forward(x[:, :1])
    finally:
        for name, neuron in watched.items():
            neuron.kernel = kernels[name]
    traces = {}
    for name, recorder in recorders.items():
        if recorder.neurons is not None and len(recorder.seen) == len(x):  # it ran, and once
            value = getattr(watched[name], "threshold", None)
            same = isinstance(value, int | float) and "adaptive" not in watched[name].traits
            potential = torch.stack(recorder.seen)
            traces[name] = Trace(recorder.neurons, potential, float(value) if same else None)  # pyright: ignore[reportArgumentType]
    return traces
