"""Residual blocks, and the networks of four stages (ImageNet) or three (CIFAR) that are made of them."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from snnrun.model.layers import HeadFactory, Layer, NeuronFactory, NormFactory, Pool, layers

Connect = Literal["add", "and", "iand"]
Stem = Literal["auto", "imagenet", "small", "deep"]
Down = Literal["conv", "avg"]

SMALL = 64  # pixels: up to this side, stem=auto neither strides nor pools
IMAGENET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
CIFAR = {19: (3, 3, 2), **{depth: ((depth - 2) // 6,) * 3 for depth in (20, 32, 44, 56)}}
WIDTH = {**dict.fromkeys(IMAGENET, 64), **dict.fromkeys(CIFAR, 16), 19: 128}  # of the first stage


class Convolution(NamedTuple):
    """One convolution of a block: padded by half its kernel."""

    channels: int
    kernel: int
    stride: int = 1
    bias: bool = False

    def layer(self, inputs: int, norm: NormFactory | None, neuron: NeuronFactory | None) -> Layer:
        """The layer with this synapse; without norm or neuron if there is no factory of one."""
        synapse = nn.Conv2d(
            inputs, self.channels, self.kernel, self.stride, self.kernel // 2, bias=self.bias
        )
        made = (factory(self.channels) if factory else None for factory in (norm, neuron))
        return Layer(synapse, *made)


Path = Sequence[Convolution]
Block = Callable[[NeuronFactory, NormFactory, int, Path], nn.Module]


def basic(width: int, stride: int) -> Path:
    """Two convolutions of 3x3."""
    return Convolution(width, 3, stride), Convolution(width, 3)


def bottleneck(width: int, stride: int) -> Path:
    """1x1, 3x3 with the stride, 1x1 to four times the width."""
    return Convolution(width, 1), Convolution(width, 3, stride), Convolution(4 * width, 1)


def shortcut(
    channels: int,
    path: Path,
    norm: NormFactory,
    neuron: NeuronFactory | None,
    down: Down = "conv",
) -> nn.Module:
    """The identity, or a convolution of 1x1 where the path changes channels or size.

    `down`: what strides where the path does, the convolution (`conv`) or the average over as many pixels before it
    (`avg`).
    """
    last, stride = path[-1], max(convolution.stride for convolution in path)
    if stride == 1 and last.channels == channels:
        return nn.Identity()
    if stride > 1 and down == "avg":
        convolution = Convolution(last.channels, 1).layer(channels, norm, neuron)
        return nn.Sequential(Pool("avg", stride), convolution)
    return Convolution(last.channels, 1, stride).layer(channels, norm, neuron)


def residual_path(
    channels: int, path: Path, norm: NormFactory, neuron: NeuronFactory, *, spiking_end: bool = True
) -> nn.Sequential:
    """The convolutions of a block, each with norm and neuron; `spiking_end`: the last one too has a neuron."""
    inputs = [channels, *(convolution.channels for convolution in path)]
    neurons = [*[neuron] * (len(path) - 1), neuron if spiking_end else None]
    return nn.Sequential(
        *(c.layer(i, norm, n) for c, i, n in zip(path, inputs, neurons, strict=False))
    )


class SEWBlock(nn.Module):
    r"""Spike-element-wise residual block: the residual path and the shortcut end in neurons, then they are joined.

    $$O = A + S \ \text{(add)}, \qquad O = A\,S \ \text{(and)}, \qquad O = S\,(1 - A) \ \text{(iand)}$$

    A is what the residual path gives and S the shortcut. Gradients follow the product rule.

    **Arguments:**

    - `neuron`, `norm`: factories.
    - `channels`: of the input.
    - `path`: convolutions of the residual path.
    - `connect`: `add`, `and` or `iand`.

    Fang et al., *Deep residual learning in spiking neural networks*, NeurIPS 2021, sec. 3.2.
    """

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        channels: int,
        path: Path,
        connect: Connect = "add",
    ):
        super().__init__()
        if connect not in ("add", "and", "iand"):
            raise ValueError(f"model.connect must be add, and or iand, got {connect!r}.")
        self.connect = connect
        self.path = residual_path(channels, path, norm, neuron)
        self.shortcut = shortcut(channels, path, norm, neuron)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to the same, with the channels and size that the path ends in."""
        a, s = self.path(x), self.shortcut(x)
        match self.connect:
            case "add":
                return a + s
            case "and":
                return a * s
            case _:
                return s * (1 - a)


