"""Progressive tandem learning: a trained ANN becomes a spiking network layer by layer."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrun.rule.base import Learning
from snnrun.rule.tandem import Tandem, TandemLayer, tandem_layers

Event = Literal["better", "worse", "convert", "finish", "over"]


@dataclass
class Stages:
    """Where the conversion has come to: in stage k the layers 0..k spike; before, in stage -1, none.

    **Arguments:**

    - `layers`: number of layers with weights, the output's included.
    - `patience`: epochs in a row without a better score that end a stage.
    - `stage`, `waited`, `best`: k, the epochs waited, and the best score of the stage (None before its first).
    """

    layers: int
    patience: int
    stage: int = -1
    waited: int = 0
    best: float | None = None

    def advance(self, score: float, *, mode: Literal["max", "min"], trained: bool) -> Event:
        """What follows from an epoch's score; `trained` ends stage -1."""
        if self.stage == self.layers - 1:
            return "over"
        better = self.improves(score, mode)
        if better:
            self.best = score
        if self.stage < 0:
            return self._convert() if trained else "better" if better else "worse"
        self.waited = 0 if better else self.waited + 1
        if self.waited < self.patience:
            return "better" if better else "worse"
        if self.stage < self.layers - 2:
            return self._convert()
        self.stage, self.waited = self.stage + 1, 0
        return "finish"

    def improves(self, score: float, mode: Literal["max", "min"]) -> bool:
        """Whether a score is better than all of the stage."""
        return self.best is None or (score > self.best if mode == "max" else score < self.best)

    def _convert(self) -> Event:
        self.stage, self.waited, self.best = self.stage + 1, 0, None
        return "convert"


