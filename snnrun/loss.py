"""What is minimised: losses of an output sequence `(T, B, C)` and labels `(B,)`."""

from collections.abc import Callable
from typing import Literal

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


class TraceCount(SpikeCount):
    r"""`SpikeCount` of output traces, summed over the batch: the count loss of TSSL-BP.

    $$L = \frac{1}{2T} \sum_{b,c} e_{b,c}^2, \qquad e_{b,c} = \sum_t a_{t,b,c} - n_{b,c}$$

    **Arguments:** as `SpikeCount`.

    Zhang & Li, *Temporal Spike Sequence Learning via Backpropagation for Deep Spiking Neural Networks*, NeurIPS 2020.
    """

    needs = frozenset({"trace_output"})
    sums = True

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Sum over classes and batch."""
        return super().forward(out, y, readout=readout) * len(y)


class CountMargin(nn.Module):
    r"""Squared distance of the number of output spikes from a target count, where it is more than a margin.

    $$L = \frac{1}{2} \sum_c e_c^2\, [|e_c| > m], \qquad e_c = \sum_t o_{t,c} - n_c$$

    **Arguments:**

    - `true_count`: spikes wanted of the right class over the whole sequence.
    - `false_count`: spikes wanted of every other class.
    - `margin`: m, how far off a count may be.

    Zhang & Li, *Spike-train level backpropagation for training deep recurrent spiking neural networks*, NeurIPS 2019;
    the authors report twice this sum.
    """

    needs = frozenset({"spiking_output"})

    def __init__(self, true_count: float = 35.0, false_count: float = 5.0, margin: float = 5.0):
        super().__init__()
        self.true_count, self.false_count, self.margin = true_count, false_count, margin

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Sum over classes, mean over the batch. The readout is not used."""
        count = out.sum(0)
        right = functional.one_hot(y, count.shape[1]).bool()
        error = count - torch.where(right, self.true_count, self.false_count)
        return (error * (error.abs() > self.margin)).square().sum(1).mean() / 2


class Kernel(nn.Module):
    r"""Squared distance of the output traces from those of a desired spike train, summed over time, classes and batch.

    $$L = \frac{1}{2} \sum_{t,b,c} (a_{t,b,c} - y_{t,b,c})^2$$

    The right class should fire at all steps but the first of five (T = 5), or at every second step (T = 10, 20, ...);
    the others never. A network whose output never fires may stay so: it is a minimum of this loss.

    **Arguments:**

    - `tau_s`: time constant of the traces.
    - `target_filters`: how often the desired train is filtered; the paper's code does so twice.

    Zhang & Li, NeurIPS 2020, sec. 3.1.
    """

    needs = frozenset({"trace_output"})
    sums = True

    def __init__(self, tau_s: float = 3.0, target_filters: Literal[1, 2] = 2):
        super().__init__()
        if target_filters not in (1, 2):
            raise ValueError(f"loss.target_filters must be 1 or 2, got {target_filters}.")
        self.tau_s, self.target_filters = tau_s, target_filters

    def validate(self, shape: tuple[int, ...], steps: int) -> None:
        """Raise `ValueError` for a number of steps that the desired train does not fill."""
        if steps != 5 and (steps < 10 or steps % 10):
            raise ValueError(
                f"loss=kernel needs T to be 5 or a multiple of 10, the lengths of its desired spike train; got {steps}."
                " Set dataset.steps=5 or dataset.steps=10, or choose another loss."
            )

    def target(self, steps: int) -> Tensor:
        """The desired trace of the right class, `(T,)`, in float64."""
        self.validate((), steps)
        train = [0.0, 1.0] * (steps // 2) if steps >= 10 else [0.0, 1.0, 1.0, 1.0, 1.0]
        for _ in range(self.target_filters):
            a, filtered = 0.0, []
            for x in train:
                a += (x - a) / self.tau_s
                filtered.append(a)
            train = filtered
        return torch.tensor(train, dtype=torch.float64, device="cpu")

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Sum over time, classes and batch. The readout is not used."""
        right = functional.one_hot(y, out.shape[2]).to(out.dtype)
        target = self.target(len(out)).to(out.device, out.dtype).view(-1, 1, 1) * right
        return (out - target).square().sum() / 2


class Softmax(nn.Module):
    r"""Cross entropy of the output summed over time, whatever the readout.

    $$L = -\log \mathrm{softmax}(z)_y, \qquad z = \sum_t o_t$$

    Zhang & Li, NeurIPS 2020.
    """

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Mean over the batch."""
        return functional.cross_entropy(out.sum(0), y)


class FirstSpike(nn.Module):
    r"""Cross entropy of spike times: the right class should fire first.

    $$L = -\ln \frac{e^{-t_y}}{\sum_i e^{-t_i}}$$

    The readout is not used. An output that is silent counts as a spike at `t_max`, which passes no gradient.

    **Arguments:**

    - `t_max`: the time that stands for silence.

    Zhang et al., *Rectified linear postsynaptic potential function*, TNNLS 2022.
    """

    traits = frozenset({"loss_of_times"})
    needs = frozenset({"time_output"})

    def __init__(self, t_max: float = 10.0):
        super().__init__()
        self.t_max = t_max

    def forward(self, out: Tensor, y: Tensor, *, readout: ReadoutFunction) -> Tensor:
        """Mean over the batch."""
        times = torch.where(out[0].isfinite(), out[0], self.t_max)
        return functional.cross_entropy(-times, y)
