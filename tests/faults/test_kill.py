"""Kill -9 at moments that nobody has chosen: `resume` ends where the run that was never stopped ends, bit for bit."""

import json
import random
import time

import pytest
import torch


def begin(warm, words, place, kill: float) -> int:
    """Start a run, or go on with it where it has begun, and kill it after so many seconds; returns its exit code."""
    begun = (place / "run" / ".hydra" / "overrides.yaml").exists()
    request = ("resume", "run") if begun else (*words, "hydra.run.dir=run")
    return warm(*request, cwd=place, kill=kill).returncode


def finish(warm, words, place) -> None:
    """Without a kill, to the end; a run that was killed before it had begun is started again."""
    begun = (place / "run" / ".hydra" / "overrides.yaml").exists()
    request = ("resume", "run") if begun else (*words, "hydra.run.dir=run")
    done = warm(*request, cwd=place)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
# kills the process half way through the first checkpoint that it writes
HALF = """\
import os, signal
import torch

def half(checkpoint, file):
    file.write(b"half of a checkpoint" * 1000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
"""


def lines(folder) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_kills_at_the_worst_moments(at_call, warm, words, same_end, tmp_path):
    """In the first epoch behind which there is a checkpoint, half way through the next, and in the epoch after that."""
    folder = tmp_path / "run"
    done = warm(*words, "hydra.run.dir=run", cwd=tmp_path, before=at_call(13 + 5, KILL))
    assert done.returncode == -9 and len(lines(folder)) == 2
    with (folder / "metrics.csv").open("a") as file:
        file.write("999,7,12")  # a row that was cut off

    # the row is written before any checkpoint
    done = warm("resume", "run", cwd=tmp_path, before=HALF)
    assert done.returncode == -9 and list(folder.rglob(".*.part"))
    assert len(lines(folder)) == 3 and epoch(folder) == 0

    done = warm("resume", "run", cwd=tmp_path, before=at_call(13 + 7, KILL))
    assert done.returncode == -9 and epoch(folder) == 1
    assert not (folder / "result.json").exists()
    finish(warm, words, tmp_path)
    same_end(folder)

    # a finished run is left alone
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    done = warm("resume", "run", cwd=tmp_path)
    assert done.stdout == (
        f"{folder} is complete: {folder}/result.json. To run it again: snnrun rerun {folder}\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def epoch(folder) -> int:
    """The epoch behind which the last checkpoint was written."""
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_twenty_kills(number, warm, words, duration, same_end, tmp_path):
    moment = random.Random(number).uniform(0.1, 1) * duration
    begin(warm, words, tmp_path, moment)
    finish(warm, words, tmp_path)
    same_end(tmp_path / "run")


@pytest.mark.slow
def test_kill_after_kill_in_one_run(warm, words, duration, same_end, tmp_path):
    moments = random.Random(0)
    codes = [begin(warm, words, tmp_path, moments.uniform(0.05, 0.6) * duration) for _ in range(20)]
    assert codes.count(-9) >= 5  # at last it is done, and left alone
    finish(warm, words, tmp_path)
    same_end(tmp_path / "run")


# --- sweeps

SWEEP = ("-m", "seed=1,2", "model.dropout=0.2", "trainer.max_epochs=5", "trainer.accelerator=cpu")
SWEEP += ("hydra.sweep.dir=sweep", "hydra.launcher.jobs=2")


@pytest.fixture(scope="module")
def whole_sweep(warm, tmp_path_factory):
    """The directory of a sweep that was never stopped, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("sweep")
    warm("--version", cwd=folder)  # what is forked from must be there before time is taken
    start = time.monotonic()
    done = warm(*SWEEP, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder / "sweep", time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_sweep_is_killed(number, warm, whole_sweep, same_end, tmp_path):
    """Its jobs go on without it; whoever types it again leaves those alone, and does what is missing."""
    moment = random.Random(number).uniform(0.1, 1)
    kill_and_finish(moment, warm, whole_sweep, same_end, tmp_path)


def kill_and_finish(share, warm, whole_sweep, same_end, place) -> None:
    whole, duration = whole_sweep
    assert warm(*SWEEP, cwd=place, kill=share * duration).returncode in (0, -9)
    runs = [place / "sweep" / f"seed={seed}" for seed in (1, 2)]
    end = time.monotonic() + 120
    while any(status(run) != "completed" for run in runs) and time.monotonic() < end:
        done = warm(*SWEEP, cwd=place)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        time.sleep(0.2)
    for run in runs:
        same_end(run, whole / run.name)


def status(run) -> str | None:
    path = run / "result.json"
    return json.loads(path.read_text())["status"] if path.exists() else None
