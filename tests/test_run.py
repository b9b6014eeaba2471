"""Whole runs on the embedded digits, in this process: what they leave behind, selection, resume."""

import csv
import json
import math
import shutil
import signal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from snnrun import result
from snnrun.callback import Interrupted
from snnrun.check import composed, without_hydra
from snnrun.checkpoint import WrongCheckpoint
from snnrun.config import BadRequest, Choices, group_defaults
from snnrun.learner import Learner
from snnrun.model import layers
from snnrun.neuron import LIF
from snnrun.rule import BPTT
from snnrun.run import Run, build, evaluate, load, quiet, train

CHOICES = Choices()
SMALL = (
    *("model.spec=8", "dataset.steps=2", "dataset.batch_size=100", "trainer.max_epochs=3"),
    *("keep_memory=false", "trainer.accelerator=cpu", "trainer.deterministic=false"),
)


@cache
def configuration(words: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
    cfg = composed(CHOICES, words)
    return without_hydra(cfg), group_defaults(cfg)


def run_in(folder: Path, *words: str) -> Run:
    cfg, parts = configuration((*SMALL, *words))
    cfg = cfg.copy()
    if "csv" in (cfg.get("logger") or {}):
        cfg.logger.csv.save_dir = str(folder)
    folder.mkdir(exist_ok=True)
    return Run(cfg, folder, parts, [*SMALL, *words])


def trained(folder: Path, *words: str, resume: bool = False) -> dict[str, Any]:
    quiet()
    run = run_in(folder, *words)
    outcome = train(run, bar=False, resume=resume)
    result.write(outcome, folder)
    return outcome


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """One finished run that many tests look at."""
    folder = tmp_path_factory.mktemp("done")
    return folder, trained(folder)


# --- parts


def test_build_gives_the_parts():
    data, learner = build(run_in(Path(), "neuron.tau=3", "model.spec=8-9", "loss=tet").cfg)
    assert type(data).__name__ == "Digits" and data.steps == 2
    assert isinstance(learner, Learner) and isinstance(learner.rule, BPTT)
    assert type(learner.criterion).__name__ == "TET"
    found = [layer for _, layer in layers(learner.net)]
    neurons = [layer.neuron for layer in found[:-1]]
    assert all(isinstance(neuron, LIF) and neuron.tau == 3 for neuron in neurons)
    assert [layer.synapse.out_features for layer in found] == [8, 9, 10]
    assert neurons[0].surrogate is not neurons[1].surrogate


def test_the_seed_decides_the_weights():
    def weights(seed: int) -> Tensor:
        _, learner = build(run_in(Path(), f"seed={seed}").cfg)
        return torch.cat([p.detach().flatten() for p in learner.net.parameters()])

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))


def test_the_rules_kernel_is_that_of_every_neuron(monkeypatch):
    def kernel(neuron, x, state):
        return x, state

    monkeypatch.setattr(BPTT, "kernel", lambda self, neuron: kernel)
    _, learner = build(run_in(Path()).cfg)
    assert next(layer.neuron.kernel for _, layer in layers(learner.net)) is kernel


def test_parts_may_refuse_shape_and_steps(monkeypatch):
    def validate(self, shape, steps):
        raise BadRequest(f"{shape} {steps}")

    monkeypatch.setattr(BPTT, "validate", validate, raising=False)
    with pytest.raises(BadRequest, match=r"\(1, 8, 8\) 2"):
        build(run_in(Path()).cfg)


# --- what a run leaves behind