class SpikingBlock(nn.Module):
    r"""Residual block of the Spiking ResNet: one neuron behind the sum of two currents.

    $$O = \mathrm{SN}(A + S)$$

    **Arguments:**

    - `neuron`, `norm`: factories.
    - `channels`: of the input.
    - `path`: convolutions of the residual path.
    - `down`: what strides in a shortcut: its convolution (`conv`), or an average before it (`avg`).

    Zheng et al., *Going deeper with directly-trained larger SNNs*, AAAI 2021, as in Fang et al. 2021.
    """

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        channels: int,
        path: Path,
        down: Down = "conv",
    ):
        super().__init__()
        if down not in ("conv", "avg"):
            raise ValueError(f"model.down must be conv or avg, got {down!r}.")
        self.path = residual_path(channels, path, norm, neuron, spiking_end=False)
        self.shortcut = shortcut(channels, path, norm, None, down)
        self.out = Layer(nn.Identity(), None, neuron(path[-1].channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to the same, with the channels and size that the path ends in."""
        return self.out(self.path(x) + self.shortcut(x))


class PlainBlock(nn.Module):
    """The residual path of a `SEWBlock` without a shortcut.

    **Arguments:**

    - `neuron`, `norm`: factories.
    - `channels`: of the input.
    - `path`: convolutions.
    """

    def __init__(self, neuron: NeuronFactory, norm: NormFactory, channels: int, path: Path):
        super().__init__()
        self.path = residual_path(channels, path, norm, neuron)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to the same, with the channels and size that the path ends in."""
        return self.path(x)


def zero_init(net: nn.Module) -> None:
    """Make every block the identity at the start: the last norm of each residual path gives 0 (with `and`, 1).

    For `and` that needs neurons that fire at every step on a constant current of 1, as the IF neuron with a threshold
    of at most 1 does and a leaky one does not.
    """
    for block in net.modules():
        if not isinstance(block, SEWBlock | SpikingBlock):
            continue
        last = block.path[-1]
        norm = last.norm if isinstance(last, Layer) else None
        both = isinstance(block, SEWBlock) and block.connect == "and"
        wanted = ("weight", "bias") if both else ("weight",)
        if norm is None or any(getattr(norm, name, None) is None for name in wanted):
            raise ValueError(
                f"model.zero_init_residual sets {' and '.join(wanted)} of the last norm of each block;"
                " choose norm=batch, or model.zero_init_residual=false."
            )
        nn.init.zeros_(norm.weight)  # pyright: ignore[reportArgumentType]
        if both:
            nn.init.ones_(norm.bias)  # pyright: ignore[reportArgumentType]


def norm_each_step(stem: nn.Module) -> None:
    """Have the batch norms of a stem take the statistics of every step by itself."""
    for _, layer in layers(stem):
        if not hasattr(layer.norm, "per_step"):
            raise ValueError(
                "model.stem_norm=step is of norm=batch; choose it, or model.stem_norm=time."
            )
        layer.norm.per_step = True  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]


class ResNet(nn.Module):
    """A stem, three or four stages of blocks, the average over the image, and a head.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes.
    - `block`: makes a block from neuron, norm, channels and path.
    - `depth`: 18, 34, 50, 101 or 152 (ImageNet family), 19, 20, 32, 44 or 56 (CIFAR family).
    - `stem`: `imagenet` (7x7, stride 2, then a pool over 3x3, stride 2), `small` (3x3, no pooling), `deep` (three of
      3x3, then a pool over 2x2) or `auto`.
    - `width`: channels of the first stage, which every further one doubles; None for the family's.
    - `pool`: kind of the stem's pool, `max`, `avg` or `none`.
    - `stem_norm`: `time` leaves the stem's batch norm as all others, `step` has it take the statistics of every step.
    """

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        block: Block,
        *,
        depth: int,
        stem: Stem,
        width: int | None = None,
        pool: Literal["max", "avg", "none"] = "max",
        stem_norm: Literal["time", "step"] = "time",
    ):
        super().__init__()
        if depth not in IMAGENET | CIFAR:
            raise ValueError(
                f"model.depth must be one of {', '.join(map(str, IMAGENET))} (ImageNet family) or"
                f" {', '.join(map(str, CIFAR))} (CIFAR family), got {depth}."
            )
        if stem not in ("auto", "imagenet", "small", "deep"):
            raise ValueError(f"model.stem must be auto, imagenet, small or deep, got {stem!r}.")
        if pool not in ("max", "avg", "none"):
            raise ValueError(f"model.pool must be max, avg or none, got {pool!r}.")
        if stem_norm not in ("time", "step"):
            raise ValueError(f"model.stem_norm must be time or step, got {stem_norm!r}.")
        if depth in CIFAR and stem == "imagenet":
            raise ValueError(
                f"model.stem=imagenet does not go with model.depth={depth}: the CIFAR family always begins with a"
                f" convolution of 3x3. Choose stem=auto, or a depth of {', '.join(map(str, IMAGENET))}."
            )
        inputs, *sides = in_shape
        width = width or WIDTH[depth]
        if stem == "auto":
            stem = "small" if depth in CIFAR or max(sides) <= SMALL else "imagenet"
        self.depth, self.in_shape, self.kind = depth, in_shape, stem
        first = Convolution(width, 7, 2) if stem == "imagenet" else Convolution(width, 3)
        self.stem: nn.Module = first.layer(inputs, norm, neuron)
        if stem == "deep":
            more = (Convolution(width, 3).layer(width, norm, neuron) for _ in range(2))
            self.stem = nn.Sequential(self.stem, *more)
        self.pool = None
        if pool != "none":
            self.pool = {"imagenet": Pool(pool, 3, 2, 1), "deep": Pool(pool, 2)}.get(stem)
        if stem_norm == "step":
            norm_each_step(self.stem)
        channels, stages = width, []
        for number, blocks in enumerate((IMAGENET | CIFAR)[depth]):
            made = []
            for k in range(blocks):
                stride = 2 if number and not k else 1
                path = (bottleneck if depth in (50, 101, 152) else basic)(width, stride)
                made.append(block(neuron, norm, channels, path))
                channels = path[-1].channels
            stages.append(nn.Sequential(*made))
            width *= 2
        self.stages = nn.Sequential(*stages)
        self.average = Pool("avg", None)
        self.head = head(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def describe(self) -> str:
        """The stem and the stages in words."""
        sides = "x".join(map(str, self.in_shape[1:]))
        stem = {
            "imagenet": "7x7 stride 2",
            "small": "3x3",
            "deep": "three of 3x3",
        }[self.kind] + (" without pooling" if self.pool is None else " and pooling")
        family = "CIFAR" if self.depth in CIFAR else "ImageNet"
        return f"{family} family of {self.depth} layers, stem {stem} for images of {sides}"

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, num_classes)`."""
        x = self.stem(x)
        if self.pool is not None:
            x = self.pool(x)
        return self.head(self.average(self.stages(x)).flatten(2))
