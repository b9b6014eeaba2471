"""The ResNet with its neurons behind the sums."""

from functools import partial
from typing import Literal

from snnrun.model.layers import HeadFactory, NeuronFactory, NormFactory
from snnrun.model.residual import Down, ResNet, SpikingBlock, Stem, zero_init


class SpikingResNet(ResNet):
    r"""Spiking ResNet: a ResNet whose ReLUs are neurons, so that the last neuron of a block sees the sum.

    $$O_t = \mathrm{SN}(\mathcal{F}(S) + S)_t$$

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `depth`: 18, 34, 50, 101 or 152 as for ImageNet (64 to 512 channels), 20, 32, 44 or 56 as for CIFAR (16 to 64),
      19 for the one of Zheng et al. (128 to 512).
    - `width`: channels of the first stage, where they are others; each further stage has twice as many.
    - `stem`: `imagenet` (7x7, stride 2, then pooling), `small` (3x3, no pooling), `deep` (three of 3x3, then pooling)
      or `auto`: small for images of at most 64 pixels a side and for the CIFAR family.
    - `pool`: the stem's pooling, `max`, `avg` or `none`.
    - `stem_norm`: with `step`, the batch norm of the stem takes the statistics of every step by itself, with `time` as
      all others over all steps.
    - `down`: what strides in a shortcut: its convolution (`conv`), or an average before it (`avg`).
    - `zero_init_residual`: start every block as the identity, by the last norm of its residual path.

    Zheng et al., *Going deeper with directly-trained larger SNNs*, AAAI 2021, as trained by Fang et al. 2021.
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
        depth: int = 20,
        width: int | None = None,
        stem: Stem = "auto",
        pool: Literal["max", "avg", "none"] = "max",
        stem_norm: Literal["time", "step"] = "time",
        down: Down = "conv",
        zero_init_residual: bool = False,
    ):
        super().__init__(
            neuron,
            norm,
            head,
            in_shape,
            num_classes,
            partial(SpikingBlock, down=down),
            depth=depth,
            stem=stem,
            width=width,
            pool=pool,
            stem_norm=stem_norm,
        )
        if down == "avg":
            self._check_sides()
        if zero_init_residual:
            zero_init(self)

    def _check_sides(self) -> None:
        for given in self.in_shape[1:]:
            side = {"imagenet": (given + 3) // 4, "deep": given // 2}.get(self.kind, given)
            for _ in self.stages[1:]:
                if side % 2:
                    raise ValueError(
                        f"model.down=avg halves the sides of its input, which must be even; images of {given}"
                        f" pixels come to {side}. Choose model.down=conv, or images of another size."
                    )
                side //= 2
