"""Learning rate schedules that torch does not have."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    r"""A cosine that falls from epoch to epoch, and a linear rise over the first steps.

    $$\eta_i = \eta_0 \min\left(1, \frac{i + 1}{w}\right) \frac{1 + \cos(\pi e / E)}{2}$$

    for step i, counted from 0, in epoch e of E.

    **Arguments:**

    - `optimizer`: the optimiser.
    - `total_steps`: steps of the run.
    - `epochs`: E.
    - `warmup`: w, steps until the rate is whole; 0 for a start with the whole rate.

    Loshchilov & Hutter, *SGDR*, ICLR 2017; warm-up: Goyal et al., *Accurate, large minibatch SGD*, 2017.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, epochs: int, warmup: int = 400):
        if warmup < 0:
            raise ValueError(f"scheduler.warmup must be a number of steps or 0, got {warmup}.")
        if epochs < 1:
            raise ValueError(f"scheduler.epochs must be at least 1, got {epochs}.")
        self.total_steps, self.epochs, self.warmup = total_steps, epochs, warmup
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the present step."""
        step = self.last_epoch
        epoch = min(step * self.epochs // self.total_steps, self.epochs)
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        factor = rise * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return [rate * factor for rate in self.base_lrs]


class InverseSqrt(LRScheduler):
    r"""The rate falls with the square root of time.

    $$\eta_n = \eta_0 / \sqrt{n + 1}$$

    **Arguments:**

    - `optimizer`: whose rates are set; n counts the calls of `step`.
    """

    def __init__(self, optimizer: Optimizer):
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of every group."""
        return [lr / (self.last_epoch + 1) ** 0.5 for lr in self.base_lrs]


class WarmupMultiStep(LRScheduler):
    r"""A rate that falls by a factor after some epochs, and a linear rise over the first steps.

    $$\eta_i = \eta_0 \min\left(1, \frac{i + 1}{w}\right) \gamma^{|\{m \in M : m \le e\}|}$$

    for step i, counted from 0, in epoch e, counted from 0, of E.

    **Arguments:**

    - `optimizer`: the optimiser.
    - `total_steps`: steps of the run.
    - `epochs`: E.
    - `milestones`: M, epochs after which the rate falls.
    - `gamma`: factor.
    - `warmup`: w, steps until the rate is whole; 0 for a start with the whole rate.

    Goyal et al., *Accurate, large minibatch SGD*, 2017.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        epochs: int,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup: int = 400,
    ):
        if warmup < 0:
            raise ValueError(f"scheduler.warmup must be a number of steps or 0, got {warmup}.")
        if epochs < 1:
            raise ValueError(f"scheduler.epochs must be at least 1, got {epochs}.")
        self.total_steps, self.epochs = total_steps, epochs
        self.milestones, self.gamma, self.warmup = list(milestones), gamma, warmup
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the present step."""
        step = self.last_epoch
        epoch = step * self.epochs // self.total_steps
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        factor = rise * self.gamma ** sum(m <= epoch for m in self.milestones)
        return [rate * factor for rate in self.base_lrs]
