"""Runs on disk are found, and where they differ from a recipe is said."""

import pytest

from snnrun.report.collect import Found, average, differences, elsewhere, flat, runs
from snnrun.report.stored import Stored

RECIPE = {
    "seed": 0,
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
    "trainer": {"max_epochs": 5, "accelerator": "auto"},
    "callbacks": {},
    "paths": {"data": "data", "outputs": "outputs"},
    "logger": {"csv": {"save_dir": "${hydra:runtime.output_dir}"}},
    "neuron": {"tau": 2.0, "surrogate": "${surrogate}"},
}


def changed(**nodes):
    return {k: {**v, **nodes[k]} if k in nodes else v for k, v in RECIPE.items()}


def test_flat():
    assert flat({"a": {"b": 1, "c": {}}, "d": None}) == {"a.b": 1, "a.c": {}, "d": None}


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (RECIPE, []),
        ({**RECIPE, "seed": 3, "keep_memory": False}, []),
        (changed(paths={"data": "elsewhere"}, trainer={"accelerator": "gpu"}), []),
        ({**RECIPE, "logger": {}}, []),
        (changed(optimizer={"lr": 0.2}), ["optimizer.lr=0.2 (recipe: 0.1)"]),
        (changed(optimizer={"foreach": True}), ["optimizer.foreach=True (not in the recipe)"]),
        ({**RECIPE, "neuron": {"surrogate": "${surrogate}"}}, []),  # an option that came later
        ({**RECIPE, "neuron": None}, ["no neuron.tau (recipe: 2.0)"]),
        (
            {**RECIPE, "callbacks": {"stop": {"patience": 3}}},
            ["callbacks.stop.patience=3 (not in the recipe)"],
        ),
    ],
)
def test_differences_are_those_that_change_results(stored, words):
    assert differences(stored, RECIPE)[: len(words) or None] == words


def test_what_changes_no_result():
    assert all(map(elsewhere, ("seed", "paths", "paths.data", "logger", "logger.csv.save_dir")))
    assert not any(map(elsewhere, ("dataset.split_seed", "trainer.devices", "trainer.max_epochs")))


def test_runs_are_found_by_seed(tmp_path, made):
    for name in ("seed=10", "seed=2", "seed=2,trainer.max_epochs=3", "other"):
        made(tmp_path / name, {}, {"status": "completed"} if name == "seed=10" else None)
    (tmp_path / "seed=3").mkdir()  # nothing in it
    (tmp_path / ".seed=2.lock").touch()
    found = runs(tmp_path)
    assert [(one.run.folder.name, one.seed, one.status) for one in found] == [
        ("seed=2", 2, "unfinished"),
        ("seed=2,trainer.max_epochs=3", 2, "unfinished"),
        ("seed=10", 10, "completed"),
    ]
    assert runs(tmp_path / "nowhere") == []


def test_what_a_run_says(tmp_path, made):
    result = {
        "status": "completed",
        "epochs": 2,
        "selection": {"best_val": None, "last": {"test/acc": 91.5}},
        "seconds": {"fit": 7200.0},
        "data": {"train": 7},
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "hardware": {"cpu": "A processor", "threads": 2, "accelerator": None},
    }
    one = Found(Stored(made(tmp_path / "seed=4", {}, result)))
    assert (one.seed, one.epochs, one.commit) == (4, 2, "0123456789+")
    assert (one.score("last"), one.score("best_val"), one.score("best_test")) == (91.5, None, None)
    assert (one.samples("train"), one.samples("test")) == (7, None)
    assert one.hardware == "A processor, 2 threads" and one.hours == 2

    resumed = made(tmp_path / "seed=5", {}, {**result, "hardware": {"accelerator": "A GPU"}})
    (resumed / "metrics.csv").write_text("step,epoch,seconds\n1,0,3600\n2,1,1800\n")
    one = Found(Stored(resumed))
    assert one.hours == 1.5 and one.hardware == "A GPU"  # the time before a resume counts


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "failed"}'])
def test_a_run_without_a_good_result(tmp_path, made, text):
    folder = made(tmp_path / "seed=1", {}, None)
    (folder / "result.json").write_text(text)
    one = Found(Stored(folder))
    assert one.status == ("failed" if "failed" in text else "unfinished")
    assert (one.epochs, one.score("last"), one.samples("test"), one.hours) == (0, None, None, None)
    assert (one.hardware, one.commit) == ("", "")


def test_average():
    assert average([]) == average([None]) == (None, None)
    assert average([1.0, None]) == (1.0, None)
    assert average([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
