"""The ResNet without its shortcuts."""

from snnrun.model.layers import HeadFactory, NeuronFactory, NormFactory
from snnrun.model.residual import PlainBlock, ResNet, Stem


class PlainNet(ResNet):
    r"""The convolutions of a SEW ResNet in a row, without shortcuts: what residual learning is compared with.

    $$O_t = \mathrm{SN}(\mathcal{F}(S))_t$$

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `depth`: 18, 34, 50, 101 or 152 as for ImageNet (64 to 512 channels), 20, 32, 44 or 56 as for CIFAR (16 to 64).
    - `stem`: `imagenet` (7x7, stride 2, then maximum pooling), `small` (3x3, no pooling), `deep` (three times 3x3,
      then pooling) or `auto`: small for images of at most 64 pixels a side; the CIFAR family never has the first.

    Fang et al., *Deep residual learning in spiking neural networks*, NeurIPS 2021, sec. 4.2.
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
        stem: Stem = "auto",
    ):
        super().__init__(
            neuron, norm, head, in_shape, num_classes, PlainBlock, depth=depth, stem=stem
        )
