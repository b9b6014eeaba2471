"""Networks with recurrent layers."""

import math
import re

from torch import Tensor, nn

from snnrun.encoder.profile import flat
from snnrun.model.layers import Dropout, HeadFactory, Layer, NeuronFactory, NormFactory


class Recurrent(nn.Module):
    """Fully connected layers, some of which feed their own spikes back, one step later.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: shape of one step of one sample, and number of classes; the runner passes them.
    - `spec`: sizes of the hidden layers, `R` before a recurrent one, such as `400-R400`.
    - `dropout`: probability of dropping the output of a hidden neuron, the same at every step.
    - `bias`: give the hidden layers a bias.
    """

    traits = frozenset({"recurrent", "chain"})

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        spec: str | int = "R128",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        if not re.fullmatch(r"R?[1-9]\d*(-R?[1-9]\d*)*", str(spec)):
            raise ValueError(
                f"model.spec must be layer sizes joined by '-', R before a recurrent one, got {spec!r}."
            )
        features = math.prod(in_shape)
        body: list[nn.Module] = []
        for word in str(spec).split("-"):
            size = int(word.removeprefix("R"))
            loop = nn.Linear(size, size, bias=False) if word.startswith("R") else None
            body.append(
                Layer(
                    nn.Linear(features, size, bias=bias), norm(size), neuron(size), recurrent=loop
                )
            )
            if dropout:
                body.append(Dropout(dropout))
            features = size
        self.body = nn.Sequential(*body)
        self.head = head(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to `(T, B, num_classes)`."""
        return self.head(self.body(flat(x)))
