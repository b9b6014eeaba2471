"""The stages of progressive tandem learning: thresholds, freezing, selection, and runs that are stopped in between."""

import copy
import csv
import itertools
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.check import composed, without_hydra
from snnrun.config import Choices, group_defaults
from snnrun.encoder import ZeroExpand
from snnrun.model import MLP, SEWResNet, SpikingResNet
from snnrun.neuron import IF
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.rule import ProgressiveTandem
from snnrun.rule.progressive_tandem import Stages, hidden, percentile
from snnrun.rule.tandem import tandem_layers
from snnrun.surrogate import ATan

CHOICES = Choices()


def neuron(channels: int) -> IF:
    return IF(ATan(), reset="soft")


def mlp(spec: str = "9-8-7") -> nn.Module:
    torch.manual_seed(0)
    return MLP(neuron, BatchNorm, Readout().head, (5,), 3, spec=spec)


class Learner:
    """Notes what is asked for."""

    def __init__(self, net: nn.Module, x: Tensor, steps: int = 8):
        self.net, self.encoder, self.x = net, ZeroExpand(steps), x
        self.asked: list[Any] = []

    def training_batch(self) -> tuple[Tensor, Tensor]:
        return self.x, torch.zeros(len(self.x))

    def load_best(self, *, restart: bool = False) -> None:
        self.asked.append(("best", restart))

    def reset_optimizer(self, params: list[nn.Parameter], lr: float) -> None:
        self.asked.append((len(params), lr))


# --- bookkeeping


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_stage_ends_after_patience_epochs_without_a_better_score(mode):
    sign = 1 if mode == "max" else -1
    stages = Stages(layers=3, patience=2)
    scores = [5, 5, 1, 2, 2, 1, 1, 1, 1, 9]
    ends = [0, 1]  # stage -1
    events = [
        stages.advance(sign * score, mode=mode, trained=epoch in ends[1:])
        for epoch, score in enumerate(scores)
    ]
    assert events == [
        *("better", "convert"),  # the ANN
        *("better", "better", "worse", "convert"),
        *("better", "worse", "finish"),
        "over",
    ]
    assert (stages.stage, stages.best) == (2, sign)


def test_one_hidden_layer():
    stages = Stages(layers=2, patience=1)
    events = [stages.advance(s, mode="max", trained=True) for s in (1, 1, 1, 1)]
    assert events == ["convert", "better", "finish", "over"] and stages.stage == 1


@pytest.mark.parametrize("q", [0.5, 50, 99.9, 100])
@pytest.mark.parametrize("n", [1, 2, 1000, 1001])
def test_percentile_is_numpys(n, q):
    x = np.random.default_rng(n).normal(size=n)
    assert percentile(torch.from_numpy(x), q) == pytest.approx(np.percentile(x, q), rel=1e-12)


# --- a network in its stages


def advanced(rule: ProgressiveTandem, learner: Any, epochs: int) -> list[dict[str, float]]:
    """Rows of epochs after the ANN's, none of them better than the first of its stage."""
    rows: list[dict[str, float]] = []
    for epoch in range(epochs):
        rows.append({"epoch": epoch, "val/acc": 50.0})
        rule.epoch_end(learner, rows[-1])
    return rows


def test_thresholds_and_what_is_frozen():
    rule = ProgressiveTandem(pretrain_epochs=1, patience=1, percentile=90.0, lr=0.5)
    net = rule.adapt(mlp())
    x = torch.rand(64, 5)
    learner: Any = Learner(net, x)
    net.train()
    net(learner.encoder(x))
    assert not any(layer.spiking for layer in tandem_layers(net).values())
    for stage, (name, layer) in enumerate(hidden(net).items()):
        with torch.no_grad():  # what the layer reads now, in evaluation
            given: list[Tensor] = []
            keep = given.append
            hook = layer.register_forward_pre_hook(lambda m, args, keep=keep: keep(args[0]))
            net.eval()(learner.encoder(x))
            hook.remove()
            a = layer.rate(given[0].sum(0))
            net.train()
        rows = advanced(rule, learner, 1 if stage == 0 else 2)
        assert rule.progress == {"stage": stage, "waited": 0, "best": None}
        expected = np.percentile(a.numpy().astype(float), 90) / 8
        assert float(layer.threshold) == pytest.approx(expected, rel=1e-6)
        assert rows[-1][f"rule/threshold/{name}"] == pytest.approx(expected, rel=1e-6)
        assert rows[-1]["rule/stage"] == stage - 1
        spiking = [one.spiking for one in hidden(net).values()]
        assert spiking == [k <= stage for k in range(3)]
        frozen = [
            not any(p.requires_grad for p in one.parameters()) for one in hidden(net).values()
        ]
        assert frozen == [0 < stage >= k for k in range(3)]
        assert [one.training for one in hidden(net).values()] == [not f for f in frozen]
        assert learner.asked[-2:] == [("best", True), (14 - 4 * sum(frozen), 0.5)]
    rows = advanced(rule, learner, 3)
    assert rule.progress["stage"] == 3 and rule.progress["best"] == 50.0
    assert learner.asked[-2:] == [("best", False), (2, 0.05)]
    assert rows[-1]["rule/best"] == 50.0


