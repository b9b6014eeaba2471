"""Loggers as a user chooses them, and several runs from one line."""

import csv
import json
import os
from pathlib import Path

import pytest

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Path:
    """A folder in which nobody has an account with anyone, nor a way out."""
    for name in [
        name for name in os.environ if name.startswith("WANDB_") or "proxy" in name.lower()
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


def status(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["status"]


def only(folder: Path, pattern: str) -> bytes:
    (path,) = folder.glob(pattern)
    return path.read_bytes()


def test_wandb_offline_needs_no_account_and_gets_a_record_for_each_run(warm, alone):
    words = ("-m", "seed=1,2", "logger=wandb", "logger.wandb.offline=true")
    done = warm(*words, *SHORT, "hydra.sweep.dir=sweep", "hydra/launcher=basic", cwd=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in (alone / "sweep" / "0", alone / "sweep" / "1"):
        assert status(folder) == "completed"
        record = only(folder, "wandb/offline-run-*/run-*.wandb")
        for name in (b"train/loss", b"val/acc", b"spikes/rate/body.0"):
            assert record.count(name) >= 1
        assert not (folder / "metrics.csv").exists()
    assert not (alone / "wandb").exists()


def test_without_an_account_or_a_way_out(warm, alone):
    done = warm("logger=wandb", *SHORT, "hydra.run.dir=run", cwd=alone)
    assert done.stdout.splitlines()[-1].startswith("logger=wandb: No API key configured. ")
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (2, False)
    assert status(alone / "run") == "failed"
    words = ("logger=[csv,wandb]", *SHORT, "hydra.run.dir=lost")
    done = warm(*words, cwd=alone, WANDB_API_KEY="0" * 40, WANDB_INIT_TIMEOUT="2")
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("warning: W&B ")]
    assert told.startswith("warning: W&B cannot be reached (")
    assert told.endswith(
        f"). The run is recorded in {alone}/lost/wandb; upload it later with: wandb sync."
    )
    assert b"val/acc" in only(alone / "lost", "wandb/offline-run-*/run-*.wandb")
    assert "anonymous" not in done.stdout + done.stderr


def test_several_loggers_at_once(warm, tmp_path):
    done = warm("logger=[csv,tensorboard]", *SHORT, "hydra.run.dir=run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "run"
    assert status(folder) == "completed"
    record = only(folder, "tensorboard/events.out.tfevents.*")
    with (folder / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {"train/loss", "val/acc", "spikes/rate/body.0"} <= set(row)
    for name in row.keys() - {"step"}:
        assert name.encode() in record
