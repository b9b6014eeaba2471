"""A table of one's own, and runs made up on disk."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PAPER = """\
# A table of digits
title: A table of digits
source: Nowhere.
overrides: [dataset.val_size=0, test_every_epoch=true]
compare: best_test
seeds: [1, 2]
rows:
  small:
    experiment: mine/small
    dataset: digits
    network: "8"
    steps: 2
    train: 1437
    test: 360
    reported: {mean: 15.0, std: 0.5, best: 16}
    status: readme
    band: {at_least: 5}
    cost: seconds
  wide:
    experiment: mine/small
    overrides: [model.spec=16]
    reported: {best: 99}
    status: recalled
    band: {at_least: 5}
    note: heard of
  broken:
    experiment: mine/small
    overrides: [dataset.val_size=5000]
    seeds: [7]
"""
EXPERIMENT = """\
# @package _global_
# Made up.   snnrun experiment=mine/small
model: {spec: "8"}
dataset: {steps: 2, batch_size: 100}
trainer: {max_epochs: 1, accelerator: cpu}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder for `--config-dir` with a table and its experiment."""
    for name, text in (("paper/table", PAPER), ("experiment/mine/small", EXPERIMENT)):
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "mine"


def _outcome(*, last: float, best_test: float | None = None, **more: Any) -> dict[str, Any]:
    best = {"epoch": 1, "chosen_on": "test data", "test/acc": best_test}
    return {
        "status": "completed",
        "error": None,
        "selection": {
            "best_val": None,
            "last": {"epoch": 1, "test/acc": last},
            "best_test": best if best_test is not None else None,
        },
        "epochs": 1,
        "seconds": {"fit": 1800.0, "test": 1.0},
        "data": {"train": 1437, "val": 0, "test": 360},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "hardware": {"cpu": "A processor", "cores": 2, "threads": 1, "accelerator": None},
        **more,
    }


@pytest.fixture
def outcome() -> Callable[..., dict[str, Any]]:
    """Makes up what a `result.json` says, as far as a comparison reads it."""
    return _outcome


@pytest.fixture
def made() -> Callable[..., Path]:
    """Makes a run directory: configuration, result, and hours of two epochs."""

    def make(folder: Path, config: dict[str, Any], result: dict[str, Any] | None) -> Path:
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
        if result is not None:
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    return make


CONFIG = {
    "seed": 0,
    "neuron": {"_target_": "snnrun.neuron.LIF", "surrogate": "${surrogate}", "tau": 2.0},
    "surrogate": {"_target_": "snnrun.surrogate.ATan", "alpha": 2.0},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.002, "betas": [0.9, 0.999]},
    "dataset": {
        "_target_": "snnrun.dataset.Digits",
        "root": "${paths.data}",
        "folds": 0,
        "fold": 0,
    },
    "task": {"monitor": "val/loss", "mode": "min"},
    "logger": {"csv": {"save_dir": "${hydra:runtime.output_dir}"}},
    "paths": {"data": "data"},
}
PARTS = {
    "neuron": "lif",
    "surrogate": "atan",
    "optimizer": "adamw",
    "dataset": "digits",
    "experiment": None,
}


def _put(
    folder: Path,
    seed: int = 0,
    *,
    status: str | None = "completed",
    loss: float = 1.0,
    acc: float = 90.0,
    parts: dict[str, Any] | None = None,
    error: str | None = None,
    typed: list[str] | None = None,
    **changes: Any,
) -> Path:
    """A made run: `neuron__tau=3` sets neuron.tau, as if it had been typed."""
    config = copy.deepcopy(CONFIG) | {"seed": seed}
    words = [f"seed={seed}"]
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            config[section][name] = value
        elif value is None:
            del config[section]
        else:
            config[section] = value
        words.append(f"{key.replace('__', '.')}={value}")
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(typed or words))
    if status:
        done = {
            "metrics": {"val/loss": loss, "test/acc": acc},
            "spikes": {"rate": 0.1, "layers": {"a": 0.1, "b": 0.2}},
            "ops": {"ac": 100 * acc, "mac": 10, "energy_nj": 1.0},
            "seconds": {"fit": 1.0},
        }
        result = {
            "status": status,
            "error": error,
            "parts": {**PARTS, **(parts or {})},
            "overrides": typed or words,
            "seed": seed,
            **(done if status == "completed" else {"metrics": {}}),
        }
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="session")
def put() -> Callable[..., Path]:
    """Makes a run directory as a report over many reads it."""
    return _put