def test_a_layer_that_is_silent_keeps_its_threshold():
    rule = ProgressiveTandem(pretrain_epochs=1)
    net = rule.adapt(mlp())
    first, *_ = hidden(net).values()
    with torch.no_grad():
        first.norm.bias.fill_(-99)
    advanced(rule, Learner(net, torch.rand(9, 5)), 1)
    assert float(first.threshold) == 1


@pytest.mark.parametrize("rest", [True, False])
def test_statistics_of_frozen_layers(rest):
    rule = ProgressiveTandem(pretrain_epochs=1, patience=1, freeze_bn_stats=rest)
    net = rule.adapt(mlp())
    learner: Any = Learner(net, torch.rand(64, 5))
    advanced(rule, learner, 1)
    advanced(rule, learner, 2)
    assert rule.progress["stage"] == 1
    net.eval().train()
    before = [layer.norm.running_mean.clone() for layer in hidden(net).values()]
    net(learner.encoder(torch.rand(64, 5))).sum().backward()
    moved = [
        not torch.equal(layer.norm.running_mean, old)
        for layer, old in zip(hidden(net).values(), before, strict=True)
    ]
    assert moved == [not rest, not rest, True]
    assert [layer.synapse.weight.grad is None for layer in hidden(net).values()] == [
        *(True, True, False),
    ]


@pytest.mark.parametrize("made", [SEWResNet, SpikingResNet])
def test_in_a_residual_network_spikes_and_rates_add_up(made):
    """In a hybrid network the sum over time behind a shortcut is that of counts and rates."""
    torch.manual_seed(0)
    rule = ProgressiveTandem(pretrain_epochs=1, patience=1)
    net = rule.adapt(made(neuron, BatchNorm, Readout().head, (1, 6, 6), 3, depth=20))
    learner: Any = Learner(net, torch.rand(32, 1, 6, 6), steps=4)
    advanced(rule, learner, 1)
    x = learner.encoder(torch.rand(2, 1, 6, 6))
    out = net(x)
    assert out.shape == (4, 2, 3)
    total, parts = [], []
    block = next(m for m in net.modules() if hasattr(m, "shortcut"))
    block.register_forward_hook(lambda m, args, out: total.append(out.sum(0)))
    block.path.register_forward_hook(lambda m, args, out: parts.append(out.sum(0)))
    block.register_forward_pre_hook(lambda m, args: parts.append(args[0].sum(0)))
    net(x)
    if made is SEWResNet:
        torch.testing.assert_close(total[0], parts[0] + parts[1])
    spiking = [layer.spiking for layer in hidden(net).values()]
    assert spiking == [True] + [False] * (len(spiking) - 1)


def test_forth_and_back_by_checkpoints():
    rule = ProgressiveTandem(pretrain_epochs=1, patience=1)
    net = rule.adapt(mlp())
    learner: Any = Learner(net, torch.rand(64, 5))
    saved = []
    for _ in range(7):
        rule.epoch_end(learner, {"epoch": 0, "val/acc": 1.0})
        state = {"state_dict": copy.deepcopy(net.state_dict())}
        saved.append(({**state, "snnrun": {"rule": dict(rule.progress)}}, frozen_of(net)))
    assert {content["snnrun"]["rule"]["stage"] for content, _ in saved} == {0, 1, 2, 3}
    other = ProgressiveTandem(pretrain_epochs=1, patience=1)
    fresh = other.adapt(mlp())
    for content, frozen in [*saved, *reversed(saved)]:
        other.prepare_load(fresh, content)
        fresh.load_state_dict(content["state_dict"])
        assert other.progress == content["snnrun"]["rule"] and frozen_of(fresh) == frozen
    assert len(other.param_groups(fresh)) == 14


