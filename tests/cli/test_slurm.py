"""Sweeps by Slurm: what is told without one, and a real one of one node that queues again, takes away and cancels."""

import csv
import importlib.util
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "one_node_slurm.py"
SMALL = ("model.spec=8", "model.dropout=0.2", "dataset.steps=2", "dataset.batch_size=100")
SMALL += ("trainer.accelerator=cpu", "trainer.max_epochs=6", "dataset.num_workers=1")
Sweep = Callable[..., tuple[int, list[str], str]]

# batches of a second each: of seeds 1 and 2 until Slurm has queued them again, of seed 4 until it is cancelled
SLOW = """\
import os, time
from pathlib import Path

from lightning.pytorch import Callback


class Slow(Callback):
    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_end(self, *args):
        again = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        if "SLURM_JOB_ID" in os.environ:
            slow = {1: not again, 2: not again, 4: not Path("cancelled").exists()}
            time.sleep(slow.get(self.seed, False))
"""


@pytest.fixture
def snnrun(in_process) -> Sweep:
    return in_process


@pytest.fixture
def slurm(monkeypatch) -> Iterator[None]:
    """A Slurm of one node with one processor."""
    spec = importlib.util.spec_from_file_location("one_node_slurm", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    if reason := script.lacking():
        pytest.skip(f"no Slurm: {reason}")
    with script.slurm() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


def number(run: Path) -> str:
    """Of the job that a run has been last."""
    return max((f.name.partition("_")[0] for f in run.glob("slurm/*_submitted.pkl")), key=int)


def end(run: Path) -> tuple[list[dict[str, str]], list[torch.Tensor], dict[str, float]]:
    """What must not depend on how often a run was stopped."""
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "completed"
    files = [
        torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last")
    ]
    weights = [value for file in files for value in file["state_dict"].values()]
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return rows, weights, result["metrics"]


@pytest.mark.slow
def test_a_sweep_of_which_one_job_is_out_of_time_one_in_the_way_and_one_cancelled(
    slurm, snnrun, tmp_path
):
    pytest.importorskip("submitit")
    (tmp_path / "slow.py").write_text(SLOW)
    option = tmp_path / "mine" / "callbacks" / "slow.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("slow:\n  _target_: slow.Slow\n  seed: ${seed}\n")
    words = ("-m", "callbacks=slow", "--config-dir", "mine", *SMALL)
    by_slurm = ("hydra/launcher=slurm", "hydra.sweep.dir=here")
    four = "seed=1,2,3,4"
    runs = [tmp_path / "here" / f"seed={seed}" for seed in (1, 2, 3, 4)]

    def disturb() -> None:
        def trained(run: Path) -> bool:
            return (run / "metrics.csv").exists()

        wait(lambda: trained(runs[1]))
        subprocess.run(
            ["sbatch", "--partition=high", "--output=/dev/null", "--wrap=true"], check=True
        )
        wait(lambda: trained(runs[3]))
        (tmp_path / "cancelled").touch()
        subprocess.run(["scancel", number(runs[3])], check=True)

    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10")
    code, lines, err = snnrun(*words, "seed=1,3", *by_slurm, *limit)
    assert (code, err, lines[-1]) == (0, "", "2 of 2 jobs done")
    log = next(runs[0].glob("slurm/*_log.out")).read_text()
    assert "this job is timed-out" in log and "Requeued job" in log

    thread = threading.Thread(target=disturb)
    thread.start()
    code, lines, err = snnrun(*words, four, *by_slurm)
    thread.join()
    assert (code, err) == (1, ""), lines
    assert lines[1] == "jobs      4: 2 done before, 2 to run"
    (at,) = (n for n, line in enumerate(lines) if "failed       seed=4" in line)
    told = "\n".join(lines[at:])
    assert f"    Slurm ended job {number(runs[3])}: CANCELLED.\n" in told
    assert lines[-2:] == [
        "3 of 4 jobs done, 1 failed",
        f"Once the cause is gone: snnrun resume {tmp_path / 'here'}",
    ]
    assert json.loads((runs[3] / "result.json").read_text())["status"] == "interrupted"
    log = next(runs[1].glob("slurm/*_log.out")).read_text()
    assert log.count("Starting with JobEnvironment") == 2
    assert "Requeued job" not in log  # Slurm itself has

    code, lines, err = snnrun(*words, four, *by_slurm)
    assert (code, err) == (0, "")
    assert lines[1] == "jobs      4: 3 done before, 1 to go on with"
    assert len(list(runs[2].glob("slurm/*_submitted.pkl"))) == 1
    assert len(list(runs[3].glob("slurm/*_submitted.pkl"))) == 2

    code, lines, err = snnrun(*words, four, "hydra.sweep.dir=undisturbed", "hydra.launcher.jobs=1")
    assert (code, err) == (0, "")
    for run in runs:
        rows, weights, scores = end(run)
        same = end(tmp_path / "undisturbed" / run.name)
        assert (rows, scores) == (same[0], same[2])
        assert all(torch.equal(one, two) for one, two in zip(weights, same[1], strict=True))


def wait(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.1)
