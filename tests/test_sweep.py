"""Sweeps as they are asked for: names, what is remembered, what is taken from a file."""

import pytest

from snnrun.config import BadRequest, Choices
from snnrun.sweep import (
    changes_results,
    fingerprint,
    job_name,
    recorded,
    remember,
    resume,
    safe,
    same,
    sweep_name,
    varied,
)


def test_a_sweep_is_called_by_what_varies_and_what_does_not():
    words = ["neuron.tau=1.5,2,4", "rule=bptt,tssl", "seed=1,2,3", "dataset=digits", "ema=0.5"]
    assert varied(words) == ["neuron.tau", "rule", "seed"]
    name = "neuron.tau,rule,seed,dataset=digits,ema=0.5"
    assert sweep_name(words) == sweep_name(words[::-1]) == name
    more = ["neuron.tau=8,16", "rule=tssl,bptt", "seed=range(1,9)", *words[3:]]
    assert sweep_name(more) == name  # other values of the same keys
    assert sweep_name([*words, "paths.data=there", "logger=[]", "hydra.launcher.jobs=3"]) == name
    assert sweep_name([*words[:2], "seed=1", *words[3:]]) != name
    assert sweep_name([]) == "defaults"


def test_a_job_is_called_by_its_values():
    keys = ["model.spec", "neuron.tau", "seed"]
    words = ["seed=1", "ema=0.5", "neuron.tau=1.5", "model.spec='64-32'"]
    assert job_name(words, keys) == "model.spec='64-32',neuron.tau=1.5,seed=1"
    assert job_name(["+trainer.x=1"], ["trainer.x"]) == "trainer.x=1"
    assert job_name(["ema=0.5", "seed=1"], []) == "ema=0.5,seed=1"


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        *(("seed=1", True), ("neuron.tau=2", True), ("hydra/sweeper=optuna", True)),
        *(("hydra.sweeper.n_trials=9", False), ("hydra.launcher.jobs=2", False)),
        *(("paths.data=x", False), ("logger=[csv]", False), ("hydra.sweep.dir=x", False)),
    ],
)
def test_settings_that_say_how_and_where_change_no_result(word, changes):
    assert changes_results(word) == changes


def test_requests_are_remembered_each_once(tmp_path):
    remember(tmp_path, "seed", ["seed=1,2"], "abc")
    remember(tmp_path, "seed", ["seed=3", "ema=0.5"], "abc")
    remember(tmp_path, "seed", ["seed=1,2", "hydra.launcher.jobs=4"], "def")
    assert recorded(tmp_path) == {
        "sweep": "seed",
        "requests": [["seed=3", "ema=0.5"], ["seed=1,2", "hydra.launcher.jobs=4"]],
        "configurations": "def",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
    assert same(["seed=1"], ["paths.data=x", "seed=1"]) and not same(["seed=1"], ["seed=2"])


@pytest.mark.parametrize("text", ["", "requests: 3", "requests: [[1]]", "a: ["])
def test_a_record_that_cannot_be_read(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(BadRequest, match=r"sweep\.yaml cannot be read"):
        recorded(tmp_path)


def test_nothing_that_a_record_names_is_executed(tmp_path):
    for word in (
        *("seed=1,2", "hydra.launcher.jobs=2", "hydra/sweeper=optuna", "hydra/launcher=process"),
        *("hydra/launcher=slurm", "hydra/launcher=ray"),
        *("hydra.sweeper.n_trials=3", "neuron=lif"),
    ):
        assert safe(tmp_path, word)
    assert not safe(tmp_path, "hydra.searchpath=[there]")
    for word in (
        *("loss._target_=os.system", "+rule={_target_:os.system}", "hydra/launcher=basic"),
        *("+hydra.callbacks.x._target_=os.system", "hydra/job_logging=x", "hydra.run.dir=x"),
        "hydra.launcher._target_=x",
    ):
        with pytest.raises(BadRequest, match="not taken from a file"):
            safe(tmp_path, word)


def test_a_target_that_comes_from_elsewhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUNNING", "{_target_: os.getcwd}")
    words = ["seed=1,2", "+rule.more='${oc.decode:${oc.env:CUNNING}}'"]
    remember(tmp_path, sweep_name(words), words, "")
    with pytest.raises(BadRequest, match=r"wants to build os\.getcwd"):
        resume(tmp_path, Choices(), [], lambda cfg: pytest.fail("it ran"))


def test_a_sweep_is_resumed_as_it_was(tmp_path):
    remember(tmp_path, "seed", ["seed=1,2"], "")
    with pytest.raises(BadRequest, match=r"^seed=3: a sweep is resumed as it was\."):
        resume(tmp_path, Choices(), ["seed=3"], lambda cfg: 0)


def test_a_run_in_this_process_that_fails_is_a_job_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("snnrun.sweep.through_hydra", lambda choices, words, run: run(None))
    remember(tmp_path, "seed", ["seed=1,2"], "")
    assert [resume(tmp_path, Choices(), [], lambda cfg, c=c: c) for c in (0, 1)] == [0, 1]


def test_the_fingerprint_is_that_of_the_files(tmp_path):
    option = tmp_path / "neuron" / "mine.yaml"
    option.parent.mkdir()
    option.write_text("a: 1\n")
    choices = Choices([str(tmp_path)])
    before = fingerprint(choices)
    assert before == fingerprint(choices) != fingerprint(Choices())
    option.write_text("a: 2\n")
    assert fingerprint(choices) != before
