"""Searches with Optuna, whose trials are played in this process."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

optuna = pytest.importorskip("optuna")

from snnrun.board import Board  # noqa: E402
from snnrun.config import BadRequest, parse  # noqa: E402
from snnrun.jobs import Task  # noqa: E402
from snnrun.pool import Job  # noqa: E402
from snnrun.search import (  # noqa: E402
    Search,
    Settings,
    distribution,
    grid,
    value_of,
    words,
)
from snnrun.sweep import JobsFailed  # noqa: E402

DEFAULT: dict[str, Any] = {
    "n_trials": 12,
    "sampler": "random",
    "seed": 0,
    "objectives": ["val/acc"],
    "directions": ["maximize"],
    "pruner": "none",
    "prune_after": 1,
    "storage": "journal",
}
BOTH = {"objectives": ["val/acc", "ops.ac"], "directions": ["maximize", "minimize"]}
SPACE = ("x=interval(0,1)", "y=tag(log,int(interval(1,64)))", "z=a,b")


def value(task: Task) -> dict[str, float]:
    """The values of a trial."""
    return {k: v if k == "z" else float(v) for k, v in (w.split("=") for w in task.words)}  # pyright: ignore[reportReturnType]


def peak(task: Task) -> float:
    """A score whose best is at x = 0.7."""
    return 100 - abs(value(task)["x"] - 0.7)


class Played:
    """A sweep whose jobs are played: an epoch after the other, `score` times the share that is over."""

    def __init__(self, folder: Path, score=peak, epochs=4):
        self.folder, self.score, self.epochs = folder, score, epochs
        self.master = OmegaConf.create({"trainer": {"max_epochs": epochs}})
        self.board, self.choices = Board(folder), None
        self.ran: list[Task] = []
        self.claimed: list[Task] = []
        self.stop_at: int | None = None  # the number of the job that Ctrl-C meets

    def compare(self, tasks) -> None:
        pass

    def claim(self, tasks) -> None:
        self.claimed += tasks

    def at_once(self) -> int:
        return 1

    def stream(self, tasks, at_once, *, turn, ended) -> None:
        for task in tasks:
            task.folder.mkdir(exist_ok=True)
            task.job, task.state = Job(task.name, task.folder, lambda slot: None), "running"
            stopped: list[int] = []
            task.job.stop = stopped.append
            score, rows = self.score(task), ["epoch,val/acc"]
            interrupted = self.stop_at == len(self.ran)
            for epoch in range(self.epochs):
                rows.append(f"{epoch},{score * (epoch + 1) / self.epochs}")
                (task.folder / "metrics.csv").write_text("\n".join(rows) + "\n")
                turn()
                if stopped or interrupted:
                    break
            self.ran.append(task)
            task.state = "interrupted" if stopped or interrupted else "done"
            if task.state == "done":
                result = {
                    "status": "completed",
                    "metrics": {"val/acc": score},
                    "ops": {"ac": value(task)["x"]},
                }
                (task.folder / "result.json").write_text(json.dumps(result))
            ended(task)
            if interrupted:
                raise KeyboardInterrupt


@pytest.fixture
def search(tmp_path):
    """Makes a search; the same directory is the same search."""

    def make(*space: str, score=peak, epochs=4, **settings: Any) -> Search:
        played: Any = Played(tmp_path, score, epochs)
        return Search(played, Settings(**{**DEFAULT, **settings}), space or SPACE)

    return make


def ran(search: Search) -> list[Task]:
    return search.sweep.ran  # pyright: ignore[reportAttributeAccessIssue]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- the space


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=interval(0,2)", optuna.distributions.FloatDistribution(0.0, 2.0)),
        ("a=tag(log,interval(1e-4,1))", optuna.distributions.FloatDistribution(1e-4, 1, log=True)),
        ("a=int(interval(1,9))", optuna.distributions.IntDistribution(1, 9)),
        ("a=range(2,9,3)", optuna.distributions.IntDistribution(2, 8, step=3)),
        ("a=range(9,2,-3)", optuna.distributions.IntDistribution(3, 9, step=3)),
        ("a=range(0.5,2.1,0.5)", optuna.distributions.FloatDistribution(0.5, 2.0, step=0.5)),
        ("a=1,lif,'x y',1", optuna.distributions.CategoricalDistribution(["1", "lif", "'x y'"])),
    ],
)
def test_where_values_are_drawn_from(text, wanted):
    assert distribution(parse([text])[0]) == wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a=tag(log,interval(0,1))", "low"),
        ("a=tag(log,choice(1,2))", "only intervals and ranges have a logarithm"),
        ("a=tag(lin,interval(0,1))", "there is no tag but log"),
        ("a=interval(2,1)", "low"),
    ],
)
def test_spaces_that_make_no_sense(text, told):
    with pytest.raises(BadRequest, match=told):
        distribution(parse([text])[0])


def test_every_combination():
    space = {o.key_or_group: o for o in parse(["a=range(1,4)", "b=x,y,x"])}
    assert len(grid(space)) == 6 and grid(space)[0] == {"a": 1, "b": "x"}
    with pytest.raises(BadRequest, match="a grid has no intervals"):
        grid({"a": parse(["a=interval(1,2)"])[0]})


def test_values_as_words():
    params = {"a": 0.000123456789, "b": 3, "c": "lif"}
    assert words(params) == ["a=0.000123456789", "b=3", "c=lif"]
    assert words(params, short=True) == ["a=0.0001235", "b=3", "c=lif"]


def test_numbers_of_a_result():
    result = {"metrics": {"val/acc": 97, "lost": None}, "ops": {"ac": 5}, "spikes": {"rate": None}}
    names = ("val/acc", "ops.ac", "spikes.rate", "lost", "ops", "none.at.all")
    assert [value_of(result, name) for name in names] == [97, 5, None, None, None, None]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_trials": None}, "n_trials=null means the whole grid"),
        ({"n_trials": 0}, "n_trials must be at least 1"),
        ({"objectives": ["test/acc"]}, "nothing is chosen by test data"),
        ({"objectives": []}, "must be lists of the same length"),
        ({"objectives": ["val/acc", "ops.ac"]}, "must be lists of the same length"),
        ({"directions": ["up"]}, "must be maximize or minimize, got up"),
        ({**BOTH, "pruner": "median"}, "pruner=median takes one objective, not 2"),
        ({**BOTH, "sampler": "cmaes"}, "sampler=cmaes takes one objective"),
        ({"prune_after": -1}, "prune_after must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense(settings, told):
    with pytest.raises(BadRequest, match=told):
        Settings(**{**DEFAULT, **settings})


def test_a_search_of_nothing(search):
    with pytest.raises(BadRequest, match="There is nothing to search"):
        search("x=1")


# --- the search


@pytest.mark.parametrize(
    ("sampler", "storage"), [("tpe", "journal"), ("cmaes", "journal"), ("random", "sqlite")]
)
def test_values_are_proposed_and_the_best_is_found(search, tmp_path, sampler, storage, capsys):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    one = search(*SPACE, "seed=3", sampler=sampler, storage=storage, n_trials=20)
    one.run()
    assert len(ran(one)) == 20
    for task in ran(one):
        assert task.words[0] == "seed=3"
        drawn = value(task)
        assert 0 <= drawn["x"] <= 1 and drawn["y"] in range(1, 65) and drawn["z"] in ("a", "b")
        assert task.folder.name.startswith(f"{task.number:03},x=")
    rows = table(tmp_path / "trials.csv")
    assert [row["state"] for row in rows] == ["complete"] * 20
    assert [float(row["val/acc"]) for row in rows] == pytest.approx([peak(t) for t in ran(one)])
    best = max(ran(one), key=peak)
    assert peak(best) > 99.8
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "20 of 20 trials: 20 done",
        f"best      val/acc {peak(best):.6g}   {best.name}",
        f"next      snnrun eval {best.folder}",
    ]
    assert (tmp_path / ("study.db" if storage == "sqlite" else "study.journal")).is_file()


def test_a_search_goes_on_until_its_budget_is_spent(search, capsys):
    one = search(n_trials=5)
    one.sweep.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        one.run()
    two = search(n_trials=5)
    two.run()
    assert [task.number for task in ran(two)] == [3, 4]
    stopped, gone_on = ran(one)[3], ran(two)[0]
    assert (gone_on.words, gone_on.folder) == (stopped.words, stopped.folder)
    out = capsys.readouterr().out
    assert "trials    5: 5 to run" in out
    assert "trials    5: 3 done before, 1 to go on with, 1 to run" in out
    three = search(n_trials=5)
    three.run()
    assert ran(three) == []
    four = search(n_trials=8)
    four.run()
    assert [task.number for task in ran(four)] == [5, 6, 7]
    drawn = {task.words[0] for s in (one, two, four) for task in ran(s)}
    assert len(drawn) == 8  # nothing was proposed twice


def test_a_trial_that_is_there_is_compared_before_the_search_goes_on(search):
    one = search(n_trials=2)
    one.run()
    assert one.sweep.claimed == []
    two = search(n_trials=3)
    two.run()
    assert [task.folder for task in two.sweep.claimed] == [ran(one)[0].folder]


def test_a_trial_whose_values_were_not_drawn_yet_is_lost_and_no_other(search, tmp_path):
    search().open().ask()  # the process is killed here
    for _ in range(2):
        one = search(n_trials=2)
        one.run()
        rows = table(tmp_path / "trials.csv")
        assert [(row["state"], row["directory"] == "") for row in rows] == [
            ("fail", True),
            ("complete", False),
        ]


def test_a_grid_is_walked_once(search):
    one = search("x=range(0,4)", "z=a,b", sampler="grid", n_trials=5)
    one.run()
    two = search("x=range(0,4)", "z=a,b", sampler="grid", n_trials=None)
    two.run()
    seen = [tuple(task.words) for s in (one, two) for task in ran(s)]
    assert len(ran(one)) == 5 and len(seen) == len(set(seen)) == 8


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_that_lag_behind_are_stopped(search, tmp_path, pruner):
    """The later a trial, the worse it is: those behind the first five lag."""
    one = search(
        *("x=interval(0,1)", "z=a"),
        score=lambda task: 50.0 - task.number,
        epochs=9,
        pruner=pruner,
        n_trials=20,
        prune_after=2,
    )
    one.run()
    rows = table(tmp_path / "trials.csv")
    pruned = [int(row["trial"]) for row in rows if row["state"] == "pruned"]
    assert {task.state for task in ran(one)} == {"done", "pruned"}
    assert [task.number for task in ran(one) if task.state == "pruned"] == pruned
    if pruner == "median":
        assert pruned == list(range(5, 20))
    for number in pruned:
        seen = (ran(one)[number].folder / "metrics.csv").read_text().splitlines()
        assert 2 < len(seen) < 10  # at least two epochs, and not to the end


def test_epochs_are_told_once_though_a_trial_was_interrupted(search):
    one = search("x=interval(0,1)", pruner="median", n_trials=2)
    one.sweep.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        one.run()
    two = search("x=interval(0,1)", pruner="median", n_trials=2)
    two.run()
    trials = two.study.get_trials()
    assert [sorted(trial.intermediate_values) for trial in trials] == [[0, 1, 2, 3]] * 2


def test_the_front_of_two_objectives(search, tmp_path, capsys):
    one = search(sampler="tpe", n_trials=20, **BOTH)
    one.run()
    points = {task.number: (peak(task), value(task)["x"]) for task in ran(one)}
    front = {
        n
        for n, (acc, ops) in points.items()
        if not any(a >= acc and o <= ops and (a, o) != (acc, ops) for a, o in points.values())
    }
    rows = table(tmp_path / "pareto.csv")
    assert {int(row["trial"]) for row in rows} == front and len(front) > 1
    assert len(table(tmp_path / "trials.csv")) == 20
    assert f"front     {len(front)} trials: {tmp_path / 'pareto.csv'}" in capsys.readouterr().out


def test_a_result_without_the_objective_is_a_failure(search, tmp_path):
    one = search(objectives=["spikes.rate"], directions=["minimize"], n_trials=2)
    with pytest.raises(JobsFailed):
        one.run()
    assert [row["state"] for row in table(tmp_path / "trials.csv")] == ["fail", "fail"]
    assert ran(one)[0].error == "its result.json has no number spikes.rate"


def test_another_search_in_the_same_directory(search):
    search(n_trials=1).run()
    with pytest.raises(BadRequest, match="holds a search with other objectives"):
        search(directions=["minimize"]).run()
    with pytest.raises(BadRequest, match="holds a search of another space"):
        search("x=interval(0,2)", *SPACE[1:]).run()
