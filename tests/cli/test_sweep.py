"""Sweeps as a user types them, in this process, their jobs forked from one that is shared by all tests here."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SMALL = ("model.spec=8", "dataset.steps=2", "dataset.batch_size=100", "trainer.accelerator=cpu")
SMALL += ("test=false", "hydra.launcher.jobs=2")
Sweep = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def snnrun(in_process) -> Sweep:
    return in_process


def status(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["status"]


def weights(folder: Path) -> torch.Tensor:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for value in state.values()])


def test_only_what_is_missing_is_run(snnrun, tmp_path):
    words = ("neuron.tau=1.5,3", "trainer.max_epochs=1", *SMALL)
    code, lines, err = snnrun("-m", "seed=1,2", *words)
    assert (code, err) == (0, "")
    folder = tmp_path / "outputs/sweeps"
    (folder,) = folder.iterdir()
    assert folder.name == (
        "neuron.tau,seed,dataset.batch_size=100,dataset.steps=2,model.spec=8,test=false,"
        "trainer.max_epochs=1"
    )
    names = [f"neuron.tau={tau},seed={seed}" for tau in ("1.5", "3") for seed in (1, 2)]
    assert lines[:2] == [f"sweep     {folder}", "jobs      4: 4 to run"]
    assert lines[-1] == "4 of 4 jobs done"
    assert sorted(line.split()[2] for line in lines[2:-1]) == names
    runs = [path for path in folder.iterdir() if path.is_dir()]
    assert sorted(path.name for path in runs) == names
    for run in runs:
        assert status(run) == "completed"
        result = json.loads((run / "result.json").read_text())
        assert set(run.name.split(",")) < set(result["overrides"])
        assert (run / ".hydra" / "config.yaml").is_file() and "epoch 1/1" in (
            run / "log.txt"
        ).read_text()
        assert result["hardware"]["threads"] == 1
    before = {run: (run / "result.json").stat().st_mtime_ns for run in runs}

    shutil.rmtree(folder / names[2])
    (folder / names[3] / "result.json").write_text('{"status": "failed", "error": "x"}')
    code, lines, err = snnrun("-m", *words[::-1], "seed=2,1,3", "paths.data=elsewhere")
    assert (code, err) == (0, "")
    assert lines[1] == "jobs      6: 2 done before, 1 to go on with, 3 to run"
    assert lines[-1] == "6 of 6 jobs done"
    assert [line.split()[0] for line in lines[2:-1]] == ["[3/6]", "[4/6]", "[5/6]", "[6/6]"]
    for name in names[:2]:
        assert (folder / name / "result.json").stat().st_mtime_ns == before[folder / name]

    code, lines, _ = snnrun("resume", str(folder))  # all that was ever asked for
    assert code == 0 and lines[1::2] == [
        "jobs      4: 4 done before",
        "jobs      6: 6 done before",
    ]


def test_ctrl_c_ends_the_jobs_and_resume_goes_on_to_the_same_weights(snnrun, tmp_path, heard):
    words = ("-m", "seed=1,2", "trainer.max_epochs=30", "model.dropout=0.2", *SMALL)

    def interrupt() -> None:
        end = time.monotonic() + 120
        while not all((tmp_path / f"one/seed={n}/metrics.csv").exists() for n in (1, 2)):
            time.sleep(0.01)
            if time.monotonic() > end:
                break
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, lines, err = snnrun(*words, "hydra.sweep.dir=one")
    thread.join()
    folder = tmp_path / "one"
    assert (code, err) == (130, "")
    assert lines[-2:] == [
        "0 of 2 jobs done, 2 interrupted",
        f"Interrupted. Go on with: snnrun resume {folder}",
    ]
    runs = [folder / "seed=1", folder / "seed=2"]
    assert [status(run) for run in runs] == ["interrupted", "interrupted"]
    epochs = [torch.load(r / "checkpoints/last.ckpt", weights_only=True)["epoch"] for r in runs]
    assert all(epoch < 29 for epoch in epochs)

    code, lines, err = snnrun("resume", "one", "hydra.launcher.jobs=1")
    assert (code, err) == (0, "")
    assert lines[1] == "jobs      2: 2 to go on with" and lines[-1] == "2 of 2 jobs done"
    assert [status(run) for run in runs] == ["completed", "completed"]
    assert (runs[0] / "log.txt").read_text().count(" epoch  1/30") == 1
    code, _, _ = snnrun(*words, "hydra.sweep.dir=two", "seed=2,3")
    assert code == 0
    assert torch.equal(weights(runs[1]), weights(tmp_path / "two" / "seed=2"))
    assert not torch.equal(weights(runs[1]), weights(tmp_path / "two" / "seed=3"))


@pytest.fixture
def heard():
    """Ctrl-C is noticed, though the tests may run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_job_that_fails_is_told_of_and_the_others_go_on(snnrun, tmp_path):
    words = ("-m", "optimizer.lr=1e30,0.01", "trainer.max_epochs=1", *SMALL, "hydra.sweep.dir=here")
    code, lines, err = snnrun(*words)
    assert (code, err) == (1, "")
    bad, good = (tmp_path / "here" / f"optimizer.lr={rate}" for rate in ("1e+30", "0.01"))
    assert (status(bad), status(good)) == ("failed", "completed")
    (at,) = (n for n, line in enumerate(lines) if "failed       optimizer.lr=1e+30" in line)
    assert lines[at + 1].startswith("    The loss is nan at epoch 0, step ")
    assert lines[at + 2] == f"    log: {bad / 'log.txt'}"
    assert lines[-2:] == [
        "1 of 2 jobs done, 1 failed",
        f"Once the cause is gone: snnrun resume {tmp_path / 'here'}",
    ]
    code, lines, err = snnrun("resume", "here")  # it fails again, and alone
    assert (code, lines[1]) == (1, "jobs      2: 1 done before, 1 to run")