def test_result_json_has_every_documented_key(done):
    folder, outcome = done
    text = (folder / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == outcome
    assert set(outcome) == {
        *("status", "error", "parts", "overrides", "seed", "metrics", "selection", "epochs"),
        *("steps", "parameters", "seconds", "samples_per_second", "peak_memory_bytes", "spikes"),
        *("ops", "accuracy_by_step", "data", "versions", "git", "hardware"),
    }
    assert (outcome["status"], outcome["error"], outcome["seed"]) == ("completed", None, 0)
    assert outcome["parts"]["neuron"] == "lif" and outcome["parts"]["dataset"] == "digits"
    assert outcome["overrides"][: len(SMALL)] == list(SMALL)
    assert (outcome["epochs"], outcome["steps"]) == (3, 3 * 13)
    assert outcome["parameters"] == 64 * 8 + 8 + 2 * 8 + 8 * 10 + 10
    assert set(outcome["selection"]) == {"best_val", "last", "best_test"}
    assert outcome["selection"]["best_test"] is None
    assert len(outcome["accuracy_by_step"]) == 2
    assert outcome["accuracy_by_step"][-1] == pytest.approx(
        outcome["metrics"]["test/acc"], abs=1e-3
    )
    assert set(outcome["seconds"]) == {"fit", "test"} and outcome["peak_memory_bytes"] > 2**20
    assert set(outcome["spikes"]) == {"rate", "layers", "silent"}
    assert set(outcome["spikes"]["layers"]) == set(outcome["spikes"]["silent"]) == {"body.0"}
    assert 0 < outcome["spikes"]["rate"] < 1
    assert set(outcome["ops"]) == {
        *("ac", "mac", "ann_mac", "energy_nj", "ann_energy_nj", "formula"),
    }
    assert (outcome["ops"]["mac"], outcome["ops"]["ann_mac"]) == (64 * 8, 64 * 8 + 8 * 10)
    assert {k: v for k, v in outcome["data"].items() if k != "split_sha256"} == {
        "train": 1293,
        "val": 144,
        "test": 360,
    }
    assert len(outcome["data"]["split_sha256"]) == 64


def test_a_row_an_epoch(done):
    folder, outcome = done
    table = rows(folder)
    assert [row["epoch"] for row in table] == [0, 1, 2]
    assert [row["step"] for row in table] == [13, 26, 39]
    for row in table:
        assert set(row) == {
            *("step", "epoch", "samples", "train/loss", "train/acc", "val/loss", "val/acc", "lr"),
            *("seconds", "spikes/rate", "spikes/rate/body.0", "spikes/silent/body.0"),
        }
        assert all(math.isfinite(value) for value in row.values())
        assert row["samples"] == 1293
    last = outcome["selection"]["last"]
    assert last["epoch"] == 3 and last["val/acc"] == table[-1]["val/acc"]
    assert last["train/loss"] < table[0]["train/loss"]


def test_checkpoints_hold_plain_things(done):
    folder, _ = done

    def walk(value: Any, place: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{place}.{key}")
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner, place)
        else:
            plain = (str, int, float, bool, type(None), Tensor)
            assert isinstance(value, plain), f"{place} is a {type(value)}"

    for name in ("best", "last"):
        walk(checkpoint(folder, name), name)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]


def test_the_snapshot_is_of_the_test_split(done):
    folder, outcome = done
    arrays = np.load(folder / "snapshot.npz")
    right = (arrays["label"] == arrays["predicted"]).mean()
    assert 100 * right == pytest.approx(outcome["metrics"]["test/acc"])
    assert arrays["label"].shape == (360,) and arrays["input"].shape == (4, 2, 1, 8, 8)
    assert arrays["spikes/body.0"].shape == (4, 2, 8) and arrays["out"].shape == (4, 2, 10)
    assert set(np.unique(arrays["spikes/body.0"])) <= {0.0, 1.0}
    assert arrays["sample"].shape == (4, 1, 8, 8) and arrays["potential/body.0"].shape == (2, 8)
    assert arrays["neurons/body.0"].tolist() == list(range(8)) and arrays["threshold/body.0"] == 1
    fired = arrays["spikes/body.0"][0] == 1
    assert (arrays["potential/body.0"][fired] == 0).all() and (
        arrays["potential/body.0"][~fired] < 1
    ).all()


def test_compiling_in_place_keeps_the_keys():
    _, learner = build(run_in(Path()).cfg)
    keys = list(learner.state_dict())
    learner.net.compile()
    assert list(learner.state_dict()) == keys


