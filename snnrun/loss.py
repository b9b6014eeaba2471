"""What is minimised: losses of an output sequence `(T, B, C)` and labels `(B,)`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

ReadoutFunction = Callable[[Tensor], Tensor]


class CrossEntropy(nn.Module):
    r"""Cross entropy of the readout.

    $$L = -\log \mathrm{softmax}(z)_y, \qquad z = \mathrm{readout}(o)$$

    **Arguments:**

    - `label_smoothing`: probability spread evenly over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Mean over the batch."""
        return functional.cross_entropy(readout(out), y, label_smoothing=self.label_smoothing)


class TET(nn.Module):
    r"""Temporal efficient training: cross entropy at every step, and a pull towards one level.

    $$L = (1 - \lambda) \frac{1}{T} \sum_t \mathrm{CE}(o_t, y) + \lambda\, \mathrm{mean}\left((o - \phi)^2\right)$$

    The readout is not used: every step is scored.

    **Arguments:**

    - `lam`: weight of the pull; 0.05 on CIFAR and event data, 0.001 on ImageNet.
    - `phi`: the level, the threshold of the neurons.
    - `label_smoothing`: probability spread evenly over all classes.

    Deng et al., *Temporal efficient training of spiking neural network*, ICLR 2022, eq. 10-12.
    """

    def __init__(self, lam: float = 0.05, phi: float = 1.0, label_smoothing: float = 0.0):
        super().__init__()
        self.lam, self.phi, self.label_smoothing = lam, phi, label_smoothing

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Mean over time and batch."""
        every_step = functional.cross_entropy(
            out.flatten(0, 1), y.repeat(len(out)), label_smoothing=self.label_smoothing
        )
        return (1 - self.lam) * every_step + self.lam * (out - self.phi).square().mean()


class RateMSE(nn.Module):
    r"""Squared distance of the mean output from a one-hot target.

    $$L = \frac{1}{C} \sum_c \left(\frac{1}{T} \sum_t o_{t,c} - [c = y]\right)^2$$

    The readout is not used: it is always the mean.

    Fang et al., *Incorporating learnable membrane time constant*, ICCV 2021, eq. 14.
    """

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Mean over batch and classes."""
        rate = out.mean(0)
        return functional.mse_loss(rate, functional.one_hot(y, rate.shape[1]).to(rate.dtype))


class SpikeCount(nn.Module):
    r"""Squared distance of the number of output spikes from a target count, one for the right class and one for others.

    $$L = \frac{1}{2T} \sum_c e_c^2, \qquad e_c = \sum_t o_{t,c} - n_c$$

    An output that overshoots in the right class or undershoots in another is not punished.

    **Arguments:**

    - `true_count`: spikes wanted of the right class over the whole sequence.
    - `false_count`: spikes allowed of every other class.

    Shrestha & Orchard, *SLAYER*, NeurIPS 2018, eq. 14; the one-sided form as in Zhang & Li, NeurIPS 2020.
    """

    needs = frozenset({"spiking_output"})

    def __init__(self, true_count: float = 4.0, false_count: float = 1.0):
        super().__init__()
        self.true_count, self.false_count = true_count, false_count

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Sum over classes, mean over the batch."""
        count = out.sum(0)
        right = functional.one_hot(y, count.shape[1]).bool()
        error = torch.where(
            right, (count - self.true_count).clamp(max=0), (count - self.false_count).clamp(min=0)
        )
        return error.square().sum(1).mean() / (2 * len(out))