def test_a_job_that_fails_stops_the_others_if_so_wished(snnrun, tmp_path):
    words = ("-m", "optimizer.lr=1e30,0.01", "trainer.max_epochs=1", *SMALL, "hydra.sweep.dir=here")
    code, lines, _ = snnrun(*words, "hydra.launcher.jobs=1", "hydra.launcher.on_error=stop")
    assert code == 1 and lines[-2] == "0 of 2 jobs done, 1 failed, 1 queued"
    assert [path.name for path in (tmp_path / "here").iterdir() if path.is_dir()] == [
        "optimizer.lr=1e+30"
    ]


def test_a_combination_that_does_not_fit_fails_alone(snnrun, tmp_path):
    words = ("neuron=lif,psc_lif", "loss=cross_entropy", "rule=bptt,tssl", "trainer.max_epochs=1")
    code, _, err = snnrun("-m", *words, *SMALL)
    assert code == 2 and err.startswith("rule=tssl needs trace,")  # with the first of the others
    assert not (tmp_path / "outputs").exists()
    words = ("neuron=psc_lif,lif", "rule=tssl,bptt", "encoder=psc,direct", *SMALL)
    code, _, err = snnrun("-m", *words)
    assert code == 2 and not (tmp_path / "outputs").exists()


def test_what_is_wrong_is_told_before_anything_is_started(snnrun, tmp_path):
    for words, told in (
        (("neuron.tau=1.5,x", "seed=1,2"), "neuron.tau must be a number, got 'x'.\n"),
        (("neuron=lif,lfi",), "neuron=lfi: there is no such neuron. Did you mean lif or li?\n"),
        (("neuron.tua=1,2",), "neuron.tua=1,2: neuron has no key 'tua'. Did you mean neuron.tau?"),
        (("seed=1,2", "hydra.launcher.jobs=0"), "hydra.launcher.jobs must be at least 1, got 0.\n"),
        (
            ("seed=1,2", "hydra.launcher.on_error=go"),
            "hydra.launcher.on_error must be continue or stop, got 'go'.\n",
        ),
        (("neuron.tau=interval(2,3)",), "neuron.tau=interval(2,3): a grid has no intervals"),
        (("neuron=glob(nothing*)",), "neuron=glob(nothing*): there is no such value.\n"),
    ):
        code, lines, err = snnrun("-m", *words)
        assert (code, lines) == (2, [])
        assert err.startswith(told), err
    assert not list(tmp_path.iterdir())


