"""Loggers as a user chooses them, and several runs from one line."""

import csv
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

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


def records(path: Path) -> Iterator[Record]:
    """The records in a file that `wandb sync` uploads: LevelDB's log format, of protocol buffers."""
    content, place, parts = path.read_bytes(), 7, b""  # behind the header
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:  # a block ends in padding
            place += room
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_offline_needs_no_account_and_gets_a_record_for_each_run(warm, alone):
    words = ("-m", "seed=1,2", "logger=wandb", "logger.wandb.offline=true")
    done = warm(*words, *SHORT, "hydra.sweep.dir=sweep", "hydra/launcher=basic", cwd=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in (alone / "sweep" / "0", alone / "sweep" / "1"):
        assert status(folder) == "completed"
        (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        written = [*records(path)]
        (begun,) = [r.run for r in written if r.HasField("run")]
        assert (begun.run_group, begun.display_name, begun.project) == (
            "sweep",
            folder.name,
            "snnrun",
        )
        seen = {item.key or "/".join(item.nested_key) for r in written for item in r.history.item}
        assert {"train/loss", "val/acc", "spikes/rate/body.0"} <= seen
        config = {u.key: json.loads(u.value_json) for r in written for u in r.config.update}
        assert config["neuron"]["tau"] == 2.0 and config["parts"]["neuron"] == "lif"
        assert config["seed"] == int(folder.name) + 1 and "paths" not in config
        final = {u.key: json.loads(u.value_json) for r in written for u in r.summary.update}
        result = json.loads((folder / "result.json").read_text())
        assert final["test/acc"] == result["metrics"]["test/acc"]
        assert final["ops/ac"] == result["ops"]["ac"]
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
    (path,) = (alone / "lost").glob("wandb/offline-run-*/run-*.wandb")
    assert b"val/acc" in path.read_bytes()
    assert "anonymous" not in done.stdout + done.stderr


def test_several_loggers_at_once(warm, tmp_path):
    done = warm("logger=[csv,tensorboard]", *SHORT, "hydra.run.dir=run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "run"
    assert status(folder) == "completed"
    record = b"".join(path.read_bytes() for path in folder.glob("tensorboard/events.*"))
    with (folder / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {"train/loss", "val/acc", "spikes/rate/body.0"} <= set(row)
    settings = {"neuron/tau", "parts/neuron", "seed", "optimizer/lr"}
    for name in (row.keys() - {"step"}) | settings | {"final/test/acc", "final/ops/ac"}:
        assert name.encode() in record
