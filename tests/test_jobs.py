"""The jobs of a sweep: settings, what became of one, GPUs."""

import json

import pytest
from omegaconf import OmegaConf

from snnrun.config import BadRequest
from snnrun.jobs import Settings, Task, wanted_gpus
from snnrun.pool import Job


@pytest.mark.parametrize("name", ["jobs", "threads"])
def test_settings_that_make_no_sense(name):
    with pytest.raises(BadRequest, match=rf"^hydra\.launcher\.{name} must be at least 1, got 0\.$"):
        Settings(**{name: 0})


@pytest.mark.parametrize(
    ("result", "fields", "state", "error"),
    [
        ({"status": "completed"}, {"code": 0}, "done", ""),
        ({"status": "failed", "error": "It broke."}, {"code": 1}, "failed", "It broke."),
        (None, {"code": 1, "error": "Traceback"}, "failed", "Traceback"),
        (None, {"code": 7}, "failed", "its process ended with code 7"),
        (
            *(None, {"code": -9}, "failed"),
            "its process was ended by signal 9, which the system sends where memory is short",
        ),
        (None, {"code": -11}, "failed", "its process was ended by signal 11"),
        ({"status": "interrupted"}, {"code": 130, "asked": True}, "interrupted", ""),
        ({"status": "completed"}, {"code": 0, "asked": True}, "done", ""),  # it was too late
        (None, {"busy": True}, "elsewhere", ""),
    ],
)
def test_what_became_of_a_job(tmp_path, result, fields, state, error):
    if result:
        (tmp_path / "result.json").write_text(json.dumps(result))
    task = Task(0, "seed=1", ["seed=1"], tmp_path)
    task.conclude(Job("seed=1", tmp_path, lambda slot: None, **fields))
    assert (task.state, task.error) == (state, error)


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({"accelerator": "auto", "devices": 1}, 1),
        ({"accelerator": "gpu", "devices": 4}, 4),
        ({"accelerator": "cuda", "devices": "auto"}, 1),
        ({"accelerator": "gpu", "devices": -1}, 1),
        ({"accelerator": "gpu", "devices": [2, 3]}, 0),
        ({"accelerator": "cpu", "devices": 2}, 0),
    ],
)
def test_how_many_gpus_a_run_is_handed(trainer, wanted):
    assert wanted_gpus(OmegaConf.create(trainer)) == wanted


def test_a_metrics_file_is_read_when_it_has_grown(tmp_path, monkeypatch):
    task = Task(0, "seed=1", [], tmp_path)
    assert task.rows() == []
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val/acc\n0,20.0\n1,2")
    assert task.rows() == [{"epoch": "0", "val/acc": "20.0"}]  # a row is being written
    monkeypatch.setattr(type(path), "read_text", lambda *a, **k: pytest.fail("read again"))
    assert len(task.rows()) == 1
    monkeypatch.undo()
    with path.open("a") as file:
        file.write("1.5\n")
    assert task.rows()[-1] == {"epoch": "1", "val/acc": "21.5"}
