"""The verb `paper`: real runs of a table of one's own, from nothing to a comparison, through failure and Ctrl-C."""

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

from snnrun.config import BadRequest
from snnrun.pool import Job, Pool, Slot
from snnrun.report import paper, reproduce
from snnrun.report.comparison import COLUMNS
from snnrun.report.request import numbers, plain, recipe, understood
from snnrun.report.table import load


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results" / "table.csv").open(newline="") as file:
        return {entry["row"]: entry for entry in csv.DictReader(file)}


# --- real runs


def test_ctrl_c_then_the_same_command_again_then_a_comparison(snnrun, mine, tmp_path):
    path = mine / "experiment" / "mine" / "small.yaml"
    path.write_text(path.read_text().replace("max_epochs: 1", "max_epochs: 60"))
    words = ["paper", "run", "table", "small", "seeds=1", "--config-dir", "mine"]
    process = subprocess.Popen(
        [sys.executable, "-m", "snnrun", *words],
        cwd=tmp_path,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # heard also where these tests run in the background of a shell
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = tmp_path / "outputs" / "papers" / "table" / "small" / "seed=1"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "checkpoints" / "last.ckpt").exists():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err.endswith(
        "Interrupted. Go on with: snnrun paper run table small seeds=1 --config-dir mine\n"
    )
    assert "small seed=1: interrupted" in err and "0 of 1 runs done" in out
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"

    done = snnrun(*words)
    assert done.returncode == 0, done.stderr
    assert "\nsmall seed=1: completed, 60 epochs, test accuracy: best test epoch " in done.stdout
    assert done.stdout.endswith(
        "\n1 of 1 runs done; 0 failed\nnext  snnrun paper compare table --config-dir mine\n"
    )
    assert done.stdout.count("epoch  1/60") == 0  # it went on, and did not start again
    result = json.loads((folder / "result.json").read_text())
    best, last = result["selection"]["best_test"], result["selection"]["last"]
    assert best["chosen_on"] == "test data" and best["test/acc"] >= last["test/acc"]
    before = (folder / "result.json").read_bytes()

    again = snnrun("paper", "run", "table/small", *words[4:])
    assert again.returncode == 0 and again.stdout.splitlines()[1] == "Nothing to run."
    assert (folder / "result.json").read_bytes() == before

    done = snnrun("paper", "compare", "table", "--config-dir", "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "results" / "table.md").read_text()
    rows = table_of(tmp_path)
    assert list(rows) == ["small", "wide", "broken"] and list(rows["small"]) == list(COLUMNS)
    ours, small = f"{best['test/acc']:.2f}", rows["small"]
    assert (small["ours_mean"], small["ours_best_test"], small["ours_n"]) == (ours, ours, "1")
    assert small["ours_last"] == f"{last['test/acc']:.2f}" and small["ours_best_val"] == ""
    assert float(small["difference"]) == pytest.approx(float(ours) - 15, abs=0.011)
    assert small["within_band"] == ("yes" if float(ours) >= 5 else "no")
    assert small["note"] == "without seed 2" and small["epochs"] == "60"
    assert rows["wide"]["note"] == "never run; heard of" and "99" not in rows["wide"].values()
    assert rows["broken"]["note"] == "never run"


# --- what is run


@pytest.fixture
def asked(mine, tmp_path):
    def make(*words: str):
        places = ("--config-dir", str(mine), f"paths.outputs={tmp_path / 'out puts'}")
        return understood([*words, *places])

    return make


def plan(asked, row="small", seed=1):
    made = load(asked.choices, "table")
    return reproduce.planned(asked, made, made.rows[row], seed, recipe(asked, made.rows[row]))


def words(job, monkeypatch) -> list[str]:
    """The command that a job is."""
    assert isinstance(job, Job)
    told: list[list[str]] = []
    monkeypatch.setattr(reproduce, "command", lambda words, slot: told.append(words))
    job.begin(Slot(0, {}))
    return told[0]


def folder_of(asked, seed=1) -> Path:
    made = load(asked.choices, "table")
    return asked.folder(made, made.rows["small"], seed)


def test_a_new_run_has_a_directory_of_its_own(asked, mine, tmp_path, monkeypatch):
    one = asked("table")
    folder = tmp_path / "out puts" / "papers" / "table" / "small" / "seed=1"
    assert folder_of(one) == folder
    job = plan(one)
    assert isinstance(job, Job) and job.name == "small seed=1"
    assert words(job, monkeypatch) == [
        *("experiment=mine/small", "dataset.val_size=0", "test_every_epoch=true"),
        f"paths.outputs={tmp_path / 'out puts'}",
        *("seed=1", f"hydra.run.dir='{folder}'", "--config-dir", str(mine)),
    ]
    assert "model.spec=16" in words(plan(one, "wide"), monkeypatch)


def test_other_settings_get_another_directory(asked):
    one = asked("table", "trainer.max_epochs=30", "paths.data=there", "loss.label_smoothing=0.1")
    name = "seed=1,trainer.max_epochs=30,loss.label_smoothing=0.1"
    assert folder_of(one).name == name
    assert folder_of(asked("table", "paths.data=there", "keep_memory=false")).name == "seed=1"
    long = [f"model.spec={'-'.join(['64'] * n)}" for n in (100, 101)]
    names = {folder_of(asked("table", word)).name for word in long}
    assert len(names) == 2 and max(map(len, names)) <= 200


def test_a_finished_run_is_left_alone_and_a_broken_one_resumed(
    asked, made, outcome, capsys, monkeypatch
):
    one = asked("table", "paths.data=there", "dataset.num_workers=2")
    config = plain(recipe(one, load(one.choices, "table").rows["small"]))
    folder = made(folder_of(one), {**config, "seed": 1}, None)
    job = plan(one)
    assert isinstance(job, Job)
    assert (
        words(job, monkeypatch)[0] == "experiment=mine/small"
    )  # no epoch was finished: it starts anew
    assert not (folder / ".hydra").exists()

    made(folder_of(one, 2), config, {"status": "failed", "error": "x"})
    (folder_of(one, 2) / "checkpoints").mkdir()
    (folder_of(one, 2) / "checkpoints" / "last.ckpt").touch()
    job = plan(one, seed=2)
    assert isinstance(job, Job)
    assert words(job, monkeypatch) == [
        *("resume", str(folder_of(one, 2)), "paths.data=there", "dataset.num_workers=2"),
        *(o for o in one.overrides if o.startswith("paths.outputs")),
        *one.flags,
    ]
    made(folder_of(one, 3), config, outcome(last=90.0, best_test=91.0))
    assert plan(one, seed=3) is None
    assert capsys.readouterr().out == (
        "small seed=3: completed, 1 epoch, test accuracy: best test epoch 91.00 %, last 90.00 %,"
        " done before\n"
    )
    other = {**config, "optimizer": {**config["optimizer"], "lr": 7.0}}
    made(folder_of(one, 4), other, outcome(last=90.0))
    problem = plan(one, seed=4)
    assert isinstance(problem, str) and "optimizer.lr=7.0 (recipe: " in problem


@pytest.mark.parametrize(
    ("code", "asked_to", "result", "error", "told"),
    [
        (0, False, {"status": "completed"}, "", None),
        (1, False, {"status": "failed", "error": "It broke."}, "", "It broke."),
        (2, False, None, "There is no neuron.", "There is no neuron."),
        (-9, False, None, "", "its process ended with code -9"),
        (130, True, {"status": "interrupted", "error": None}, "", "interrupted"),
    ],
)
def test_what_went_wrong(tmp_path, made, code, asked_to, result, error, told):
    job = Job("a", made(tmp_path / "seed=1", {}, result), lambda slot: None)
    job.process = subprocess.Popen([sys.executable, "-c", ""])
    job.process.wait()
    job.code, job.asked, job.error = code, asked_to, error
    assert reproduce.problem_of(job) == told
    (job.folder / "log.txt").touch()
    log = f"\n  log: {job.folder / 'log.txt'}"
    assert reproduce.problem_of(job) == (told + log if told and not asked_to else told)
    job.busy = True
    assert reproduce.problem_of(job) == f"another process is at {job.folder}; it was left alone"


def test_a_row_that_does_not_compose_does_not_stop_the_others(asked, monkeypatch, capsys):
    ran: list[str] = []

    def run(self, todo):
        ran.extend(job.name for job in todo)
        return False

    monkeypatch.setattr(Pool, "run", run)
    one = asked("table")
    one.choices = type(one.choices)([one.flags[1]])
    path = Path(one.flags[1]) / "paper" / "table.yaml"
    path.write_text(path.read_text().replace("model.spec=16", "model.sepc=16"))
    assert paper.run(one) == 1
    assert ran == ["small seed=1", "small seed=2", "broken seed=7"]
    assert "wide: model.sepc=16: model has no key 'sepc'" in capsys.readouterr().err
    assert paper.run(asked("table", "modle.spec=3")) == 2  # wrong for every row
    assert "Did you mean model?" in capsys.readouterr().err


# --- list and compare


def test_list(asked, made, outcome, capsys):
    one = asked("table")
    made(folder_of(one, 2), {}, outcome(last=1.0))
    made(folder_of(one, 1), {}, {"status": "failed"})
    made(folder_of(one, 1).with_name("seed=1,x=1"), {}, outcome(last=1.0))
    assert paper.list_rows(one) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("A table of digits", "", "Nowhere.", ""),
        "row     dataset  T  reported                   status    done         cost",
        "small   digits   2  15.00 +- 0.50, best 16.00  readme    2 of 1,2     seconds",
        "wide                -                          recalled  none of 1,2",
        "broken                                                   none of 7",
    ]
    assert paper.list_rows(asked()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "table         3 rows, 1 runs done   A table of digits" in lines
    assert lines[-1] == "snnrun paper list KEY shows the rows."


def test_rows_of_another_machine_are_kept(asked, made, outcome, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = asked("table")
    config = plain(recipe(one, load(one.choices, "table").rows["small"]))
    made(folder_of(one), config, outcome(last=15.0, best_test=15.5))
    assert paper.compare(one) == 0
    before = table_of(tmp_path)
    assert (before["small"]["ours_mean"], before["small"]["within_band"]) == ("15.50", "yes")
    elsewhere = understood(["table", *one.flags, f"paths.outputs={tmp_path / 'empty'}"])
    assert paper.compare(elsewhere) == 0
    assert table_of(tmp_path) == before


def test_runs_on_record_count_as_done_and_are_added_to(
    asked, made, outcome, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    one = asked("table")
    config = plain(recipe(one, load(one.choices, "table").rows["small"]))
    made(folder_of(one, 1), config, outcome(last=15.0, best_test=15.5))
    assert paper.compare(one) == 0
    kept = tmp_path / "results" / "runs" / "table" / "small" / "seed=1"
    first = (folder_of(one, 1) / "result.json").read_bytes()
    assert (kept / "result.json").read_bytes() == first and (kept / ".hydra/config.yaml").is_file()

    shutil.rmtree(folder_of(one, 1))
    assert plan(one, seed=1) is None
    assert f"on record in {kept.relative_to(tmp_path)}" in capsys.readouterr().out
    assert isinstance(plan(one, seed=2), Job)
    made(folder_of(one, 2), config, outcome(last=15.0, best_test=16.5))
    assert paper.compare(one) == 0
    small = table_of(tmp_path)["small"]
    assert (small["ours_mean"], small["ours_n"], small["note"]) == ("16.00", "2", "")

    made(folder_of(one, 1), config, {"status": "interrupted"})  # begun again, not finished
    assert paper.compare(one) == 0 and table_of(tmp_path)["small"] == small
    assert (kept / "result.json").read_bytes() == first


def test_a_run_on_record_with_other_settings_is_run_anew(
    asked, made, outcome, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    one = asked("table")
    config = plain(recipe(one, load(one.choices, "table").rows["small"]))
    config["seed"] = 5  # changes no recipe
    kept = made(tmp_path / "results/runs/table/small/seed=1", config, outcome(last=15.0))
    assert plan(one) is None
    config["optimizer"]["lr"] = 7.0
    shutil.rmtree(kept)
    made(kept, config, outcome(last=15.0))
    assert isinstance(plan(one), Job)


def test_a_run_with_other_settings_is_not_judged(asked, made, outcome, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = asked("table", "trainer.max_epochs=30")
    config = plain(recipe(short, load(short.choices, "table").rows["small"]))
    made(folder_of(short), config, outcome(last=15.0, best_test=15.5, epochs=30))
    assert paper.compare(asked("table")) == 0
    small = table_of(tmp_path)["small"]
    assert (small["ours_mean"], small["within_band"]) == ("15.50", "not judged")
    assert small["epochs"] == "30 of 1" and "30 of 1 epochs" in small["note"]


# --- what is typed


def test_words_behind_paper(mine):
    flag = f"--config-dir={mine}"
    one = understood(["tssl/mnist_cnn", "nmnist_t30", "seeds=3,1,3", "jobs=2", "ema=0.5", flag])
    assert one.names == ["tssl", "mnist_cnn", "nmnist_t30"] and one.overrides == ["ema=0.5"]
    assert (one.seeds, one.at_once, one.flags) == ([3, 1], 2, [flag])
    assert understood(["tssl"]).seeds is None
    assert numbers("[1,2]", "seeds=1", 0) == [1, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Usage: snnrun paper list [KEY]"),
        (["rum"], "Usage: snnrun paper list [KEY]"),
        (["run"], "Usage: snnrun paper list [KEY]"),
        (["compare"], "Usage: snnrun paper list [KEY]"),
        (["list", "tsl"], "There is no paper 'tsl'. Did you mean tssl?"),
        (["run", "tssl", "mnist"], "tssl has no row 'mnist'."),
        (["run", "tssl", "seed=1"], "seed=1: `paper` sets seed itself; write seeds=1,2,3."),
        (["run", "tssl", "experiment=x"], "experiment=x: `paper` sets experiment itself."),
        (["run", "tssl", "seeds=a"], "seeds must be whole numbers from 0, as in seeds=1,2,3;"),
        (["run", "tssl", "jobs=0"], "jobs must be whole numbers from 1, as in jobs=2; got 0."),
        (["run", "tssl", "jobs=1,2"], "jobs takes one number, got 1,2."),
        (["run", "tssl", "--fast"], "There is no flag --fast here"),
        (["compare", "tssl", "ema=0.5"], "paper compare takes no ema=0.5."),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(BadRequest) as error:
        paper.main(words)
    assert str(error.value).startswith(message)
