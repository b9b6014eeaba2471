"""The output layer of ST-RSBP."""

import torch
from torch import Tensor

from snnrun.model.layers import Layer
from snnrun.rule.lateral import Inhibition
from snnrun.rule.spike_train import bounded, ratios
from snnrun.rule.train_layer import TrainLayer


class TrainHead(TrainLayer):
    r"""The output layer: its neurons inhibit each other, and a silent one of the right class is made to fire.

    $$\lambda_j = \frac{1}{1 - w_0^2 \sum_{l \ne j} r_{jl} r_{lj} D_l D_j}, \qquad r_{jl} = e_{l|j}/o_j$$

    $\lambda$ multiplies the gradient of the weights; D is $1/\theta$ of a neuron that fires or should, else 0. A label
    that never fires gets evenly spaced spikes before the layer learns, or it never would.

    **Arguments:** as `TrainLayer`.

    - `inhibition`: $w_0$.
    - `encouragement`: spikes that a silent neuron of the right class gets.
    """

    def __init__(
        self,
        layer: Layer,
        rows: int = 100,
        reference: bool = False,
        inhibition: float = 1.0,
        encouragement: float = 35,
    ):
        super().__init__(layer, rows, reference)
        weight = self.synapse.weight
        self.recurrent = Inhibition(len(weight), inhibition, weight.dtype)
        self.encouragement = encouragement
        self.right: Tensor | None = None  # (B, I), true at the labels of the running batch
        self.share: Tensor | None = None  # (B,), weights of its samples

    def gradients(
        self, x: Tensor, spikes: Tensor, delta: Tensor, below: bool
    ) -> tuple[Tensor, None, Tensor | None]:
        """As every layer's."""
        right = torch.zeros_like(delta, dtype=torch.bool) if self.right is None else self.right
        if self.share is not None:
            delta = delta * self.share[:, None].to(delta.dtype)
        factor = self.lateral_factor(spikes, right)
        spikes = self.encouraged(spikes, right)
        d = delta / self.neuron.threshold / self.denominator(x, spikes)
        grad, before = self.learn(x, spikes, d * factor, d, below)
        return grad, None, before

    def lateral_factor(self, spikes: Tensor, right: Tensor) -> Tensor:
        """Lambda, `(B, I)`."""
        assert isinstance(self.recurrent, Inhibition)
        count, between = spikes.sum(0), self.recurrent.ways()
        _, target, source = between
        effect = self.inner(spikes, between, torch.ones_like(count[:, 0], dtype=torch.bool))
        share = torch.zeros(*count.shape, count.shape[1], dtype=count.dtype, device=count.device)
        share[:, target, source] = ratios(effect, count[:, source], count[:, target])
        active = ((count > 0) | right) / self.neuron.threshold
        loop = torch.einsum("blj,bjl,bl->bj", share, share, active.to(share.dtype))
        return 1 / bounded(1 - self.recurrent.strength**2 * loop * active)

    def encouraged(self, spikes: Tensor, right: Tensor) -> Tensor:
        """Trains in which no label is silent."""
        silent = right & ~spikes.any(0)
        every = max(1, int(len(spikes) // self.encouragement))
        time = torch.arange(len(spikes), device=spikes.device)
        given = (time > 0) & (time % every == 0)
        return torch.where(silent, given[:, None, None].to(spikes.dtype), spikes)