def test_recomputed_layers_learn_the_same(tmp_path, done):
    """Bit for bit, running statistics and all; fewer tensors wait for the backward pass."""
    folder = tmp_path / "again"
    trained(folder, "recompute=true")
    before, after = (checkpoint(place, "last")["state_dict"] for place in (done[0], folder))
    assert all(torch.equal(before[key], after[key]) for key in before)

    def kept(*words: str) -> int:
        _, learner = build(run_in(tmp_path, "model.spec=64-64-64", *words).cfg)
        sizes: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.update({x.data_ptr(): x.numel()}) or x, lambda x: x
        ):
            learner(torch.rand(100, 1, 8, 8))
        return sum(sizes.values())

    assert kept("recompute=true") < 0.6 * kept()


@pytest.mark.slow  # a minute of compilation
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_and_is_measured(tmp_path, done):
    outcome = trained(tmp_path / "compiled", "compile=true")
    assert outcome["status"] == "completed"
    assert outcome["metrics"]["test/acc"] == pytest.approx(done[1]["metrics"]["test/acc"], abs=2)
    assert 0 < outcome["spikes"]["rate"] < 1


# --- selection


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/acc", "max")])
def test_best_is_the_first_best_epoch_on_validation_data(tmp_path, monitor, mode):
    outcome = trained(
        tmp_path,
        *(f"task.monitor={monitor}", f"task.mode={mode}", "optimizer=sgd", "optimizer.lr=4"),
        *("scheduler=constant", "trainer.max_epochs=4", "seed=1"),
    )
    values = [row[monitor] for row in rows(tmp_path)]
    wanted = values.index({"min": min, "max": max}[mode](values))
    best = outcome["selection"]["best_val"]
    assert best["epoch"] == wanted + 1 == checkpoint(tmp_path, "best")["epoch"] + 1
    assert best[monitor] == values[wanted]
    assert outcome["metrics"] == {k: v for k, v in best.items() if "/" in k}
    assert outcome["selection"]["last"]["epoch"] == 4


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_reported_is_what_the_checkpoints_give(tmp_path, ema):
    outcome = trained(tmp_path, f"ema={ema}", "optimizer=sgd", "optimizer.lr=2", "seed=2")
    for name, chosen in (("best", "best_val"), ("last", "last")):
        again = evaluate(run_in(tmp_path), tmp_path / "checkpoints" / f"{name}.ckpt", bar=False)[
            "metrics"
        ]
        reported = outcome["selection"][chosen]
        assert again == {key: reported[key] for key in ("test/loss", "test/acc")}


def test_training_and_evaluation_keep_freed_memory_where_it_is_asked_for(tmp_path, monkeypatch):
    quiet()
    asked = []
    monkeypatch.setattr("snnrun.run.keep_freed_memory", lambda: asked.append(1) or True)
    for words, times in ((("keep_memory=true",), 2), ((), 0)):
        asked.clear()
        train(run_in(tmp_path, *words, "trainer.max_epochs=1"), bar=False)
        evaluate(run_in(tmp_path, *words), tmp_path / "checkpoints" / "last.ckpt", bar=False)
        assert len(asked) == times


def test_the_last_checkpoint_is_renewed_though_nothing_improves(tmp_path):
    trained(
        tmp_path,
        "optimizer=sgd",
        "optimizer.lr=0.0",
        "scheduler=constant",
        "norm=none",
        "test=false",
    )
    losses = [row["val/loss"] for row in rows(tmp_path)]
    assert len(set(losses)) == 1
    assert checkpoint(tmp_path, "best")["epoch"] == 0
    assert checkpoint(tmp_path, "last")["epoch"] == 2


def test_without_validation_data_the_last_epoch_counts(tmp_path):
    outcome = trained(tmp_path, "dataset.val_size=0", "trainer.max_epochs=2")
    selection = outcome["selection"]
    assert selection["best_val"] is None
    assert outcome["metrics"] == {k: v for k, v in selection["last"].items() if "/" in k}
    assert {"train/acc", "test/acc"} <= set(outcome["metrics"])
    assert not [key for key in outcome["metrics"] if key.startswith("val/")]
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    for row in rows(tmp_path):
        assert 0 < row["spikes/rate"] < 1 and "spikes/silent/body.0" in row
    assert outcome["data"]["val"] == 0 and outcome["data"]["train"] == 1437


