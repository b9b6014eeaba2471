"""Desire backpropagation: layers tell the layer below which neurons should fire more, and which less."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Dropout, Layer, Pool, layers, parts
from snnrun.neuron import DesireLIF
from snnrun.neuron.kernel import Fused
from snnrun.rule.base import Learning, Rule
from snnrun.rule.delay import Delay
from snnrun.rule.desire_engine import Arrays, Batch, Events
from snnrun.rule.precision import refuse_low_precision


class DesireBP(Rule):
    r"""Desire backpropagation: no gradient; a desire of more or fewer spikes is sent down, and spikes meet traces.

    $$\Delta W_{ij} = \eta\, d_i \sum_t s_i(t)\, \mathrm{tr}_j(t), \quad
      \mathrm{tr}_j(t) = \lambda\, \mathrm{tr}_j(t-1) + s_j(t), \quad
      r_j = \sum_i W_{ij} d_i \left| [d_i > 0] - n_i / K \right|, \quad d_j = \mathrm{sign}(r_j) [|r_j| \ge \theta_h]$$

    An output neuron has the desire 1 (its class) or -1 where its error, $1 - n/K$ or $n/K$, is above $\theta_o$. The
    gradient is $-\Delta W/\eta$, the mean over the batch: with a batch of one and plain SGD, the published algorithm.
    The loss is told, and not used. Layers after the first read spikes one step late. A network is trained without
    biases. Neurons that never fire learn nothing.

    **Arguments:**

    - `margin`: share of the steps in which a neuron that should fire may be silent; K is the number of the others.
    - `output_desire`, `hidden_desire`: $\theta_o$ and $\theta_h$.
    - `input_dropout`: share of input neurons dropped for a sample; hidden ones are the model's `dropout`.
    - `init`: `kaiming` (normal, deviation $\sqrt{2/\text{fan-in}}$), or `keep` the model's initial weights.
    - `batch`: `accumulate` takes all samples of a batch at the same weights; `sequential` changes weights after every
      sample, also inside a batch, as a batch of one does, but with one step of the optimiser (plain SGD) for all.

    Gerlinghoff, Luo, Goh & Wong, *Desire backpropagation: a lightweight training algorithm for multi-layer spiking
    neural networks based on spike-timing-dependent plasticity*, Neurocomputing 2023.
    """

    needs = frozenset({"dense", "input_spikes", "spiking_output", "unit_reset"})
    ignores = frozenset({"recompute", "surrogate"})
    wakes = wakes_output = "a lower neuron.threshold, or rule.init=kaiming"

    def __init__(
        self,
        margin: float = 0.2,
        output_desire: float = 0.3,
        hidden_desire: float = 0.05,
        input_dropout: float = 0.0,
        init: Literal["kaiming", "keep"] = "kaiming",
        batch: Literal["accumulate", "sequential"] = "accumulate",
    ):
        super().__init__()
        for name, share in (("margin", margin), ("input_dropout", input_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"rule.{name} must be at least 0 and below 1, got {share}.")
        if init not in ("kaiming", "keep"):
            raise ValueError(f"rule.init must be kaiming or keep, got {init!r}.")
        if batch not in ("accumulate", "sequential"):
            raise ValueError(f"rule.batch must be accumulate or sequential, got {batch!r}.")
        self.margin, self.input_dropout, self.init = margin, input_dropout, init
        self.output_desire, self.hidden_desire = output_desire, hidden_desire
        self.batch: Literal["accumulate", "sequential"] = batch
        self.trained: list[nn.Module] = []  # in a list, so that the network is no part of the rule
        self.estimate: list[Tensor] = []  # from loss to backward
        self.counted = torch.zeros(())  # how often a loss counts: see backward

    # --- the network

    def adapt(self, net: nn.Module) -> nn.Module:
        """Take away biases, draw weights, and let all layers but the first read one step late."""
        self.trained = [net]
        for place, (_, layer) in enumerate(layers(net)):
            if isinstance(layer.synapse, nn.Linear):
                layer.synapse.bias = None  # pyright: ignore[reportAttributeAccessIssue]
                if self.init == "kaiming":
                    nn.init.kaiming_normal_(layer.synapse.weight, nonlinearity="relu")
            if place and layer.norm is None:
                layer.norm = Delay()
        return net

    def validate(self, shape: tuple[int, ...], steps: int) -> None:
        """Raise `ValueError` for what cannot be trained."""
        self._target(steps)
        width = None
        for name, part in parts(self.trained[0]):
            if isinstance(part, Pool):
                raise ValueError(f"rule=desire_bp trains chains of Linear layers; {name} pools.")
            if isinstance(part, Dropout):
                continue
            assert isinstance(part, Layer)
            synapse, why = part.synapse, None
            if not isinstance(synapse, nn.Linear) or part.recurrent is not None:
                why = "is not a Linear one"
            elif not isinstance(part.norm, Delay | None):
                why = "is normalised: set norm=none"
            elif not isinstance(part.neuron, DesireLIF):
                why = "has no neuron=desire_lif"
            elif width not in (None, synapse.in_features):
                why = "does not read the layer before it alone"
            if why:
                raise ValueError(f"rule=desire_bp trains chains of Linear layers; {name} {why}.")
            width = synapse.out_features  # pyright: ignore[reportAttributeAccessIssue]

    def _target(self, steps: int) -> int:
        """The count of a neuron that fires as it should."""
        target = steps - round(self.margin * steps)
        if target < 1:
            raise ValueError(
                f"rule.margin={self.margin} leaves no step of {steps} to fire in."
                " Lower it, or raise dataset.steps."
            )
        return target

    def _chain(self, net: nn.Module) -> tuple[list[Layer], list[float]]:
        """The layers, and what share of their input is dropped."""
        found: list[Layer] = []
        drops = [self.input_dropout]
        for _, part in parts(net):
            if isinstance(part, Layer):
                found.append(part)
                drops.append(0.0)
            elif isinstance(part, Dropout):
                drops[-1] = 1 - (1 - drops[-1]) * (1 - part.p)
        return found, drops[:-1]

    # --- a batch

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        """Run the batch, keep the estimate for `backward`, and tell the criterion of the output."""
        with torch.no_grad():
            refuse_low_precision("desire_bp", x.device.type, next(learner.net.parameters()).dtype)
            if getattr(learner, "watching", False):
                learner(x)  # firing rates are counted in a pass of their own
            chain, drops = self._chain(learner.net)
            source = learner.encoder(x).flatten(2)
            kept = [self._draw(source[0], drops[0])]
            for layer, p in zip(chain, [*drops[1:], 0.0], strict=True):
                kept.append(self._draw(source.new_ones(len(y), layer.synapse.out_features), p))  # pyright: ignore
            batch = Batch(source, y, drops, kept)
            engine = self.engine(chain, source)
            weights = [layer.synapse.weight.detach() for layer in chain]  # pyright: ignore
            if self.batch == "accumulate":
                out, self.estimate = self._together(engine, weights, batch)
            else:
                out, self.estimate = self._in_turn(engine, weights, batch, plain_rate(learner))
            out = out.to(source.dtype)
        self.counted = torch.zeros((), dtype=out.dtype, device=out.device, requires_grad=True)
        return learner.score(out, y) + self.counted

    def backward(self, learner: Learning, loss: Tensor) -> None:
        """Hand over the estimate, scaled as the loss was scaled since: by accumulation, and by a gradient scaler."""
        (share,) = torch.autograd.grad(loss, self.counted)
        for (_, layer), found in zip(layers(learner.net), self.estimate, strict=True):
            weight = layer.synapse.weight
            found = found if share == 1 else found * share
            weight.grad = found if weight.grad is None else weight.grad + found  # pyright: ignore
        self.estimate = []
        learner.sync_gradients()

    @staticmethod
    def _draw(like: Tensor, p: float) -> Tensor:
        return torch.rand_like(like) >= p if p else torch.ones_like(like, dtype=torch.bool)

    def _together(
        self, engine: Arrays, weights: list[Tensor], batch: Batch
    ) -> tuple[Tensor, list[Tensor]]:
        """Output and gradient of a batch at the weights as they are."""
        found = [torch.zeros_like(weight) for weight in weights]
        return engine(weights, batch, found, -1 / len(batch.y))[-1].spikes, found

    def _in_turn(
        self, engine: Arrays, weights: list[Tensor], batch: Batch, rate: float
    ) -> tuple[Tensor, list[Tensor]]:
        """Output of a batch whose weights change after every sample, and the gradient that takes SGD there."""
        moved = [weight.clone() for weight in weights]
        out = [engine(moved, batch.sample(b), moved, rate)[-1].spikes for b in range(len(batch.y))]
        change = [(w - m).div_(rate or 1.0) for w, m in zip(weights, moved, strict=True)]
        return torch.cat(out, 1), change

    def engine(self, chain: Sequence[Layer], source: Tensor) -> Arrays:
        """What runs a batch, and adds `rate` times its weight changes to `into`."""
        compiled = source.device.type == "cpu" and isinstance(chain[0].neuron.kernel, Fused)
        kind = Events if compiled else Arrays
        return kind(chain, self._target(len(source)), self.output_desire, self.hidden_desire)


def plain_rate(learner: Any) -> float:
    """The rate of the optimiser's next step. Raises `ValueError` if it is not plain SGD."""
    optimizer = learner.optimizers()
    groups = optimizer.param_groups
    plain = isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.SGD)
    if not plain or any(group["momentum"] or group["weight_decay"] for group in groups):
        raise ValueError(
            "rule.batch=sequential needs plain SGD, whose step it foresees:"
            " optimizer=sgd optimizer.momentum=0 optimizer.weight_decay=0."
        )
    return groups[0]["lr"]
