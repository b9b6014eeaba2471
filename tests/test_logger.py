"""metrics.csv: rows are appended, new columns appear, and only rows beyond a checkpoint ever go."""

import csv
import os

import pytest

from snnrun.logger import CSV, known_id, numbers, sweep


@pytest.fixture
def logger(tmp_path):
    return CSV(str(tmp_path))


def test_the_file_after_two_rows(logger, tmp_path):
    logger.log_metrics({"epoch": 0, "val/acc": 50.0}, step=10)
    logger.log_metrics({"epoch": 1, "val/acc": 62.5}, step=20)
    assert logger.path == tmp_path / "metrics.csv"
    assert logger.path.read_text() == "step,epoch,val/acc\n10,0,50.0\n20,1,62.5\n"


def test_rows_are_appended_not_rewritten(logger):
    logger.log_metrics({"a": 1.0}, step=1)
    place = os.stat(logger.path).st_ino
    logger.log_metrics({"a": 2.0}, step=2)
    assert os.stat(logger.path).st_ino == place


def test_another_process_goes_on_with_the_same_file(logger, tmp_path):
    logger.log_metrics({"a": 1.0}, step=1)
    CSV(str(tmp_path)).log_metrics({"a": 2.0}, step=2)
    assert [row["a"] for row in logger.rows()] == ["1.0", "2.0"]


def test_a_new_metric_becomes_a_column_and_a_missing_one_stays_empty(logger):
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_metrics({"a": 2.0, "b": 3.0}, step=2)
    logger.log_metrics({"b": 4.0}, step=3)
    assert logger.path.read_text() == "step,a,b\n1,1.0,\n2,2.0,3.0\n3,,4.0\n"


def test_names_with_commas_and_quotes_survive(logger):
    logger.log_metrics({'rate "a", b': 1.0}, step=1)
    logger.log_metrics({'rate "a", b': 2.0}, step=2)
    with logger.path.open(newline="") as file:
        assert [row['rate "a", b'] for row in csv.DictReader(file)] == ["1.0", "2.0"]


@pytest.mark.parametrize(("step", "kept"), [(-1, 0), (0, 0), (10, 1), (15, 1), (20, 2), (99, 3)])
def test_truncate_removes_rows_beyond_a_step_and_nothing_else(logger, step, kept):
    for number in (10, 20, 30):
        logger.log_metrics({"a": number / 3}, step=number)
    lines = logger.path.read_text().splitlines(keepends=True)
    logger.truncate(step)
    assert logger.path.read_text() == "".join(lines[: kept + 1])


def test_truncate_leaves_a_file_alone_that_needs_nothing(logger):
    logger.log_metrics({"a": 1.0}, step=1)
    before = os.stat(logger.path)
    logger.truncate(1)
    after = os.stat(logger.path)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_truncate_without_a_file(logger):
    logger.truncate(5)
    assert not logger.path.exists()


def test_a_row_cut_off_by_a_crash_is_dropped_on_resume(logger):
    logger.log_metrics({"a": 1.0, "b": 2.0}, step=1)
    whole = logger.path.read_text()
    logger.path.write_text(whole + "2,1.")
    assert [row["step"] for row in logger.rows()] == ["1"]
    logger.truncate(1)
    assert logger.path.read_text() == whole


def test_a_row_cut_off_is_dropped_by_the_next_row_with_a_new_column(logger):
    logger.log_metrics({"a": 1.0}, step=1)
    with logger.path.open("a") as file:
        file.write("2,1.")
    logger.log_metrics({"a": 3.0, "b": 1.0}, step=3)
    assert logger.path.read_text() == "step,a,b\n1,1.0,\n3,3.0,1.0\n"


@pytest.mark.parametrize("act", ["truncate", "new column"])
def test_a_rewrite_that_fails_leaves_the_old_file(logger, tmp_path, monkeypatch, act):
    for number in (1, 2):
        logger.log_metrics({"a": 1.0}, step=number)
    before = logger.path.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snnrun.logger.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        if act == "truncate":
            logger.truncate(1)
        else:
            logger.log_metrics({"a": 1.0, "b": 2.0}, step=3)
    assert logger.path.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_hyperparameters_are_not_its_business(logger, tmp_path):
    logger.log_hyperparams({"lr": 0.1})
    assert list(tmp_path.iterdir()) == []
    assert (logger.name, logger.version, logger.save_dir) == ("csv", "", str(tmp_path))


def test_a_run_that_is_resumed_is_the_same_run(tmp_path):
    assert known_id(tmp_path) is None
    for n, name in enumerate(("run-20260101_000000-abc", "offline-run-20260102_000000-xyz")):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        os.utime(tmp_path / "wandb" / name, (n, n))
    assert known_id(tmp_path) == "xyz"


@pytest.mark.parametrize("record", ["sweep.yaml", "multirun.yaml"])
def test_a_run_of_a_sweep_is_in_its_group(record, tmp_path):
    assert sweep(tmp_path / "taus" / "tau=2") is None
    (tmp_path / "taus").mkdir()
    (tmp_path / "taus" / record).touch()
    assert sweep(tmp_path / "taus" / "tau=2") == "taus"


def test_a_result_in_numbers():
    outcome = {
        "metrics": {"test/acc": 90.0},
        "spikes": {"rate": None},
        "ops": {},
        "seconds": {"fit": 2, "test": 1.5},
        "epochs": 3,
    }
    assert numbers(outcome) == {
        "test/acc": 90.0,
        "seconds/fit": 2.0,
        "seconds/test": 1.5,
        "epochs": 3.0,
    }