# --- the published protocol: test data scored after every epoch


@pytest.mark.parametrize("words", [(), ("ema=0.9",), ("encoder=poisson",)])
def test_scoring_test_data_every_epoch_changes_nothing_else(tmp_path, words):
    more = ("optimizer=sgd", "optimizer.lr=2", "seed=2", *words)
    plain = trained(tmp_path / "plain", *more)
    outcome = trained(tmp_path / "tested", *more, "test_every_epoch=true")
    assert (
        checkpoint(tmp_path / "plain", "best")["epoch"]
        == (checkpoint(tmp_path / "tested", "best")["epoch"])
    )
    for name in ("best", "last"):
        one, two = (checkpoint(tmp_path / run, name) for run in ("plain", "tested"))
        for key, value in one["state_dict"].items():
            assert torch.equal(value, two["state_dict"][key]), (name, key)
    table = rows(tmp_path / "tested")
    for before, row in zip(rows(tmp_path / "plain"), table, strict=True):
        assert set(row) - set(before) == {"test/loss", "test/acc"}
        assert {k: row[k] for k in before if k != "seconds"} == (
            {k: v for k, v in before.items() if k != "seconds"}
        )
    assert outcome["metrics"] == plain["metrics"] and outcome["spikes"] == plain["spikes"]
    for name in ("best_val", "last"):
        assert outcome["selection"][name] == plain["selection"][name]
    accuracies = [row["test/acc"] for row in table]
    wanted = accuracies.index(max(accuracies))
    best = outcome["selection"]["best_test"]
    assert (best["epoch"], best["chosen_on"]) == (wanted + 1, "test data")
    columns = {k for k in table[0] if "/" in k and not k.startswith("spikes/")}
    assert {k: v for k, v in best.items() if "/" in k} == {k: table[wanted][k] for k in columns}
    if "encoder=poisson" not in words:  # which draws other spikes in the test at the end
        assert accuracies[-1] == outcome["selection"]["last"]["test/acc"]


def test_scoring_test_data_every_epoch_without_validation_data(tmp_path):
    more = ("dataset.val_size=0", "trainer.max_epochs=2")
    plain = trained(tmp_path / "plain", *more)
    outcome = trained(tmp_path / "tested", *more, "test_every_epoch=true")
    assert outcome["selection"]["best_val"] is None
    assert outcome["metrics"] == plain["metrics"] and outcome["spikes"] == plain["spikes"]
    assert not (tmp_path / "tested" / "checkpoints" / "best.ckpt").exists()
    first, last = rows(tmp_path / "tested")
    assert last["test/acc"] == outcome["selection"]["last"]["test/acc"]
    assert outcome["selection"]["best_test"]["test/acc"] == max(first["test/acc"], last["test/acc"])


def test_a_network_that_is_not_the_tested_one_is_not_scored_every_epoch(monkeypatch):
    monkeypatch.setattr(BPTT, "deploy", lambda self, net, calibration: net)
    with pytest.raises(BadRequest, match="this rule tests another one"):
        build(run_in(Path(), "test_every_epoch=true").cfg)


# --- settings


def test_without_loggers(tmp_path):
    outcome = trained(tmp_path, "logger=[]", "trainer.max_epochs=1")
    assert outcome["status"] == "completed" and not (tmp_path / "metrics.csv").exists()


def test_without_a_test(tmp_path):
    outcome = trained(tmp_path, "test=false", "trainer.max_epochs=1")
    assert not [key for key in outcome["metrics"] if key.startswith("test/")]
    assert not (tmp_path / "snapshot.npz").exists()
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_speed_counts_the_samples_that_were_trained_on(tmp_path):
    outcome = trained(tmp_path, "trainer.limit_train_batches=2", "test=false")
    table = rows(tmp_path)
    assert [row["samples"] for row in table] == [200, 200, 200] and outcome["steps"] == 6
    seconds = sum(row["seconds"] for row in table)
    assert outcome["samples_per_second"] == pytest.approx(600 / seconds, abs=0.1)


