"""A run directory as a report reads it: whole, half, damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from snnrun.report.stored import Damaged, LeftOut, Stored, number


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def change(run: Path, **arrays: np.ndarray | None) -> None:
    """Rewrite arrays of the snapshot; None removes one."""
    with np.load(run / "snapshot.npz") as file:
        content = {name: file[name] for name in file.files} | arrays
    kept = {name: value for name, value in content.items() if value is not None}
    np.savez(run / "snapshot.npz", **kept)  # pyright: ignore[reportArgumentType]


def test_a_finished_run(trained):
    run, result = Stored(trained), json.loads((trained / "result.json").read_text())
    assert run.exists and run.problems == []
    assert run.title == "model=mlp neuron=lif rule=bptt dataset=digits"
    best = result["selection"]["best_val"]
    assert run.headline == best and run.test == best["test/acc"]
    assert run.chosen == (
        best["epoch"],
        f"epoch {best['epoch']}, chosen on validation data",
    )
    assert run.history["epoch"].tolist() == [0, 1]
    assert run.history["val/acc"][best["epoch"] - 1] == pytest.approx(best["val/acc"])
    right = (run.snapshot["label"] == run.snapshot["predicted"]).mean()
    assert 100 * right == pytest.approx(run.test)
    assert {name: s.shape for name, s in run.layers.items()} == {"body.0": (4, 4, 100)}
    assert run.fired["body.0"].shape == (4, 100)
    label, predicted = run.snapshot["label"][0], run.snapshot["predicted"][0]
    assert run.sample == f"test sample with label {label}, predicted {predicted}"


@pytest.mark.parametrize("kept", [".hydra/config.yaml", "metrics.csv", "snapshot.npz"])
def test_any_file_of_a_run_makes_it_one(kept, trained, tmp_path):
    assert not Stored(tmp_path).exists
    (tmp_path / kept).parent.mkdir(exist_ok=True)
    shutil.copy(trained / kept, tmp_path / kept)
    assert Stored(tmp_path).exists


def test_the_title_of_a_run_without_result(run):
    (run / "result.json").unlink()
    assert Stored(run).title == "model=mlp neuron=lif rule=bptt dataset=digits (unfinished)"
    shutil.rmtree(run / ".hydra")
    assert Stored(run).title == "run (unfinished)"
    (run / "result.json").write_text('{"status": "failed"}')
    assert Stored(run).title == "run (failed)"


def test_without_validation_data_the_last_epoch_is_chosen(run):
    result = json.loads((run / "result.json").read_text())
    result["selection"]["best_val"] = None
    (run / "result.json").write_text(json.dumps(result))
    assert Stored(run).chosen == (2, "epoch 2, the last")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ufffd"])
def test_a_damaged_result_is_a_problem_one_can_do_without(text, run):
    (run / "result.json").write_text(text)
    stored = Stored(run)
    assert (stored.result, stored.headline, stored.chosen, stored.test) == ({}, {}, None, None)
    (problem,) = stored.problems
    assert problem.startswith(f"{run}/result.json cannot be read: ")


def test_metrics_may_have_gaps_and_a_row_cut_off(run):
    (run / "metrics.csv").write_text(
        "step,epoch,val/acc,train/loss\n1,0,50.0,\n2,1,nan,x\n3,,1,1\n4,2,7"
    )
    history = Stored(run).history
    assert history["epoch"].tolist() == [0, 1]
    assert history["val/acc"][0] == 50 and np.isnan(history["val/acc"][1])
    assert np.isnan(history["train/loss"]).all()


@pytest.mark.parametrize("text", ["", "step,epoch\n", "step,epoch\n1,", "\0\1\2\n"])
def test_metrics_without_an_epoch(text, run):
    (run / "metrics.csv").write_text(text)
    with pytest.raises(LeftOut) as error:
        _ = Stored(run).history
    assert str(error.value) == f"{run}/metrics.csv has no finished epoch"
    (run / "metrics.csv").unlink()
    with pytest.raises(LeftOut, match=r"metrics\.csv does not exist"):
        _ = Stored(run).history


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"label": None}, "there is no array label"),
        ({"out": np.zeros((0, 4, 10))}, "out has the shape (0, 4, 10)"),
        ({"spikes/body.0": np.zeros((4, 4))}, "spikes/body.0 has the shape (4, 4)"),
        ({"label": np.zeros(3, int)}, "3 labels and 360 predictions"),
        ({"predicted": np.full(360, 10)}, "predicted holds other values than classes 0 to 9"),
        ({"label": np.zeros(360)}, "label holds other values than classes 0 to 9"),
    ],
)
def test_a_snapshot_of_something_else(arrays, reason, run):
    change(run, **arrays)
    with pytest.raises(Damaged) as error:
        _ = Stored(run).snapshot
    assert str(error.value) == f"{run}/snapshot.npz cannot be read: {reason}"


def test_a_pickle_in_a_snapshot_is_not_loaded(run):
    change(run, out=np.array([[[{"a": 1}]]], dtype=object))
    with pytest.raises(Damaged, match="allow_pickle=False"):
        _ = Stored(run).snapshot


def test_a_network_that_does_not_spike(run):
    change(run, **{"spikes/body.0": None})
    with pytest.raises(LeftOut, match="no layer spikes"):
        _ = Stored(run).layers


@pytest.mark.parametrize(("cell", "value"), [("1.5", 1.5), ("-2", -2), ("1e3", 1000)])
def test_numbers(cell, value):
    assert number(cell) == value


@pytest.mark.parametrize("cell", ["", "x", "nan", "inf", "-inf", "1,5"])
def test_what_is_no_number(cell):
    assert np.isnan(number(cell))
