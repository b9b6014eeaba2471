"""A table of one's own, and runs made up on disk."""

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
