"""Fully connected networks."""

import math
import re

from torch import Tensor, nn

from snnrun.encoder.profile import flat
from snnrun.model.layers import Dropout, HeadFactory, Layer, NeuronFactory, NormFactory


class MLP(nn.Module):
    """Fully connected layers of spiking neurons.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: shape of one step of one sample, and number of classes; the runner passes them.
    - `spec`: sizes of the hidden layers, such as `400-400`; empty for a linear network.
    - `dropout`: probability of dropping the output of a hidden neuron, the same at every step.
    - `bias`: give the hidden layers a bias; without effect on what the network can do where a norm follows.
    """

    traits = frozenset({"feedforward", "dense", "chain", "passes_times"})

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        spec: str | int = "256",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        features = math.prod(in_shape)
        body: list[nn.Module] = []
        for size in sizes(spec):
            body.append(Layer(nn.Linear(features, size, bias=bias), norm(size), neuron(size)))
            if dropout:
                body.append(Dropout(dropout))
            features = size
        self.body = nn.Sequential(*body)
        self.head = head(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to `(T, B, num_classes)`."""
        return self.head(self.body(flat(x)))


def sizes(spec: str | int) -> list[int]:
    """The layer sizes of `400-400`. Raises `ValueError` for anything else."""
    if not re.fullmatch(r"([1-9]\d*(-[1-9]\d*)*)?", str(spec)):
        raise ValueError(
            f"model.spec must be layer sizes joined by '-', such as 400-400, got {spec!r}."
        )
    return [int(size) for size in str(spec).split("-") if size]
