"""The VGG networks."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from snnrun.model.layers import (
    Dropout,
    HeadFactory,
    Layer,
    NeuronFactory,
    NormFactory,
    Pool,
    over_time,
)

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class Grid(nn.Module):
    """The averages of an image over a grid of squares; where it has fewer pixels, they are repeated.

    **Arguments:**

    - `side`: number of squares along a side.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, C, side, side)`."""
        return over_time(lambda step: functional.adaptive_avg_pool2d(step, self.side), x)


class VGG(nn.Module):
    """VGG: convolutions of 3x3 in five groups with a pool behind each, and one dense layer, the head.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `depth`: 11, 13, 16 or 19, the number of layers of the original, which has three dense ones.
    - `pool`: `avg` or `max` over 2x2, left out where one row or column is left.
    - `grid`: the head reads the averages over a grid of so many squares a side.
    - `dropout`: probability of dropping an output of a hidden layer.

    Convolutions start normal with deviation sqrt(2/fan-out), the head with 0.01, biases at 0.

    Simonyan & Zisserman, *Very deep convolutional networks for large-scale image recognition*, ICLR 2015, with
    neurons and one dense layer as in Meng et al., CVPR 2022.
    """

    traits = frozenset({"feedforward", "convolutional"})
    needs = frozenset({"spatial"})

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        depth: int = 11,
        pool: Literal["avg", "max"] = "avg",
        grid: int = 7,
        dropout: float = 0.1,
    ):
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"model.depth must be 11, 13, 16 or 19, got {depth}.")
        if pool not in ("avg", "max"):
            raise ValueError(f"model.pool must be avg or max, got {pool!r}.")
        if grid < 1:
            raise ValueError(f"model.grid must be at least 1, got {grid}.")
        inputs, *sides = in_shape
        body: list[nn.Module] = []
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(count):
                body.append(
                    Layer(nn.Conv2d(inputs, width, 3, padding=1), norm(width), neuron(width))
                )
                inputs = width
                if dropout:
                    body.append(Dropout(dropout))
            if min(sides) > 1:
                body.append(Pool(pool, 2))
                sides = [side // 2 for side in sides]
        self.body = nn.Sequential(*body)
        self.grid = Grid(grid)
        self.head = head(inputs * grid * grid, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, num_classes)`."""
        return self.head(self.grid(self.body(x)).flatten(2))
