"""Runs are found, grouped over seeds, and told apart by as little as it takes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from snnrun.report import gather
from snnrun.report.group import Study, study
from snnrun.report.text import counted, told

WHOLE = """\
seed: 0
neuron:
  _target_: snnrun.neuron.LIF
  surrogate: ${surrogate}
  tau: 2.0
optimizer:
  betas:
  - 0.9
  - 0.999
callbacks: {}
trainer: null
"""


@pytest.fixture
def add(put, tmp_path) -> Callable[..., Path]:
    """Adds a made run to a folder."""
    count = iter(range(1000))
    return lambda seed=0, **how: put(tmp_path / str(next(count)), seed, **how)


def found(place: Path) -> Study:
    return study(gather.gather([str(place)]))


def table(seen: Study) -> dict[tuple[Any, ...], list[int]]:
    """The seeds of every group by its settings."""
    return {tuple(group.settings.values()): group.seeds for group in seen.groups}


def test_seeds_are_one_group_and_what_varied_is_a_column(add, tmp_path):
    for tau in (2.0, 3.0):
        for seed in (1, 2, 3):
            add(seed, neuron__tau=tau, optimizer__lr=0.01)
    seen = found(tmp_path)
    assert seen.columns == ["neuron.tau"]
    assert table(seen) == {(2.0,): [1, 2, 3], (3.0,): [1, 2, 3]}
    assert seen.constant == {"neuron": "lif", "dataset": "digits", "optimizer.lr": 0.01}


def test_a_default_that_was_typed_is_the_default(add, tmp_path):
    add(1), add(2, neuron__tau=2.0)
    assert table(found(tmp_path)) == {(): [1, 2]}


def test_folds_repeat_as_seeds_do(add, tmp_path):
    for fold in (0, 1, 2):
        add(0, dataset__fold=fold)
    (group,) = found(tmp_path).groups
    assert (group.n, group.folds) == (3, [0, 1, 2])
    assert group.command == "snnrun -m dataset.fold=0,1,2 seed=0"


def test_places_and_loggers_change_nothing(add, tmp_path):
    add(1), add(2, logger__csv={"save_dir": "elsewhere"}), add(3, paths__data="/data")
    assert table(found(tmp_path)) == {(): [1, 2, 3]}


def test_a_part_is_one_column_however_many_keys_it_has(add, tmp_path):
    plif = {"_target_": "snnrun.neuron.PLIF", "init_tau": 2.0, "surrogate": "${surrogate}"}
    add(1, typed=["seed=1"])
    add(1, neuron=plif, parts={"neuron": "plif"}, typed=["neuron=plif", "seed=1"])
    seen = found(tmp_path)
    assert table(seen) == {("lif",): [1], ("plif",): [1]}
    assert seen.columns == ["neuron"]


def test_what_an_experiment_sets_is_a_column_if_nothing_else_tells(add, tmp_path):
    add(1, optimizer__lr=0.1, typed=["experiment=a", "seed=1"], parts={"experiment": "a"})
    add(1, optimizer__lr=0.2, typed=["experiment=b", "seed=1"], parts={"experiment": "b"})
    assert found(tmp_path).columns == ["experiment"]
    add(1, optimizer__lr=0.3, typed=["experiment=b", "seed=1"], parts={"experiment": "b"})
    assert found(tmp_path).columns == ["experiment", "optimizer.lr"]


def test_a_key_that_is_newer_than_a_run_tells_nothing_apart(add, tmp_path):
    add(1), add(2, ema=0.0, neuron__decay=True)
    assert table(found(tmp_path)) == {(): [1, 2]}
    add(2, ema=0.9, neuron__decay=True)
    assert (
        len(found(tmp_path).groups) == 3
    )  # now it has a meaning, and nobody knows that of the first


def test_of_the_same_twice_the_later_counts(add, tmp_path):
    late, early = add(1, loss=0.5), add(1, loss=0.7)
    os.utime(early / "result.json", (1, 1))
    seen = found(tmp_path)
    assert [group.scores("val/loss") for group in seen.groups] == [{(1, 0): 0.5}]
    assert [run.folder for run in seen.replaced] == [str(early)]
    assert seen.groups[0].runs[0].folder == str(late)


def test_failures_are_told_by_their_last_line_unless_they_were_run_again(add, tmp_path):
    add(1), add(1, status="failed", error="was repaired")
    words = "ValueError: first\n  and last\nThe traceback is in log.txt."
    add(2, status="failed", error=words), add(3, status="interrupted")
    killed = add(4, status=None)
    (killed / "log.txt").write_text("epoch 1\nKilled\n")
    broken = add(5)
    (broken / "result.json").write_text('{"status": ')
    seen = found(tmp_path)
    assert sorted((run.status, run.last_words) for run in seen.failures)[:3] == [
        ("failed", "and last"),
        ("interrupted", ""),
        ("unfinished", "Killed"),
    ]
    assert [run.status for run in seen.failures].count("unreadable") == 1
    assert (seen.groups[0].n, seen.groups[0].tried) == (1, 4)


def test_trials_that_a_search_stopped_are_no_failures(add, tmp_path):
    done, lagged, other = add(1), add(2, status="interrupted"), add(3, status="interrupted")
    rows = [
        "trial,state,val/acc,directory",
        f"0,complete,90,{done.name}",
        f"1,pruned,,{lagged.name}",
    ]
    (tmp_path / "trials.csv").write_text("\n".join(rows) + "\n")
    seen = found(tmp_path)
    assert {run.folder: run.status for run in seen.failures} == {
        str(lagged): "pruned",
        str(other): "interrupted",
    }
    assert [run.folder for run in told(seen)] == [str(other)]
    assert counted(seen) == "1 run completed, 1 pruned, 1 interrupted; 1 setting"


def test_the_command_gives_these_runs_again(add, tmp_path):
    typed = [
        "experiment=a",
        "neuron.tau=2",
        "hydra.run.dir=x",
        "hparams_search=lif",
        "model.spec='15C5-P2, 3'",
        "seed=1",
        "neuron.tau=3",
    ]
    add(1, typed=typed), add(2, typed=typed)
    (group,) = found(tmp_path).groups
    spec = """'model.spec='"'"'15C5-P2, 3'"'"''"""
    assert group.command == f"snnrun -m experiment=a {spec} neuron.tau=3 seed=1,2"


def test_runs_are_looked_for_at_any_depth_and_found_once(put, tmp_path):
    inner = put(tmp_path / "a" / "b" / "seed=10")
    put(tmp_path / "a" / "b" / "seed=9", 9)
    put(inner / "plots" / "no run of its own", 3)
    places = [str(tmp_path), str(tmp_path / "a"), str(inner)]
    assert [Path(run.folder).name for run in gather.gather(places)] == ["seed=9", "seed=10"]


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        yaml.safe_dump(yaml.safe_load(WHOLE), default_flow_style=True),
        "a: |\n  text\nb: 'line\n\n  line'\nc:\n- 1\n- x: 2\n",
        "? complex\n: 1\nb: 2\n",
        "# nothing\n",
        'a: "text\nb: at the margin"\n',
    ],
)
def test_a_configuration_in_pieces_is_the_whole_one(text):
    kept = gather.sections(text).values()
    pieces = {k: v for s in kept for values in (s.settings, s.replicate) for k, v in values.items()}
    whole = gather.flat(yaml.safe_load(text) or {})
    whole.pop("", None)
    wanted = {k for k in whole if k in gather.REPLICATES or not gather.elsewhere(k)}
    assert pieces == {k: whole[k] for k in wanted}
