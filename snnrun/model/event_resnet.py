"""Residual networks for event cameras: the 7B-Net and its kin."""

import math
import re
from functools import partial
from typing import Literal

from torch import Tensor, nn

from snnrun.model.layers import HeadFactory, NeuronFactory, NormFactory, Pool
from snnrun.model.residual import (
    Connect,
    Convolution,
    PlainBlock,
    SEWBlock,
    SpikingBlock,
    zero_init,
)

_UNIT = r"(?P<channels>[1-9]\d*)C(?P<kernel>[1-9]\d*)|B(?P<middle>[1-9]\d*)?|P(?P<size>[1-9]\d*)"
_WORD = re.compile(
    rf"(?P<units>(?:{re.sub(r'[?]P<[a-z]+>', '?:', _UNIT)})+)(?:x(?P<times>[1-9]\d*))?"
)


class EventResNet(nn.Module):
    """Residual blocks with pooling between them, for frames of an event camera.

    `32C1` is a layer with a 1x1 convolution to 32 channels, `B` a block of two 3x3 convolutions (`B16`: 16 channels
    between them), `P2` the maximum over 2x2, `BP2x7` seven times a block and a pool. `32C1-BP2x7` is the 7B-Net for
    DVS Gesture, `64C1-BP2x4-128C1-BP2x3` the Wide-7B-Net for CIFAR10-DVS.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `spec`: the layers.
    - `block`: `sew`, `spiking` (one neuron behind the sum) or `plain` (no shortcut).
    - `connect`: how a SEW block joins its residual path A with its shortcut S: `add` (A + S), `and` (A S) or
      `iand` (S (1 - A)); the last two need spikes.
    - `zero_init_residual`: start every block as the identity, by the last norm of its residual path.

    Fang et al., *Deep residual learning in spiking neural networks*, NeurIPS 2021, sec. 4.2 and 4.3.
    """

    traits = frozenset({"feedforward", "convolutional"})
    needs = frozenset({"spatial", "events"})
    needs_if = {("connect", "and"): {"spikes"}, ("connect", "iand"): {"spikes"}}

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        spec: str = "32C1-BP2x7",
        block: Literal["sew", "spiking", "plain"] = "sew",
        connect: Connect = "add",
        zero_init_residual: bool = False,
    ):
        super().__init__()
        kinds = {
            "sew": partial(SEWBlock, connect=connect),
            "spiking": SpikingBlock,
            "plain": PlainBlock,
        }
        if block not in kinds:
            raise ValueError(f"model.block must be sew, spiking or plain, got {block!r}.")
        if block != "sew" and connect != "add":
            raise ValueError(
                f"model.connect={connect} has no effect with model.block={block}; set block=sew, or connect=add."
            )
        if block == "plain" and zero_init_residual:
            raise ValueError(
                "model.zero_init_residual has no effect with model.block=plain; remove one of them."
            )
        shape = in_shape
        body: list[nn.Module] = []
        for found in units(spec):
            if found["channels"]:
                convolution = Convolution(int(found["channels"]), int(found["kernel"]))
                body.append(convolution.layer(shape[0], norm, neuron))
                shape = (convolution.channels, *shape[1:])
            elif found["size"]:
                size = int(found["size"])
                body.append(Pool("max", size))
                shape = (shape[0], *(side // size for side in shape[1:]))
            else:
                path = Convolution(int(found["middle"] or shape[0]), 3), Convolution(shape[0], 3)
                body.append(kinds[block](neuron, norm, shape[0], path))
            if min(shape) < 1:
                raise ValueError(
                    f"model.spec: nothing is left of the image {tuple(in_shape)} after {found[0]!r},"
                    f" layer {len(body)} of {spec!r}."
                )
        self.body = nn.Sequential(*body)
        self.head = head(math.prod(shape), num_classes)
        if zero_init_residual:
            zero_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, num_classes)`."""
        return self.head(self.body(x).flatten(2))


def units(spec: str) -> list[re.Match[str]]:
    """The layers, blocks and pools of a spec, its repetitions written out. Raises `ValueError`."""
    found = []
    for word in spec.split("-"):
        match = _WORD.fullmatch(word)
        if not match:
            raise ValueError(
                f"model.spec: cannot read {word!r} in {spec!r}. Words are made of layers (32C1), blocks (B, B16) and"
                " pools (P2); x7 behind a word repeats it."
            )
        found += [*re.finditer(_UNIT, match["units"])] * int(match["times"] or 1)
    return found