def frozen_of(net: nn.Module) -> list[tuple[bool, bool, bool]]:
    return [
        (layer.spiking, layer.training, layer.synapse.weight.requires_grad)
        for layer in tandem_layers(net).values()
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrain_epochs": 0}, "rule.pretrain_epochs must be at least 1, got 0."),
        ({"patience": 0}, "rule.patience must be at least 1, got 0."),
        ({"percentile": 0.0}, "rule.percentile must be above 0 and at most 100, got 0.0."),
        ({"mode": "most"}, "rule.mode must be max or min, got 'most'."),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        ProgressiveTandem(**options)
    assert str(error.value) == message


def test_nothing_to_convert():
    with pytest.raises(ValueError, match="there is no hidden layer to convert"):
        ProgressiveTandem().adapt(mlp(""))


# --- whole runs

RUN = (
    *("rule=progressive_tandem", "rule.pretrain_epochs=2", "rule.patience=1", "model.spec=8-8"),
    *("dataset.steps=4", "dataset.batch_size=100", "keep_memory=false", "trainer.accelerator=cpu"),
    *("trainer.deterministic=false", "task.monitor=val/acc", "task.mode=max"),
)


def trained(folder: Path, *words: str, resume: bool = False) -> dict[str, Any]:
    from snnrun.run import Run, quiet, train

    quiet()
    cfg = composed(CHOICES, [*RUN, *words])
    plain = without_hydra(cfg).copy()
    plain.logger.csv.save_dir = str(folder)
    folder.mkdir(exist_ok=True)
    return train(Run(plain, folder, group_defaults(cfg), []), bar=False, resume=resume)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        found = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    for row in found:
        del row["seconds"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, trained(folder, "trainer.max_epochs=16")


def test_a_run_goes_through_all_stages_and_chooses_among_the_last(whole):
    folder, outcome = whole
    table = rows(folder)
    assert [stage for stage, _ in itertools.groupby(r["rule/stage"] for r in table)] == [
        -1,
        0,
        1,
        2,
    ]
    assert [row["lr"] for row in table] == [
        1e-4 if row["rule/stage"] == 2 else 1e-3 for row in table
    ]
    eligible = [row for row in table if row["rule/stage"] >= 1]
    best = max(eligible, key=lambda row: row["val/acc"])
    assert outcome["selection"]["best_val"]["epoch"] == best["epoch"] + 1
    assert outcome["metrics"]["rule/stage"] == best["rule/stage"] >= 1
    assert set(outcome["spikes"]["layers"]) == {"body.0", "body.1"}
    assert 0 <= outcome["metrics"]["test/acc_ann"] <= 100
    assert outcome["parameters"] == 64 * 8 + 8 + 8 * 8 + 8 + 32 + 8 * 10 + 10
    for name in ("body.0", "body.1"):
        own = [row[f"rule/threshold/{name}"] for row in table]
        stage = int(name[-1])
        assert len({own[k] for k, row in enumerate(table) if row["rule/stage"] >= stage}) == 1


def test_every_stage_starts_from_the_best_epoch_of_the_one_before(whole):
    folder, _ = whole
    table = rows(folder)
    content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["snnrun"]["rule"]["stage"] >= 1
    assert (
        content["epoch"]
        == max((row for row in table if row["rule/stage"] >= 1), key=lambda row: row["val/acc"])[
            "epoch"
        ]
    )


@pytest.mark.parametrize(
    ("stage", "batch", "words"), [(0, 5, ()), (1, 1, ()), (1, 9, ("ema=0.9",))]
)
def test_a_run_stopped_in_the_middle_of_a_stage_ends_as_if_it_had_not_been(
    whole, tmp_path, monkeypatch, stage, batch, words
):
    from snnrun.callback import Interrupted
    from snnrun.learner import Learner as Real

    folder, outcome = whole
    more = ("trainer.max_epochs=16", *words)
    if words:
        folder = tmp_path / "whole"
        outcome = trained(folder, *more)
    table = rows(folder)
    inside = [row["epoch"] for row in table if row["rule/stage"] == stage]
    step = Real.training_step

    def counted(self, batch_, index):
        if self.current_epoch == inside[-1] and index == batch:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch_, index)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Real, "training_step", counted)
        trained(tmp_path / "stopped", *more)
    resumed = trained(tmp_path / "stopped", *more, resume=True)
    assert rows(tmp_path / "stopped") == table
    for name in ("last", "best"):
        one, two = (
            torch.load(f / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for f in (folder, tmp_path / "stopped")
        )
        assert one["state_dict"].keys() == two["state_dict"].keys()
        for key, value in one["state_dict"].items():
            assert torch.equal(value, two["state_dict"][key]), key
        assert one["snnrun"]["rule"] == two["snnrun"]["rule"]
    for key in ("metrics", "selection", "steps", "spikes"):
        assert resumed[key] == outcome[key], key


def test_without_validation_data_the_training_score_decides(tmp_path):
    more = ("dataset.val_size=0", "trainer.max_epochs=12", "test=false", "rule.lr=0.0")
    outcome = trained(tmp_path, *more)  # nothing is learned from the first conversion on
    table = rows(tmp_path)
    assert table[-1]["rule/stage"] >= 1 and "val/acc" not in table[-1]
    assert table[-1]["rule/best"] in [row["train/acc"] for row in table]
    assert outcome["selection"]["best_val"] is None