def test_a_decay_of_the_average_that_is_none(tmp_path):
    with pytest.raises(BadRequest) as error:
        trained(tmp_path, "ema=1.5")
    assert str(error.value) == "ema must be 0 (off) or a decay between 0 and 1, got 1.5."


def test_amplitudes_are_part_of_the_weights_that_are_tested(tmp_path, monkeypatch):
    nets, start = [], Learner.on_test_epoch_start

    def watched(self):
        nets.append(self.net)
        start(self)

    monkeypatch.setattr(Learner, "on_test_epoch_start", watched)
    words = ("neuron=ternary", "test_every_epoch=true", "trainer.max_epochs=1")
    outcome = trained(tmp_path, *words)
    amplitudes = [net.body[0].neuron.amplitude for net in nets]
    assert amplitudes == [None]  # the last epoch is the best
    state = checkpoint(tmp_path, "last")["state_dict"]
    a, w = (state[f"net.{name}"] for name in ("body.0.neuron.amplitude", "head.synapse.weight"))
    assert a.item() != 1 and torch.equal(nets[0].head.synapse.weight, a * w)
    (row,) = rows(tmp_path)  # of the network that is trained
    assert outcome["selection"]["last"]["test/acc"] == row["test/acc"]
    assert 0.1 < outcome["spikes"]["layers"]["body.0"] < 1 and outcome["ops"]["ac"] > 0


def test_weight_decay_of_weights_alone():
    for flag in (False, True):
        _, learner = build(run_in(Path(), f"decay_weights_only={flag}").cfg)
        groups = list(learner.rule.param_groups(learner.net))
        assert [group["weight_decay"] for group in groups[1:] if flag] == ([0.0] if flag else [])
        assert isinstance(groups[0], dict) == flag


def test_the_rule_says_what_is_tested(tmp_path, monkeypatch):
    def deploy(self, net, calibration):
        assert next(iter(calibration)).shape == (100, 1, 8, 8)
        deployed.append(net)
        return torch.nn.Sequential(
            torch.nn.Flatten(2), torch.nn.Linear(64, 10).requires_grad_(False)
        )

    deployed: list[Any] = []
    monkeypatch.setattr(BPTT, "deploy", deploy)
    monkeypatch.setattr("snnrun.run.snapshot", lambda learner, data: {"net": np.zeros(1)})
    outcome = trained(tmp_path / "one", "trainer.max_epochs=1")
    assert len(deployed) == 1  # the last epoch is the best
    assert outcome["parameters"] == 626
    worse = ("optimizer=sgd", "optimizer.lr=4", "scheduler=constant", "seed=1")
    trained(tmp_path / "four", *worse, "trainer.max_epochs=4")
    assert len(deployed) == 3  # last, then best
    assert deployed[1] is deployed[2]  # the trained network was put back in between


# --- beginning with weights


def test_a_run_begins_with_the_weights_of_another(tmp_path, done):
    """Of its best epoch, of a file, and of another rule; `resume` goes on with the run's own."""
    folder, _ = done
    best, last = (checkpoint(folder, name)["state_dict"] for name in ("best", "last"))
    still = ("optimizer=sgd", "optimizer.lr=0", "test=false", "trainer.max_epochs=1")
    files = {folder: best, folder / "checkpoints" / "last.ckpt": last}
    for number, (start, expected) in enumerate(files.items()):
        place = tmp_path / str(number)
        trained(place, f"start='{start}'", *still, "scheduler=constant", "rule.truncate=1")
        state = checkpoint(place, "last")["state_dict"]
        assert all(torch.equal(state[k], v) for k, v in expected.items() if k.endswith("weight"))
    gone = tmp_path / "gone"
    trained(place, f"start='{gone}'", *still[:3], "scheduler=constant", resume=True)
    state = checkpoint(place, "last")["state_dict"]
    assert all(torch.equal(state[k], v) for k, v in last.items() if k.endswith("weight"))


