"""The spike-element-wise ResNet."""

from functools import partial

from snnrun.model.layers import HeadFactory, NeuronFactory, NormFactory
from snnrun.model.residual import Connect, ResNet, SEWBlock, Stem, zero_init


class SEWResNet(ResNet):
    r"""Spike-element-wise ResNet: residual path and shortcut both end in neurons, then they are joined.

    $$O_t = \mathrm{SN}(\mathcal{F}(S))_t \circ S_t, \qquad \circ\ \text{add, and or iand}$$

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: (C, H, W) of one step of one sample, and number of classes; the runner passes them.
    - `depth`: 18, 34, 50, 101 or 152 as for ImageNet (64 to 512 channels), 20, 32, 44 or 56 as for CIFAR (16 to 64).
    - `connect`: how a block joins its residual path A with its shortcut S: `add` (A + S), `and` (A S) or
      `iand` (S (1 - A)); the last two need spikes.
    - `stem`: `imagenet` (7x7, stride 2, then maximum pooling), `small` (3x3, no pooling), `deep` (three times 3x3,
      then pooling) or `auto`: small for images of at most 64 pixels a side; the CIFAR family never has the first.
    - `zero_init_residual`: start every block as the identity, by the last norm of its residual path.

    Fang et al., *Deep residual learning in spiking neural networks*, NeurIPS 2021; CIFAR family: He et al. 2016.
    """

    traits = frozenset({"feedforward", "convolutional"})
    needs = frozenset({"spatial"})
    needs_if = {("connect", "and"): {"spikes"}, ("connect", "iand"): {"spikes"}}

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        depth: int = 20,
        connect: Connect = "add",
        stem: Stem = "auto",
        zero_init_residual: bool = False,
    ):
        block = partial(SEWBlock, connect=connect)
        super().__init__(neuron, norm, head, in_shape, num_classes, block, depth=depth, stem=stem)
        if zero_init_residual:
            zero_init(self)
