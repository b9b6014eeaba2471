"""The pre-activation ResNet."""

from typing import Literal

from torch import Tensor, nn

from snnrun.model.layers import Dropout, HeadFactory, Layer, NeuronFactory, NormFactory, Pool
from snnrun.model.residual import IMAGENET, SMALL, Convolution, Path


class PreActBlock(nn.Module):
    r"""Pre-activation block: norm and neurons stand before the convolutions, and the shortcut carries their spikes.

    $$S = \mathrm{SN}(\mathrm{norm}(X)), \qquad O = \mathcal{F}(S) + S$$

    **Arguments:**

    - `neuron`, `norm`: factories.
    - `channels`: of the input.
    - `path`: convolutions of the residual path; the last one has neither norm nor neuron.
    - `dropout`: probability of dropping what the last convolution reads.
    - `shortcut_norm`: normalise the convolution of 1x1 that stands in the shortcut where channels or size change.

    He et al., *Identity mappings in deep residual networks*, ECCV 2016, as in Meng et al., CVPR 2022.
    """

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        channels: int,
        path: Path,
        *,
        dropout: float = 0.0,
        shortcut_norm: bool = False,
    ):
        super().__init__()
        *inner, last = path
        self.pre = Layer(nn.Identity(), norm(channels), neuron(channels))
        inputs, parts = channels, []
        for convolution in inner:
            parts.append(convolution.layer(inputs, norm, neuron))
            inputs = convolution.channels
        if dropout:
            parts.append(Dropout(dropout))
        self.path = nn.Sequential(*parts, last.layer(inputs, None, None))
        stride = max(convolution.stride for convolution in path)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or last.channels != channels:
            convolution = Convolution(last.channels, 1, stride, last.bias)
            self.shortcut = convolution.layer(channels, norm if shortcut_norm else None, None)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to the same, with the channels and size that the path ends in."""
        s = self.pre(x)
        return self.path(s) + self.shortcut(s)


class PreActResNet(nn.Module):
    """Pre-activation ResNet: currents are added up from block to block, and every block begins with neurons.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `depth`: 18, 34, 50, 101 or 152; from 50 on the blocks are bottlenecks, which stride in their first convolution.
    - `width`: channels of the first stage; each further stage has twice as many.
    - `stem`: `small` (3x3; convolutions of blocks have biases, shortcuts no norm), `imagenet` (7x7, stride 2, norm,
      neurons and average pooling; convolutions without biases, shortcuts normalised) or `auto`: small for images of at
      most 64 pixels a side.
    - `dropout`: probability of dropping what the last convolution of a block and, with `small`, the head read.

    He et al., *Identity mappings in deep residual networks*, ECCV 2016; with neurons behind the pool as well, as in
    Meng et al., *Training high-performance low-latency spiking neural networks by differentiation on spike
    representation*, CVPR 2022.
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
        depth: int = 18,
        width: int = 64,
        stem: Literal["auto", "imagenet", "small"] = "auto",
        dropout: float = 0.0,
    ):
        super().__init__()
        if depth not in IMAGENET:
            allowed = ", ".join(map(str, IMAGENET))
            raise ValueError(f"model.depth must be one of {allowed}, got {depth}.")
        if stem not in ("auto", "imagenet", "small"):
            raise ValueError(f"model.stem must be auto, imagenet or small, got {stem!r}.")
        inputs, *sides = in_shape
        large = max(sides) > SMALL if stem == "auto" else stem == "imagenet"
        first = Convolution(width, 7, 2) if large else Convolution(width, 3)
        self.stem = first.layer(inputs, norm if large else None, neuron if large else None)
        self.pool = Pool("avg", 3, 2, 1) if large else nn.Identity()
        channels, stages = width, []
        for number, blocks in enumerate(IMAGENET[depth]):
            made = []
            for k in range(blocks):
                path = convolutions(width, 2 if number and not k else 1, depth >= 50, not large)
                made.append(
                    PreActBlock(neuron, norm, channels, path, dropout=dropout, shortcut_norm=large)
                )
                channels = path[-1].channels
            stages.append(nn.Sequential(*made))
            width *= 2
        self.stages = nn.Sequential(*stages)
        self.last = Layer(nn.Identity(), norm(channels), neuron(channels))
        self.average = Pool("avg", None)
        self.pooled = Layer(nn.Identity(), None, neuron(channels))
        self.dropout = nn.Identity() if large or not dropout else Dropout(dropout)
        self.head = head(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if not large and getattr(self.head.synapse, "bias", None) is not None:
            nn.init.zeros_(self.head.synapse.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, num_classes)`."""
        x = self.last(self.stages(self.pool(self.stem(x))))
        return self.head(self.dropout(self.pooled(self.average(x)).flatten(2)))


def convolutions(width: int, stride: int, bottleneck: bool, bias: bool) -> Path:
    """The residual path of a block: two of 3x3, or 1x1, 3x3 and 1x1 to four times the width; the first one strides."""
    if bottleneck:
        return (
            Convolution(width, 1, stride, bias),
            Convolution(width, 3, 1, bias),
            Convolution(4 * width, 1, 1, bias),
        )
    return Convolution(width, 3, stride, bias), Convolution(width, 3, 1, bias)