def test_weights_that_a_run_cannot_begin_with(tmp_path, done):
    folder, _ = done
    for start, words, message in (
        (tmp_path / "none", (), f"start={tmp_path / 'none'}: There is no checkpoint"),
        (folder, ("model.spec=9",), "is of another architecture"),
    ):
        with pytest.raises(BadRequest) as error:
            trained(tmp_path / "run", f"start='{start}'", *words)
        assert message in str(error.value)


# --- stopping and going on


def stop_after(monkeypatch, batches: int) -> None:
    """Ask the process to stop during a training batch, counted from 1."""
    step, count = Learner.training_step, iter(range(1, 10**6))

    def counted(self, batch, batch_idx):
        if next(count) == batches:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", counted)


# what a rule must bear; of its gradients, its weights, and its steps
EVERYWHERE = (
    "ema=0.9",
    "trainer.gradient_clip_val=1.0",
    "trainer.accumulate_grad_batches=2",
)
# what lets it learn within two steps of time, or takes more of them
FOR_DIGITS = {
    "st_rsbp": ("dataset.steps=30", "encoder=integrate", "neuron.threshold=1", "optimizer.lr=1e-3")
}


def with_rule(rule: str) -> tuple[str, ...]:
    return (f"rule={rule}", *FOR_DIGITS.get(rule, ()))


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        *[(20, (*with_rule(rule), *EVERYWHERE)) for rule in CHOICES.options("rule")],
        (5, ("neuron=plif",)),
        (13, ("dataset.val_size=0",)),  # the last of an epoch
        (20, ("encoder=poisson", "model.dropout=0.2")),
        (20, ("encoder=poisson", "test_every_epoch=true")),
        (29, ("dataset.val_size=0", "test_every_epoch=true")),  # the last but one
        (20, ("rule=dsr", "rule.calibrate=2", "model.dropout=0.2")),
        (16, ("rule=spide", "rule.norm=estimate", "trainer.accumulate_grad_batches=2")),
        (16, ("scheduler=step", "scheduler.step_size=1", "trainer.accumulate_grad_batches=2")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_stopped_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch, batches, words):
    more = (*words, "test=false", "trainer.max_epochs=2")
    whole = trained(tmp_path / "whole", *more)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, batches)
        trained(tmp_path / "stopped", *more)
    resumed = trained(tmp_path / "stopped", *more, resume=True)
    one, two = (checkpoint(tmp_path / name, "last") for name in ("whole", "stopped"))
    for key, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][key]), key
    assert one["global_step"] == two["global_step"] and one["epoch"] == two["epoch"]
    tables = [rows(tmp_path / name) for name in ("whole", "stopped")]
    assert tables[0][0]["train/loss"] != tables[0][1]["train/loss"]
    for table in tables:
        for row in table:
            assert row.pop("seconds") > 0
    assert tables[0] == tables[1]
    for key in ("metrics", "selection", "epochs", "steps", "spikes", "ops"):
        assert resumed[key] == whole[key], key


@pytest.mark.parametrize("rule", CHOICES.options("rule"))
def test_a_rule_learns_in_bfloat16_or_says_why_not(tmp_path, rule):
    words = (*with_rule(rule), "trainer.precision=bf16-mixed", "test=false", "trainer.max_epochs=1")
    try:
        trained(tmp_path, *words)
    except ValueError as error:
        assert str(error).startswith(f"rule={rule} needs trainer.precision=32-true or 64-true: in")
    else:
        assert all(math.isfinite(value) for value in rows(tmp_path)[0].values())


def test_time_before_a_stop_counts_towards_the_epoch(tmp_path, monkeypatch):
    more = ("test=false", "trainer.max_epochs=1")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 8)
        trained(tmp_path, *more)
    before = checkpoint(tmp_path, "last")["snnrun"]
    assert before["samples"] == 800 and before["seconds"] > 0
    outcome = trained(tmp_path, *more, resume=True)
    (row,) = rows(tmp_path)
    assert row["samples"] == 1293 and row["seconds"] > before["seconds"]
    assert outcome["samples_per_second"] == pytest.approx(1293 / row["seconds"], abs=0.1)


