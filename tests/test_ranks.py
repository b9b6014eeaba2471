"""Several processes for one run: who is who, and one directory for all."""

import json

import pytest
from omegaconf import OmegaConf

from snnrun.config import BadRequest
from snnrun.ranks import OURS, check, each, world

NAMES = ("TORCHELASTIC_RUN_ID", OURS, "RANK", "WORLD_SIZE", "NODE_RANK", "SLURM_STEP_ID")
NAMES += ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME")
SLURM = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, (0, 1)),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({OURS: "1", "RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        (SLURM, (2, 4)),
        ({**SLURM, "SLURM_JOB_NAME": "interactive"}, (0, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, (0, 1)),  # a batch script without srun
        ({"NODE_RANK": "1"}, (1, 1)),
    ],
)
def test_who_this_process_is(monkeypatch, known, wanted):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert world() == wanted


def trainer(**settings):
    return OmegaConf.create(
        {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", **settings}
    )


def test_how_many_processes_a_run_has(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert [each(trainer(devices=d)) for d in (1, "2", [0, 1, 2], "auto")] == [1, 2, 3, 1]
    check(trainer(devices=2, num_nodes=2))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    check(trainer(devices=2, num_nodes=2))
    with pytest.raises(BadRequest, match=r"There are 4 processes, but trainer\.devices=1"):
        check(trainer())


@pytest.mark.parametrize("strategy", ["fsdp", "ddp_spawn", "ddp_fork"])
def test_what_cannot_be(monkeypatch, strategy):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadRequest, match=rf"trainer\.strategy={strategy}"):
        check(trainer(strategy=strategy))


def test_two_processes_leave_one_directory(warm, tmp_path):
    words = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "dataset.steps=2")
    done = warm(*words, "model.spec=8", "trainer.max_epochs=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "outputs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed" and result["steps"] == 11  # two batches of 64 a step
    assert done.stdout.count("epoch 1/1") == 1
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2
