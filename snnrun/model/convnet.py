"""Convolutional networks from the papers' spec strings."""

import math
import re
from typing import ClassVar, Literal

from torch import Tensor, nn

from snnrun.model.layers import Dropout, HeadFactory, Layer, NeuronFactory, NormFactory, Pool

_WORD = re.compile(
    r"(?P<channels>[1-9]\d*)C(?P<kernel>[1-9]\d*)((?P<stride>s[1-9]\d*)|(?P<padding>p\d+))*"
    r"|(?P<pool>[PAM])(?P<size>[1-9]\d*)|(?P<dense>[1-9]\d*)|(?P<drop>D)"
)


class ConvNet(nn.Module):
    """A convolutional network written as papers write it: `15C5-P2-40C5-P2-300`.

    `15C5` is a convolution to 15 channels with a 5x5 kernel (`15C5s2p1`: stride 2, padding 1), `P2` a pooling of the
    kind `pool` over 2x2, `A2` average and `M2` maximum pooling, `300` a dense layer. The head follows the last word.
    Where the paper says at which places it drops out, `D` is such a place.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `spec`: the layers.
    - `pool`: what `P` means, `max` or `avg`.
    - `padding`: of convolutions that state none: `same` (half the kernel) or `valid` (none).
    - `dropout`: probability of dropping an output, the same at every step: of every hidden layer, or at each `D` if the
      spec has any.
    - `bias`: give convolutions and dense layers a bias; with a norm behind them it is idle.
    - `dense_norm`: normalise dense layers too.
    """

    traits = frozenset({"feedforward", "convolutional", "chain"})
    traits_if: ClassVar = {("pool", "max"): {"passes_times"}}
    needs = frozenset({"spatial"})

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        spec: str | int = "32C3-P2-64C3-P2-128",
        pool: Literal["max", "avg"] = "max",
        padding: Literal["same", "valid"] = "same",
        dropout: float = 0.0,
        bias: bool = False,
        dense_norm: bool = True,
    ):
        super().__init__()
        shape = in_shape
        body: list[nn.Module] = []
        words = str(spec).split("-")
        for word in words:
            found = _WORD.fullmatch(word)
            if not found:
                raise ValueError(
                    f"model.spec: cannot read {word!r} in {spec!r}."
                    " Words are convolutions (15C5, 15C5s2p1), pools (P2, A2, M2), dense layers (300) and dropout (D)."
                )
            if found["drop"]:
                body.append(Dropout(dropout))
                continue
            if found["dense"]:
                size = int(found["dense"])
                if len(shape) == 3:
                    body.append(nn.Flatten(2))
                dense = nn.Linear(math.prod(shape), size, bias=bias)
                body.append(Layer(dense, norm(size) if dense_norm else None, neuron(size)))
                shape = (size,)
            elif len(shape) != 3:
                raise ValueError(
                    f"model.spec: {word!r} stands behind a dense layer in {spec!r}; dense layers come last."
                )
            elif found["pool"]:
                kind: Literal["max", "avg"] = {"A": "avg", "M": "max"}.get(found["pool"], pool)  # pyright: ignore[reportAssignmentType]
                size = int(found["size"])
                body.append(Pool(kind, size))
                shape = (shape[0], shape[1] // size, shape[2] // size)
            else:
                channels, kernel = int(found["channels"]), int(found["kernel"])
                stride = int((found["stride"] or "s1")[1:])
                pad = (
                    int(found["padding"][1:])
                    if found["padding"]
                    else kernel // 2
                    if padding == "same"
                    else 0
                )
                convolution = nn.Conv2d(shape[0], channels, kernel, stride, pad, bias=bias)
                body.append(Layer(convolution, norm(channels), neuron(channels)))
                shape = (channels, *((side + 2 * pad - kernel) // stride + 1 for side in shape[1:]))
            if min(shape) < 1:
                raise ValueError(
                    f"model.spec: nothing is left of the image {in_shape} after {word!r} in {spec!r}."
                )
            if dropout and not found["pool"] and "D" not in words:
                body.append(Dropout(dropout))
        if len(shape) == 3:
            body.append(nn.Flatten(2))
        self.body = nn.Sequential(*body)
        self.head = head(math.prod(shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, num_classes)`."""
        return self.head(self.body(x))
