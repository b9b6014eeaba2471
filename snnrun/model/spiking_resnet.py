"""The ResNet with its neurons behind the sums."""

from snnrun.model.layers import HeadFactory, NeuronFactory, NormFactory
from snnrun.model.residual import ResNet, SpikingBlock, Stem, zero_init


class SpikingResNet(ResNet):
    r"""Spiking ResNet: a ResNet whose ReLUs are neurons, so that the last neuron of a block sees the sum.

    $$O_t = \mathrm{SN}(\mathcal{F}(S) + S)_t$$

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `depth`: 18, 34, 50, 101 or 152 as for ImageNet (64 to 512 channels), 20, 32, 44 or 56 as for CIFAR (16 to 64).
    - `stem`: `imagenet` (7x7, stride 2, then maximum pooling), `small` (3x3, no pooling), `deep` (three times 3x3, no
      pooling) or `auto`: small for images of at most 64 pixels a side; the CIFAR family never has the first.
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
        stem: Stem = "auto",
        zero_init_residual: bool = False,
    ):
        super().__init__(
            neuron, norm, head, in_shape, num_classes, SpikingBlock, depth=depth, stem=stem
        )
        if zero_init_residual:
            zero_init(self)
