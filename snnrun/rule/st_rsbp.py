"""Spike-train level backpropagation (ST-RSBP): gradients of spike counts, also through layers that feed themselves."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Dropout, Layer, Pool, layers, parts
from snnrun.neuron import RefractoryLIF
from snnrun.rule.base import Learning, Rule
from snnrun.rule.boosting import Boosting
from snnrun.rule.lateral import Reservoir
from snnrun.rule.precision import refuse_low_precision
from snnrun.rule.reservoir import compact, near
from snnrun.rule.train_head import TrainHead
from snnrun.rule.train_image import TrainConv, TrainPool
from snnrun.rule.train_layer import TrainLayer


class STRSBP(Rule):
    r"""ST-RSBP: what a spike train does to another neuron stands for its spikes, and errors are those of spike counts.

    $$\frac{\partial L}{\partial w_{ij}} = \frac{\delta_i}{\theta}\frac{e_{i|j}}{B_i}, \qquad
      B_i = 1 - \frac{1}{\theta} \sum_j w_{ij} \frac{\partial e_{i|j}}{\partial o_i}, \qquad
      \delta^{pre} = \frac{1}{\theta} \delta^\top \Omega^{-1} \Phi$$

    The effect $e_{i|j}$ is the potential that a synapse of weight 1 would have had at the spikes of i, added up;
    nothing is unrolled in time. $\Phi = w\, e_{i|j}/o_j$; $\Omega$ is B on the diagonal and, in layers that feed
    themselves, $-w^{lat} e^{lat}/(\theta o)$ elsewhere. Spikes arrive one step late. Layers are trained without biases;
    recurrent ones keep few of their connections, on a grid; output neurons inhibit each other; pools fire.

    $$\frac{\partial R}{\partial w_{ij}} = \lambda \beta \frac{w_{ij}}{w_{max}} e^{\beta (S_i/n - 1)}, \qquad
      S_i = \sum_j (w_{ij}/w_{max})^2$$

    may be added to every gradient; n is the fan-in, of dense layers plus 1 (and all recurrent connections).

    **Arguments:**

    - `thresholds`: of all layers and pools, in order; null for the neuron's everywhere.
    - `grid`: sides of the grid that the neurons of recurrent layers lie on; null for the most compact one.
    - `inhibition`: $w_0$, between output neurons.
    - `encouragement`: spikes that a silent output neuron of the right class is given before it learns.
    - `table_rows`: largest count in the table from which $\partial e/\partial o$ is taken.
    - `penalty`, `penalty_slope`, `weight_limit`: $\lambda$, $\beta$ and $w_{max}$ of R.
    - `boosting`: how much misclassified samples gain in weight after each epoch; 0 for none.
    - `init`: `uniform` between -1 and 1, or `keep` the model's initial weights.
    - `quirks`: `reference` for what the authors' code computes instead: $\Phi \Omega^{-1}$ in recurrent layers,
      connections of neurons to themselves that never change, side effects of convolutions truncated to integers.

    Zhang & Li, *Spike-train level backpropagation for training deep recurrent spiking neural networks*, NeurIPS 2019.
    """

    needs = frozenset({"chain", "input_spikes", "refractory", "spiking_output"})
    ignores = frozenset({"surrogate"})
    wakes = "lower rule.thresholds (where they are null, neuron.threshold), or more dataset.steps"
    wakes_output = None  # a label that never fires is given spikes to learn from

    def __init__(
        self,
        thresholds: list[float] | None = None,
        grid: list[int] | None = None,
        inhibition: float = 1.0,
        encouragement: float = 35.0,
        table_rows: int = 100,
        penalty: float = 0.0,
        penalty_slope: float = 0.04,
        weight_limit: float = 8.0,
        boosting: float = 0.05,
        init: Literal["uniform", "keep"] = "uniform",
        quirks: Literal["clean", "reference"] = "clean",
    ):
        super().__init__()
        if grid is not None and (len(grid) != 3 or min(grid) < 1):
            raise ValueError(f"rule.grid must be three numbers above 0, or null; got {grid}.")
        if thresholds is not None and not all(threshold > 0 for threshold in thresholds):
            raise ValueError(f"rule.thresholds must be above 0, got {list(thresholds)}.")
        for name, value in (("encouragement", encouragement), ("weight_limit", weight_limit)):
            if value <= 0:
                raise ValueError(f"rule.{name} must be above 0, got {value}.")
        if table_rows < 1:
            raise ValueError(f"rule.table_rows must be at least 1, got {table_rows}.")
        if init not in ("uniform", "keep"):
            raise ValueError(f"rule.init must be uniform or keep, got {init!r}.")
        if quirks not in ("clean", "reference"):
            raise ValueError(f"rule.quirks must be clean or reference, got {quirks!r}.")
        self.thresholds, self.grid, self.inhibition = thresholds, grid, inhibition
        self.encouragement, self.table_rows = encouragement, table_rows
        self.penalty, self.penalty_slope, self.weight_limit = penalty, penalty_slope, weight_limit
        self.init, self.reference = init, quirks == "reference"
        self.boosting = Boosting(boosting)

    # --- the network

    def adapt(self, net: nn.Module) -> nn.Module:
        """Put a layer that differentiates trains in the place of every layer and pool. Raises `ValueError`."""
        found = list(parts(net))
        last = [part for _, part in found if isinstance(part, Layer)][-1]
        neuron = last.neuron
        for place, (name, part) in enumerate(found):
            if isinstance(part, Pool):
                self._check_pool(name, part)
                assert part.size is not None
                new = TrainPool(part.size, copy.deepcopy(neuron))  # pyright: ignore[reportArgumentType]
                new.neuron.tolerance = 0.0
            else:
                self._check(name, part)
                new = self._layer(part, first=place == 0, last=part is last)  # pyright: ignore[reportArgumentType]
            net.set_submodule(name, new)
        self._set_thresholds(net)
        return net

    def _layer(self, layer: Layer, *, first: bool, last: bool) -> Layer:
        synapse: Any = layer.synapse
        synapse.bias = None
        how = {"rows": self.table_rows, "reference": self.reference}
        if layer.recurrent is not None:
            connected = self._connections(synapse.out_features)
            with torch.device(synapse.weight.device):
                layer.recurrent = Reservoir(connected.to(synapse.weight.device))
        if self.init == "uniform":
            nn.init.uniform_(synapse.weight, -1, 1)
            if isinstance(layer.recurrent, Reservoir):
                nn.init.uniform_(layer.recurrent.weight, -1, 1)
                layer.recurrent.weight.data.mul_(layer.recurrent.connected)
        if isinstance(synapse, nn.Conv2d):
            layer.neuron.tolerance = 0.0  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            return TrainConv(layer, **how, first=first)
        if last:
            return TrainHead(
                layer, **how, inhibition=self.inhibition, encouragement=self.encouragement
            )
        return TrainLayer(layer, **how)

    def _connections(self, neurons: int) -> Tensor:
        grid: Sequence[int] = self.grid or compact(neurons)
        if math.prod(grid) != neurons:
            sides = "x".join(map(str, grid))
            raise ValueError(f"rule.grid={sides} has no place for the {neurons} recurrent neurons.")
        return near(grid)

    def _check(self, name: str, part: nn.Module) -> None:
        why = None
        if isinstance(part, Dropout):
            why = "drops spikes: set model.dropout=0"
        elif not isinstance(part, Layer) or not isinstance(part.synapse, nn.Linear | nn.Conv2d):
            why = "is neither dense nor a convolution"
        elif part.norm is not None:
            why = "is normalised: set norm=none"
        elif not isinstance(part.neuron, RefractoryLIF):
            why = "has no neuron=refractory_lif"
        elif isinstance(part.synapse, nn.Conv2d) and part.neuron.tau_s >= part.neuron.tau_m:
            why = "is a convolution, whose neurons need tau_s below tau_m"
        if why:
            raise ValueError(f"rule=st_rsbp trains chains of spiking layers; {name} {why}.")

    def _check_pool(self, name: str, pool: Pool) -> None:
        if pool.size is None or pool.stride not in (None, pool.size) or pool.padding:
            raise ValueError(
                f"rule=st_rsbp pools over windows that lie side by side; {name} does otherwise."
            )

    def _set_thresholds(self, net: nn.Module) -> None:
        found = [layer.neuron for _, layer in layers(net)]
        values = self.thresholds or [neuron.threshold for neuron in found]
        if len(values) != len(found):
            raise ValueError(
                f"rule.thresholds has {len(values)} numbers; there are {len(found)} layers and pools."
            )
        for neuron, value in zip(found, values, strict=True):
            neuron.threshold = float(value)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]

    # --- a batch

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        """The criterion, and the penalty on weights, of which only the gradient counts."""
        refuse_low_precision("st_rsbp", x.device.type, next(learner.net.parameters()).dtype)
        weight = self.boosting.of(learner, y)
        for head in learner.net.modules():
            if isinstance(head, TrainHead):
                head.share = weight
                head.right = nn.functional.one_hot(y, head.synapse.out_features).bool()
        out = learner(x)
        loss = learner.score(out, y)
        with torch.no_grad():
            self.boosting.note(learner, learner.readout(out), y)
        return loss + self.pull(learner.net).to(loss.dtype)

    def pull(self, net: nn.Module) -> Tensor:
        """Nothing, with the gradient of R."""
        found = torch.zeros((), device=next(net.parameters()).device)
        if not self.penalty or not self.penalty_slope:
            return found
        limit, slope = self.weight_limit, self.penalty_slope
        for _, layer in layers(net):
            weight = getattr(layer.synapse, "weight", None)
            if weight is None:
                continue
            sums, n = squares(weight), weight[0].numel() + isinstance(layer.synapse, nn.Linear)
            inner = None
            if isinstance(layer.recurrent, Reservoir):
                inner = layer.recurrent.weight
                sums = sums + squares(inner)
                n += len(layer.recurrent.ways().target)
            grown = torch.exp(slope * (sums / (limit**2 * n) - 1))
            pull = self.penalty * slope / limit * grown
            found = found + _Pull.apply(weight, pull, False)
            if inner is not None:
                found = found + _Pull.apply(inner, pull, self.reference)
        return found

    # --- an epoch

    def epoch_end(self, learner: Learning, metrics: dict[str, float]) -> None:
        """Give samples that were wrong more weight."""
        self.boosting.advance()

    @property
    def progress(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The weights of the samples."""
        return self.boosting.state()

    def prepare_load(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Take up the weights of the samples."""
        self.boosting.load(state["snnrun"].get("rule", {}))


def squares(weight: Tensor) -> Tensor:
    """The sum of squares of the weights of every output."""
    return torch.linalg.vector_norm(weight.detach().flatten(1), dim=1).square()


class _Pull(torch.autograd.Function):
    """0, whose gradient is `pull` times the weights of each output, perhaps without those of neurons to themselves."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pull: Tensor, others: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(weight, pull)
        ctx.others = others
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, pull = ctx.saved_tensors
        found = weight * (grad * pull).view(-1, *[1] * (weight.dim() - 1))
        return found.fill_diagonal_(0) if ctx.others else found, None, None
