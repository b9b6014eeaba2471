"""A line says what was reported beside what our runs gave, and never more than they give."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snnrun.report.collect import Found
from snnrun.report.comparison import COLUMNS, line, markdown, write
from snnrun.report.stored import Stored
from snnrun.report.table import Paper, Row

ROW = Row(
    *("small", "mine/small"),
    seeds=[1, 2],
    dataset="digits",
    network="8",
    steps=2,
    train=1437,
    test=360,
    reported={"mean": 89.75, "std": 0.03, "best": 89.8},
    status="readme",
    compare="best_test",
    band={"within": 0.3},
)


@pytest.fixture
def run(tmp_path, made, outcome):
    """Makes up a finished run, or with `result` another."""

    def make(seed: int | str, changes: list[str] | None = None, **result: Any) -> Found:
        content = result.get("result", None if "result" in result else outcome(**result))
        return Found(Stored(made(tmp_path / f"seed={seed}", {}, content)), changes or [])

    return make


def test_columns_to_the_letter():
    assert ", ".join(COLUMNS) == (
        "row, dataset, network, steps, reported_mean, reported_std, reported_best, reported_status,"
        " ours_mean, ours_std, ours_n, ours_last, ours_best_val, ours_best_test, difference,"
        " within_band, epochs, hours, hardware, commit, note"
    )
    assert set(line(ROW, [], 1, "")) == set(COLUMNS)


def test_a_row_that_was_run(run):
    found = [run(1, last=89.0, best_test=89.5), run(2, last=89.2, best_test=89.7)]
    assert line(ROW, found, 1, "") == {
        **{"row": "small", "dataset": "digits", "network": "8", "steps": "2"},
        **{"reported_mean": "89.75", "reported_std": "0.03", "reported_best": "89.80"},
        **{"reported_status": "readme", "ours_mean": "89.60", "ours_std": "0.14", "ours_n": "2"},
        **{"ours_last": "89.10", "ours_best_val": "", "ours_best_test": "89.60"},
        **{"difference": "-0.15", "within_band": "yes", "epochs": "1", "hours": "0.5"},
        **{"hardware": "A processor, 1 thread", "commit": "0123456789", "note": ""},
    }
    found = [run(3, last=89.0, best_test=89.4)]
    assert line(ROW, found, 1, "")["within_band"] == "no"


def test_a_row_that_was_never_run():
    told = line(replace(ROW, note="be careful"), [], 1, "")
    assert told["note"] == "never run; be careful"
    blank = {name for name in COLUMNS if not told[name]}
    assert blank == {
        *("ours_mean", "ours_std", "ours_n", "ours_last", "ours_best_val", "ours_best_test"),
        *("difference", "within_band", "epochs", "hours", "hardware", "commit"),
    }


def test_a_recalled_number_is_not_shown(run):
    row = replace(ROW, reported={"best": 12.34, "last": 12.34}, status="recalled", note="")
    told = line(row, [run(1, last=12.34, best_test=12.34), run(2, last=5, best_test=5)], 1, "")
    assert (told["reported_mean"], told["reported_std"], told["reported_best"]) == ("", "", "-")
    assert (told["reported_status"], told["difference"], told["within_band"]) == (
        "recalled",
        "",
        "",
    )
    assert told["note"] == ""
    text = markdown(Paper("p", "P", "", {"small": row}), [line(row, [], 1, "")])
    assert "| - | recalled |" in text and "12.34" not in text


@pytest.mark.parametrize(
    ("planned", "changes", "more", "epochs", "note"),
    [
        (100, [], {}, "1 of 100", "1 of 100 epochs"),
        (100, ["trainer.max_epochs=1 (recipe: 100)"], {}, "1 of 100", "1 of 100 epochs"),
        (1, ["optimizer.lr=1 (recipe: 2)"], {}, "1", "optimizer.lr=1 (recipe: 2)"),
        (
            *(1, [], {"data": {"train": 1000, "test": 360}}, "1"),
            "1,000 of 1,437 training samples",
        ),
    ],
)
def test_what_departs_from_the_recipe_is_said_and_not_judged(
    run, planned, changes, more, epochs, note
):
    found = [run(seed, changes, last=89.7, best_test=89.75, **more) for seed in (1, 2)]
    told = line(ROW, found, planned, "")
    assert (told["ours_mean"], told["within_band"]) == ("89.75", "not judged")
    assert (told["epochs"], told["note"]) == (epochs, note)


def test_without_a_recipe_nothing_is_judged(run):
    told = line(ROW, [run(1, last=89.7, best_test=89.75)], None, "it does not compose")
    assert told["within_band"] == "not judged" and told["epochs"] == "1"
    assert told["note"] == "without seed 2; it does not compose"


def test_runs_that_depart_do_not_touch_the_mean_of_those_that_do_not(run):
    short = run("1,trainer.max_epochs=1", last=50.0, best_test=50.0)
    found = [run(1, last=89.7, best_test=89.75, epochs=30), short]
    told = line(ROW, found, 30, "")
    assert (told["ours_mean"], told["ours_n"], told["within_band"]) == ("89.75", "1", "yes")
    assert told["note"] == (
        "without seed 2; seed=1 trainer.max_epochs=1 apart (1 of 30 epochs): 50.00"
    )
    only_short = line(ROW, [short, run("2,x", last=60, best_test=60, epochs=2)], 30, "")
    assert (only_short["ours_mean"], only_short["epochs"]) == ("60.00", "2 of 30")  # the longest


def test_failed_and_unfinished_runs_are_told_of(run):
    failed = {"status": "failed", "error": "No space.\nAt all."}
    told = line(ROW, [run(1, result=failed), run(2, result=None)], 1, "")
    assert told["note"] == "seed=1 failed: No space.; seed=2 unfinished"
    assert told["ours_n"] == told["within_band"] == ""


def test_a_best_is_compared_with_our_best_run(run):
    row = replace(ROW, reported={"best": 91.41, "last": 90.0}, band={"at_least": 89.7})
    found = [run(1, last=89.0, best_test=89.5), run(2, last=89.2, best_test=89.7)]
    told = line(row, found, 1, "")
    assert (told["ours_mean"], told["difference"], told["within_band"]) == ("89.60", "-1.71", "yes")
    assert told["note"] == "reported last epoch 90.00"


def test_the_last_epoch_with_the_last(run):
    row = replace(ROW, reported={"best": 91.0, "last": 89.0}, compare="last")
    told = line(row, [run(1, last=89.1), run(2, last=89.3)], 1, "")
    assert (told["ours_mean"], told["difference"], told["note"]) == ("89.20", "+0.20", "")


def test_runs_without_the_epoch_that_is_compared(run):
    told = line(ROW, [run(1, last=89.0), run(2, last=89.0)], 1, "")
    assert (told["ours_mean"], told["ours_n"], told["ours_last"]) == ("", "", "89.00")
    assert told["within_band"] == "" and told["note"] == "no best_test in the result"


def test_written_whole(tmp_path):
    path = tmp_path / "table.csv"
    lines = [line(replace(ROW, note='a "quoted", note'), [], 1, "")]
    write(path, lines)
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == lines
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_markdown(run):
    entry = line(replace(ROW, note="a|b"), [run(1, last=89.0, best_test=89.75)], 1, "")
    paper = Paper("p", "A table", "A place.", {"small": ROW})
    lines = markdown(paper, [entry]).splitlines()
    assert lines[0] == "# A table" and lines[2] == "A place."
    assert lines[4].count("|") == lines[5].count("|") == 19
    assert lines[6] == (
        "| small | digits | 8 | 2 | 89.75 +- 0.03, best 89.80 | readme | 89.75 | 1 | 89.00 |  |"
        " 89.75 | +0.00 | yes | 1 | 0.5 | A processor, 1 thread | 0123456789 |"
        r" without seed 2; a\|b |"
    )


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="not in fieldnames"):
        write(path, [{"nothing": "of the kind"}])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [Path(path)]
