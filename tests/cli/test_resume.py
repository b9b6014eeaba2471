"""Kill -9 at any moment, Ctrl-C and SIGTERM: `resume` ends where the run that was never stopped ends, bit for bit."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

# everything that has a state of its own: dropout, augmentation by the encoder, schedule, accumulation,
# average of the weights, loader processes, batch statistics
CONFIGURATION = (
    "model.spec=48-48",
    "model.dropout=0.2",
    "encoder=poisson",
    "neuron=plif",
    "scheduler=one_cycle",
    "trainer.accumulate_grad_batches=2",
    "trainer.gradient_clip_val=1.0",
    "ema=0.9",
    "dataset.num_workers=1",
    "dataset.batch_size=32",
    "trainer.max_epochs=5",
)
# a small run that stops itself: after BATCHES batches by SIGNAL, or half way through writing the checkpoint of an epoch
STOPPING = """\
import os, signal, sys
import torch
from snnrun.learner import Learner

when, what = sys.argv.pop(1), getattr(signal, sys.argv.pop(1))
if when.startswith("checkpoint"):
    save, left = torch.save, [int(when.removeprefix("checkpoint"))]

    def half(checkpoint, file):
        if left[0] == 0:
            file.write(b"half of a checkpoint" * 1000)
            file.flush()
            os.kill(os.getpid(), what)
        left[0] -= 1
        save(checkpoint, file)

    torch.save = half
else:
    step, left = Learner.training_step, [int(when)]

    def counted(self, batch, batch_idx):
        if left[0] == 0:
            os.kill(os.getpid(), what)
        left[0] -= 1
        return step(self, batch, batch_idx)

    Learner.training_step = counted

from snnrun.cli import main
main(sys.argv[1:])
"""
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
BATCHES = -(-1293 // 32)  # an epoch


def run(place: Path, *words: str, stop: tuple[str, str] | None = None):
    program = ["-c", STOPPING, *stop] if stop else ["-m", "snnrun"]
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=place,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def rows(folder: Path) -> list[dict[str, str]]:
    """The metrics file without the one column that time decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def place_of(folder: Path) -> tuple[int, int]:
    """Epoch and step that the last checkpoint was written at."""
    state = checkpoint(folder)
    return state["epoch"], state["global_step"]


def assert_same_end(one: Path, two: Path) -> None:
    assert rows(one) == rows(two)
    for name in ("best", "last"):
        a, b = checkpoint(one, name), checkpoint(two, name)
        assert list(a["state_dict"]) == list(b["state_dict"])
        for key, value in a["state_dict"].items():
            assert torch.equal(value, b["state_dict"][key]), (name, key)
        assert a["global_step"] == b["global_step"]
    first, second = (json.loads((f / "result.json").read_text()) for f in (one, two))
    for key in ("status", "metrics", "selection", "epochs", "steps", "spikes", "ops", "data"):
        assert first[key] == second[key], key
    assert not list(two.rglob(".*.part")) and not (two / ".lock").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def whole(place) -> Path:
    done = run(place, *CONFIGURATION, "hydra.run.dir=whole")
    assert done.returncode == 0, done.stderr + done.stdout
    assert [row["epoch"] for row in rows(place / "whole")] == ["0", "1", "2", "3", "4"]
    return place / "whole"


@pytest.fixture(scope="module")
def killed(place) -> Path:
    """The same run, killed by the clock from outside in the second epoch."""
    folder = place / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "snnrun", *CONFIGURATION, "hydra.run.dir=killed"],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # the loader processes too
    assert process.wait(60) == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    return folder


def test_kill_and_resume_again_and_again_equals_never_stopped(whole, killed, place):
    folder = killed
    assert 1 <= len(rows(folder)) < 5
    torn = folder / "metrics.csv"  # a row cut off by the kill
    torn.write_text(torn.read_text() + "999,7,12")

    # killed half way through an epoch's checkpoint: best.ckpt is written before last.ckpt
    done = run(place, "resume", "killed", stop=("checkpoint1", "SIGKILL"))
    assert done.returncode == -signal.SIGKILL
    epoch, _ = place_of(folder)
    assert list(folder.rglob(".*.part"))
    assert len(rows(folder)) == epoch + 2  # the row is written before the checkpoint

    # killed in the middle of the next epoch
    done = run(place, "resume", "killed", stop=(str(BATCHES + 7), "SIGKILL"))
    assert done.returncode == -signal.SIGKILL
    assert place_of(folder)[0] == epoch + 1
    assert not (folder / "result.json").exists()

    done = run(place, "resume", "killed")
    assert done.returncode == 0, done.stderr
    assert_same_end(whole, folder)

    # a finished run is left alone
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    done = run(place, "resume", "killed")
    assert done.stdout == (
        f"{folder} is complete: {folder}/result.json. To run it again: snnrun rerun {folder}\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_ctrl_c_and_sigterm_save_in_the_middle_of_an_epoch(whole, place):
    folder = place / "stopped"
    words = (*CONFIGURATION, "hydra.run.dir=stopped")
    for start, (number, name), steps in (
        (words, (BATCHES + 4, "SIGINT"), 21 + 3),
        # goes on behind the six batches of the second epoch, so that the 82nd is the sixth of the fourth
        (("resume", "stopped"), (2 * BATCHES - 1, "SIGTERM"), 21 * 3 + 3),
    ):
        done = run(place, *start, stop=(str(number), name))
        assert done.returncode == 130
        assert done.stderr == "\nStopping after this batch; Ctrl-C again stops at once.\n"
        assert done.stdout.endswith(f"\nInterrupted. Go on with: snnrun resume {folder}\n")
        result = json.loads((folder / "result.json").read_text())
        assert (result["status"], result["error"]) == ("interrupted", None)
        assert place_of(folder)[1] == steps

    done = run(place, "resume", "stopped")
    assert done.returncode == 0, done.stderr
    assert_same_end(whole, folder)


@pytest.mark.parametrize("verb", ["resume", "eval"])
def test_a_damaged_checkpoint_is_named_and_left(verb, killed, warm, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    (folder / "result.json").unlink(missing_ok=True)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:5000])
    name = "last" if verb == "resume" else "best"
    before = (folder / "checkpoints" / f"{name}.ckpt").read_bytes()
    metrics = (folder / "metrics.csv").read_bytes()
    done = warm(verb, "run", cwd=tmp_path)
    message = (done.stdout + done.stderr).splitlines()[-1]
    assert message == (
        f"{folder}/checkpoints/{name}.ckpt is truncated or damaged. It was left as it is."
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (folder / "checkpoints" / f"{name}.ckpt").read_bytes() == before
    assert (folder / "metrics.csv").read_bytes() == metrics