def test_resuming_without_a_checkpoint_starts_afresh(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch\n13,0\n")  # its checkpoint was never written
    outcome = trained(tmp_path, "test=false", "trainer.max_epochs=1", resume=True)
    assert outcome["epochs"] == 1 and [row["step"] for row in rows(tmp_path)] == [13]


def test_rows_beyond_the_checkpoint_are_run_again_and_others_stay(tmp_path):
    more = ("test=false",)
    trained(tmp_path, *more)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join([*lines, lines[-1].replace("39,2,", "52,3,", 1)]) + "\n")
    trained(tmp_path, *more, resume=True)
    assert path.read_text().splitlines() == lines


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    half = tmp_path / "checkpoints" / ".last.ckpt.123.part"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    trained(tmp_path, "test=false", "trainer.max_epochs=1")
    assert not half.exists()


# --- checkpoints that cannot be loaded


def test_a_checkpoint_that_is_not_there_or_damaged(tmp_path):
    _, learner = build(run_in(tmp_path).cfg)
    with pytest.raises(WrongCheckpoint) as error:
        load(learner, tmp_path / "none.ckpt")
    assert str(error.value) == f"There is no checkpoint {tmp_path / 'none.ckpt'}."
    (tmp_path / "bad.ckpt").write_bytes(b"nothing of the kind")
    with pytest.raises(WrongCheckpoint, match=r"bad.ckpt is no file of tensors and numbers: "):
        load(learner, tmp_path / "bad.ckpt")


# --- rows, time and place


def test_epochs_that_are_not_validated_say_nothing_of_validation(tmp_path):
    outcome = trained(tmp_path, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=5")
    table = rows(tmp_path)
    assert [("val/acc" in row, "spikes/rate" in row) for row in table] == [
        (epoch in (1, 3), epoch in (1, 3)) for epoch in range(5)
    ]
    assert outcome["selection"]["best_val"]["epoch"] in (2, 4)
    assert "val/acc" not in outcome["selection"]["last"]
    assert outcome["epochs"] == 5


def test_without_any_validated_epoch_nothing_is_chosen(tmp_path):
    outcome = trained(tmp_path, "trainer.check_val_every_n_epoch=4")
    assert outcome["selection"]["best_val"] is None
    assert outcome["metrics"]["test/acc"] == outcome["selection"]["last"]["test/acc"]


def test_the_best_row_is_of_the_checkpoint_that_was_tested(tmp_path):
    """A killed process may leave the best checkpoint of an epoch that comes out otherwise the second time."""
    trained(tmp_path, "trainer.max_epochs=2")
    path = tmp_path / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["snnrun"]["history"][-1]["val/acc"] = 12.5
    torch.save(content, path)
    outcome = trained(tmp_path, "trainer.max_epochs=2", resume=True)
    assert outcome["selection"]["best_val"]["val/acc"] == 12.5


def test_time_counts_from_the_first_start(tmp_path):
    words = ("scheduler=constant", "test=false")
    first = trained(tmp_path, "trainer.max_epochs=2", *words)["seconds"]["fit"]
    for name in ("last", "best"):
        path = tmp_path / "checkpoints" / f"{name}.ckpt"
        content = torch.load(path, weights_only=True)
        assert 0 < content["snnrun"]["elapsed"] < first
        content["snnrun"]["elapsed"] += 1000
        torch.save(content, path)
    again = trained(tmp_path, "trainer.max_epochs=3", *words, resume=True)
    assert 1000 < again["seconds"]["fit"] < 1300


def test_a_network_in_chunks_tells_how_often_it_fires(tmp_path):
    words = ("dataset.val_size=0", "trainer.max_epochs=1", "norm=none", "dataset.steps=4")
    words += ("neuron.threshold=0.2", "optimizer.lr=0")
    whole = trained(tmp_path / "whole", *words)
    parts = trained(tmp_path / "parts", *words, "rule.truncate=3")
    assert whole["spikes"] == parts["spikes"]
    one, two = rows(tmp_path / "whole")[-1], rows(tmp_path / "parts")[-1]
    assert one["spikes/rate"] == two["spikes/rate"] > 0