def test_runs_with_other_settings_are_not_taken_for_done(snnrun, tmp_path):
    option = tmp_path / "mine" / "neuron" / "my_lif.yaml"
    option.parent.mkdir(parents=True)
    text = "_target_: snnrun.neuron.LIF\nsurrogate: ${surrogate}\ntau: 2.0\nthreshold: 1.0\n"
    option.write_text(text)
    words = ("-m", "neuron=my_lif", "seed=1,2", "trainer.max_epochs=1", *SMALL)
    words += ("--config-dir", "mine", "hydra.sweep.dir=here")
    folder = tmp_path / "here"
    assert snnrun(*words)[0] == 0
    option.write_text(text + "# the same\n")
    code, lines, _ = snnrun(*words)
    assert code == 0 and lines[1] == "jobs      2: 2 done before"
    option.write_text(text.replace("2.0", "3.0"))
    code, lines, err = snnrun(*words)
    assert (code, lines) == (2, [])
    assert err == (
        f"{folder} holds runs with other settings than they would have now:\n"
        "  seed=1: neuron.tau=2.0 (now 3.0)\n  seed=2: neuron.tau=2.0 (now 3.0)\n"
        "Move them away, or choose another hydra.sweep.dir.\n"
    )
    code, _, err = snnrun("-m", "neuron.tau=2,3", "hydra.sweep.dir=here")
    assert code == 2 and err.startswith(f"{folder} holds another sweep: seed,dataset.batch_size=")
    code, _, err = snnrun("resume", "here")  # whose parts are not on the search path now
    assert code == 2 and err.startswith("neuron=my_lif: there is no such neuron.")


@pytest.mark.slow
def test_a_job_of_two_processes_is_one_run(snnrun, tmp_path):
    words = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=2")
    code, lines, err = snnrun("-m", "seed=1,2", *words, "hydra.sweep.dir=here")
    assert (code, err, lines[-1]) == (0, "", "2 of 2 jobs done")
    code, _, _ = snnrun("seed=2", *words, "hydra.run.dir=alone")
    assert code == 0
    for name in ("result.json", "metrics.csv", "last.ckpt"):
        assert len([*(tmp_path / "here").rglob(name)]) == 2
    assert torch.equal(weights(tmp_path / "here" / "seed=2"), weights(tmp_path / "alone"))


@pytest.mark.slow
def test_a_search_whose_trials_are_jobs(snnrun, tmp_path):
    pytest.importorskip("optuna")
    words = ("-m", "hparams_search=accuracy_and_operations", "trainer.max_epochs=1", *SMALL)
    words += ("hydra.sweep.dir=here",)
    code, lines, err = snnrun(*words, "hydra.sweeper.n_trials=2")
    assert (code, err) == (0, "")
    folder = tmp_path / "here"
    assert lines[:2] == [f"sweep     {folder}", "trials    2: 2 to run"]
    assert "2 of 2 trials: 2 done" in lines
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    assert [run.name.split(",")[0] for run in runs] == ["000", "001"]
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert "ac" in result["ops"] and not any("test" in key for key in result["metrics"])
    assert (folder / "pareto.csv").read_text().startswith("trial,state,val/acc,ops.ac,")
    code, lines, _ = snnrun("resume", "here", "hydra.sweeper.n_trials=3")
    assert code == 0 and lines[1] == "trials    3: 2 done before, 1 to run"
    code, _, err = snnrun("-m", "hparams_search=lif", "hydra/launcher=basic")
    assert code == 2 and err.startswith("hydra/sweeper=optuna runs its jobs by")
    code, _, err = snnrun(*words, "hydra.sweeper.sampler=tpa")
    assert code == 2 and err.startswith("hydra.sweeper.sampler must be")
