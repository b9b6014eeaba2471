"""What Slurm is asked for, and how its answers are read; tests/cli/test_slurm.py has a real one."""

import json
import re
import subprocess
import tempfile

import pytest
from omegaconf import OmegaConf

from snnrun import slurm
from snnrun.cli import _dispatch
from snnrun.config import BadRequest
from snnrun.pool import Slot
from snnrun.slurm import Queue, Settings, Submitted


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"timeout_min": 0}, "timeout_min must be at least 1, got 0."),
        ({"max_num_timeout": -1}, "max_num_timeout must be at least 0, got -1."),
        ({"timeout_min": 2}, "signal_delay_s must be above 0 and less than timeout_min, 120 s"),
        ({"partition": "a\nrm -r x"}, "partition must be of one line, got 'a\\nrm -r x'."),
        ({"additional_parameters": {"a\nb": 1}}, "additional_parameters must be of one line"),
    ],
)
def test_settings_that_make_no_sense(given, told):
    with pytest.raises(BadRequest, match=rf"^hydra\.launcher\.{re.escape(told)}"):
        Settings(**given)


def test_what_slurm_is_asked_for():
    told = Settings(mem_gb=4, additional_parameters={"mail-type": "FAIL"}).parameters("seed=1", 0)
    assert told == {
        **{"name": "seed=1", "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "mem_gb": 4},
        **{"timeout_min": 60, "signal_delay_s": 120},
        "additional_parameters": {"requeue": True, "mail-type": "FAIL"},
    }
    assert Settings().parameters("seed=1", 2)["gpus_per_node"] == 2
    assert "gpus_per_node" not in Settings(gpus_per_node=0).parameters("seed=1", 2)


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Programs of Slurm that say what the test says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scancel", "squeue"):
        program = folder / name
        program.write_text(f"#!/bin/sh\ncat {folder}/said\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "INTERVAL", 0)
    monkeypatch.setattr(slurm, "PATIENCE", 0)
    return lambda *lines: (folder / "said").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("state", "result", "code", "told"),
    [
        ("RUNNING", None, None, ""),
        ("COMPLETING", None, None, ""),
        ("COMPLETED", "completed", 0, ""),
        ("COMPLETED", None, 1, "Slurm ended job 7: COMPLETED."),
        ("NODE_FAIL", None, 1, "Slurm ended job 7: NODE_FAIL."),
        ("TIMEOUT", "failed", 1, "It had not stopped in time: hydra.launcher.signal_delay_s"),
        ("", None, 1, "Slurm ended job 7: it knows it no more."),
    ],
)
def test_how_a_job_has_ended(squeue, tmp_path, state, result, code, told):
    pytest.importorskip("submitit")
    squeue(*([f"7|{state}|a|b"] if state else []), "8|PENDING|c")
    if result:
        (tmp_path / "result.json").write_text(json.dumps({"status": result}))
    with tempfile.TemporaryFile() as quiet:
        queue = Queue(Settings())
        job = Submitted(queue, "7", tmp_path, Slot(None, {}, quiet))
        assert (job.poll(), job.waiting) == (code, False)
        quiet.seek(0)
        assert told in quiet.read().decode()
        assert Submitted(queue, "8", tmp_path, Slot(None, {})).waiting


def test_a_job_that_slurm_does_not_take(squeue, tmp_path):
    pytest.importorskip("submitit")
    squeue()
    (tmp_path / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: no such' >&2; exit 1\n"
    )
    with tempfile.TemporaryFile() as quiet:
        slot = Slot(None, {}, quiet)
        job = Queue(Settings()).submit("a", tmp_path / "a", OmegaConf.create(), slot, 0)
        assert job.poll() == 1
        quiet.seek(0)
        assert quiet.read() == b"sbatch: error: no such"


def test_a_controller_that_does_not_answer_changes_nothing(squeue, monkeypatch):
    pytest.importorskip("submitit")
    squeue("7|PENDING|a")
    queue = Queue(Settings())
    assert queue.look() == {"7": ("PENDING", "a")}
    silent = subprocess.CompletedProcess([], 1, "", "Unable to contact slurm controller")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: silent)
    assert queue.look() == {"7": ("PENDING", "a")}


def test_what_is_missing_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    assert _dispatch(["-m", "seed=1,2", "hydra/launcher=slurm"]) == 2
    assert capsys.readouterr().err == (
        "hydra/launcher=slurm needs submitit: pip install 'snnrun[slurm]'.\n"
        "hydra/launcher=slurm needs Slurm: there is no sbatch, srun, squeue, scancel on this machine. Type the sweep"
        " where jobs are submitted, or leave hydra/launcher=slurm out.\n"
    )
    for word, told in (
        ("hydra/launcher=slrum", "there is no such hydra/launcher. Did you mean slurm?"),
        ("hydra.launcher.partitoin=x", "hydra.launcher has no key 'partitoin'. Did you mean"),
        ("hydra.launcher.cpus_per_task=0", "hydra.launcher.cpus_per_task must be at least 1"),
        ("hydra.launcher.timeout_min=x", "hydra.launcher.timeout_min must be a whole number"),
        ("neuron=lfi", "neuron=lfi: there is no such neuron. Did you mean lif"),
    ):
        assert _dispatch(["-m", "seed=1,2", "hydra/launcher=slurm", word]) == 2
        assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
