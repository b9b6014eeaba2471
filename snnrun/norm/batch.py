"""Batch normalisation of sequences."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.neuron.base import recall, remember


class BatchNorm(nn.Module):
    r"""Batch normalisation with statistics over time, batch and space.

    $$y = w \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b, \qquad \mu, \sigma^2 \text{ over } T, B \text{ and space}$$

    An input that is the same at every step (stride 0 over time) is normalised once, unless a step has one value a
    channel only, of which no variance can be taken.

    **Arguments:**

    - `channels`: number of channels; the model passes it.
    - `eps`: added to the variance.
    - `momentum`: weight of the newest batch in the running statistics.
    - `per_step`: take the statistics of every step by itself, and move the running ones at every step; weight, bias and
      running statistics are the same for all steps.

    Ioffe & Szegedy 2015, over time as in Zheng et al., *Going deeper with directly-trained larger SNNs*, AAAI 2021.
    """

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.1, per_step: bool = False
    ):
        super().__init__()
        self.eps, self.momentum, self.per_step = eps, momentum, per_step
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, ...)` to the same shape."""
        once = x.stride(0) == 0 and len(x) > 1 and x[0].numel() > x.shape[2]
        if once:  # per step, the running statistics move as far as in T steps of the same batch
            moved = 1 - (1 - self.momentum) ** len(x) if self.per_step else self.momentum
            kept = (1 - moved) * self.running_var
            y = self._normalise(x[0], moved).expand(x.shape)
            if self.training and not self.per_step:  # the variance of so many more values
                n, var = (
                    x[0].numel() / x.shape[2],
                    self.running_var.data,
                )  # no backward pass reads it
                var.sub_(kept).mul_(len(x) * (n - 1) / (len(x) * n - 1)).add_(kept)
            return y
        if self.per_step and self.training:
            return torch.stack([self._normalise(x_t, self.momentum) for x_t in x.unbind(0)])
        return self._normalise(x.flatten(0, 1), self.momentum).view(x.shape)

    def _normalise(self, x: Tensor, momentum: float) -> Tensor:
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            momentum,
            self.eps,
        )


class BNTT(nn.Module):
    r"""Batch normalisation through time: statistics and gain of its own for every step.

    $$y_t = \gamma_t \frac{x_t - \mu_t}{\sqrt{\sigma_t^2 + \epsilon}}, \qquad
      \mu_t, \sigma_t^2 \text{ over } B \text{ and space}$$

    **Arguments:**

    - `channels`: number of channels; the model passes it.
    - `steps`: number of time steps T; longer input is refused.
    - `eps`: added to the variance.
    - `momentum`: weight of the newest batch in the running statistics.

    Kim & Panda, *Revisiting batch normalization for training low-latency deep SNNs from scratch*, 2021, eq. 4.
    """

    def __init__(self, channels: int, steps: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(steps, channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(steps, channels))
        self.register_buffer("running_var", torch.ones(steps, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, ...)` to the same shape. Raises `ValueError` if the input is longer than `steps`."""
        carried = recall(self)
        start = 0 if carried is None else int(carried[0])
        if start + len(x) > len(self.weight):
            raise ValueError(
                f"norm=bntt was built for {len(self.weight)} steps, got step {start + len(x)}."
            )
        remember(self, (torch.tensor(start + len(x)),))
        steps = []
        for t, x_t in enumerate(x.unbind(0), start):
            mean, var = self.running_mean[t], self.running_var[t]
            steps.append(
                functional.batch_norm(
                    x_t, mean, var, self.weight[t], None, self.training, self.momentum, self.eps
                )
            )
        return torch.stack(steps)