class ProgressiveTandem(Tandem):
    r"""Progressive tandem learning: train an ANN, then make its layers spike one after the other, front to back.

    A layer gets its threshold when it is converted, from one batch of training data:

    $$\theta_l = \frac{1}{T} \mathrm{percentile}_q(a_l), \qquad a_l = \mathrm{relu}(\mathrm{norm}(W_l c_{l-1} + b_l))$$

    Stage -1 trains the ANN in the same run. In stage k the layers 0..k are tandem layers, those behind are rate units
    that read spike counts. A stage ends after `patience` epochs without a better score: the weights go back to its best
    epoch and the next layer is converted. The first layer is trained once more as it spikes; every later one is frozen
    the moment it is converted, with all before it, and those behind adapt. When all hidden layers spike, the output is
    trained on at a smaller rate. The best epoch is chosen among those of the last stage of conversion and later: let
    `max_epochs` leave room for all. Each row says its stage, the stage's best score and the thresholds (of a layer that
    does not spike yet: what it would get).

    **Arguments:**

    - `pretrain_epochs`: length of stage -1.
    - `percentile`: q, in percent.
    - `patience`: epochs without a better score that end a stage.
    - `lr`: learning rate from the first conversion on.
    - `final_lr_factor`: factor on it when only the output is left.
    - `freeze_bn_stats`: let the running statistics of frozen layers rest; in the authors' code they drift on.
    - `monitor`, `mode`: the score, and whether more (`max`) or less (`min`) is better. Without validation data that of
      training takes its place, and no weights are gone back to.
    - `fold_eps`, `norm_scale`, `dropout_in_eval`: as in `Tandem`.

    Wu et al., *Progressive tandem learning for pattern recognition with deep spiking neural networks*, TPAMI 2021.
    """

    def __init__(
        self,
        pretrain_epochs: int = 10,
        percentile: float = 99.9,
        patience: int = 6,
        lr: float = 1e-3,
        final_lr_factor: float = 0.1,
        freeze_bn_stats: bool = True,
        monitor: str = "val/acc",
        mode: Literal["max", "min"] = "max",
        **common: Any,
    ):
        super().__init__(**common)
        for name, value in (("pretrain_epochs", pretrain_epochs), ("patience", patience)):
            if value < 1:
                raise ValueError(f"rule.{name} must be at least 1, got {value}.")
        if not 0 < percentile <= 100:
            raise ValueError(f"rule.percentile must be above 0 and at most 100, got {percentile}.")
        if mode not in ("max", "min"):
            raise ValueError(f"rule.mode must be max or min, got {mode!r}.")
        self.pretrain_epochs, self.percentile = pretrain_epochs, percentile
        self.lr, self.final_lr_factor = lr, final_lr_factor
        self.freeze_bn_stats, self.monitor = freeze_bn_stats, monitor
        self.mode: Literal["max", "min"] = mode
        self.stages = Stages(0, patience)

    def adapt(self, net: nn.Module) -> nn.Module:
        """Tandem layers, of which none spikes yet."""
        net = super().adapt(net)
        self.stages.layers = len(hidden(net)) + 1
        if self.stages.layers < 2:
            raise ValueError("Progressive tandem learning: there is no hidden layer to convert.")
        self._bring(net)
        return net

    def epoch_end(self, learner: Learning, metrics: dict[str, float]) -> None:
        """Advance the stages: perhaps go back to the best epoch, convert a layer and freeze, or leave the output."""
        net, stages = learner.net, self.stages
        found = self._thresholds(learner)
        score = metrics.get(self.monitor, metrics.get(self.monitor.replace("val/", "train/"), 0.0))
        trained = metrics["epoch"] + 1 >= self.pretrain_epochs
        metrics["rule/stage"] = stages.stage  # in which the epoch was trained
        better = stages.stage < stages.layers - 1 and stages.improves(score, self.mode)
        metrics["rule/best"] = score if better or stages.best is None else stages.best
        metrics |= {f"rule/threshold/{name}": value for name, value in found.items()}
        event = stages.advance(score, mode=self.mode, trained=trained)
        if event == "convert":
            learner.load_best(restart=True)
            name, layer = list(hidden(net).items())[stages.stage]
            layer.threshold.fill_(found[name])
        elif event == "finish":
            learner.load_best()
        if event in ("convert", "finish"):
            self._bring(net)
            lr = self.lr * (self.final_lr_factor if event == "finish" else 1)
            learner.reset_optimizer(self.param_groups(net), lr)

    def prepare_load(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Convert and freeze as it was when the checkpoint was saved."""
        for name, value in state["snnrun"].get("rule", {}).items():
            setattr(self.stages, name, value)
        self._bring(net)

    def param_groups(self, net: nn.Module) -> list[nn.Parameter]:
        """What is not frozen."""
        return [p for p in net.parameters() if p.requires_grad]

    @property
    def progress(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The stage, the epochs waited in it and its best score."""
        known = asdict(self.stages)
        return {name: known[name] for name in ("stage", "waited", "best")}

    def _bring(self, net: nn.Module) -> None:
        """Let the layers of the present stage spike, and freeze those that are done."""
        stage, last = self.stages.stage, self.stages.layers - 2
        index = 0  # of the next hidden layer; behind the last, what belongs to the output
        for layer in tandem_layers(net).values():
            layer.run_as(spiking=index <= stage or stage >= last)
            layer.thaw()
            if 0 < stage >= index <= last:
                layer.freeze(statistics=self.freeze_bn_stats)
            index += layer.fires
        net.train(net.training)

    @torch.no_grad()
    def _thresholds(self, learner: Learning) -> dict[str, float]:
        """The thresholds of the layers that spike, and those that the others would get."""
        found: dict[str, float] = {}
        x, _ = learner.training_batch()
        training = learner.net.training
        learner.net.eval()
        encoded = learner.encoder(x)
        hooks = []
        for name, layer in hidden(learner.net).items():
            found[name] = float(layer.threshold)
            if not layer.spiking:
                record = partial(self._record, found, name, len(encoded))
                hooks.append(layer.neuron.register_forward_hook(record))
        try:
            learner.net(encoded)
        finally:
            for hook in hooks:
                hook.remove()
            learner.net.train(training)
        return found

    def _record(
        self, found: dict[str, float], name: str, steps: int, unit: nn.Module, x: Any, a: Tensor
    ) -> None:
        found[name] = percentile(a, self.percentile) / steps or 1.0  # 0: a layer that is silent


def hidden(net: nn.Module) -> dict[str, TandemLayer]:
    """The layers that can spike, by name."""
    return {name: layer for name, layer in tandem_layers(net).items() if layer.fires}


def percentile(x: Tensor, q: float) -> float:
    """The q-th percentile, linear between order statistics; sorts only what lies above it."""
    flat = x.flatten()
    place = q / 100 * (flat.numel() - 1)
    low = math.floor(place)
    above = flat.topk(flat.numel() - low).values.double()
    lower, upper = above[-1], above[max(0, len(above) - 2)]
    return float(lower + (upper - lower) * (place - low))
