"""Training from the command line: what is printed, what is left behind, and that it can be repeated."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# the clock of directory names stands still, so that two runs start in the same second
FROZEN = """\
import sys
import snnrun.config as config
from omegaconf import OmegaConf
from snnrun.cli import main

set_up = config.setup_globals
def frozen():
    set_up()
    OmegaConf.register_new_resolver("now", lambda pattern: "then", replace=True, use_cache=False)
config.setup_globals = frozen
main(sys.argv[1:])
"""
KEYS = [
    *("status", "error", "parts", "overrides", "seed", "metrics", "selection", "epochs", "steps"),
    *("parameters", "seconds", "samples_per_second", "peak_memory_bytes", "spikes", "ops"),
    *("accuracy_by_step", "data", "versions", "git", "hardware"),
]
HEADER = """\
parts       model=mlp  neuron=lif  surrogate=atan  rule=bptt  encoder=direct  norm=batch  \
loss=cross_entropy  readout=mean  optimizer=adamw  scheduler=one_cycle  dataset=digits
parameters  19,722
input       1x8x8, T = 4, batch 64, 10 classes
device      cpu (1 thread), precision 32-true
directory   {folder}
seed        0
"""
FOOTER = r"""best        test +[\d.]+ %  val +[\d.]+ %  train +[\d.]+ %   \(epoch [12], chosen on validation data\)
last        test +[\d.]+ %  val +[\d.]+ %  train +[\d.]+ %   \(epoch 2\)
time        [\d.]+ s training, [\d.]+ s test, [\d,]+ samples/s
firing      0\.\d{4} spikes a neuron and step, at most \d+ % of a layer silent
operations  [\d,]+ accumulates \+ 16,384 multiply-accumulates a sample, [\d.]+ nJ   \(ANN: [\d,]+ .+, 87\.142 nJ\)
result      FOLDER/result\.json
next        snnrun plot FOLDER
            snnrun eval FOLDER
"""


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same_weights(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def rows(folder: Path) -> list[dict[str, str]]:
    """The metrics file without the one column that time decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def twins(place):
    """Two runs of one seed, started at the same time: folders and what was printed."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FROZEN, "trainer.max_epochs=2"],
            cwd=place,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    printed = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert err == ""
        printed.append(out)
    return [
        (Path(re.search(r"^directory +(.+)$", out, re.M)[1]), out)
        for out in sorted(printed, key=len)
    ]


@pytest.fixture(scope="module")
def folder(twins) -> Path:
    return twins[0][0]


def test_two_runs_in_one_second_get_two_folders(twins, place):
    outputs = place / "outputs"
    name = "then_mlp_bptt_digits"
    assert {folder for folder, _ in twins} == {outputs / name, outputs / f"{name}-2"}
    assert sorted(path.name for path in outputs.iterdir()) == [name, f"{name}-2"]


def test_header_epoch_lines_footer(twins):
    for folder, out in twins:
        header = HEADER.format(folder=folder)
        assert out.startswith(header)
        lines = out.removeprefix(header).splitlines()
        for number, line in enumerate(lines[:2], start=1):
            assert re.fullmatch(
                rf"epoch {number}/2  train loss \d\.\d{{4}} acc +[\d.]+ %"
                r"  val loss \d\.\d{4} acc +[\d.]+ %  rate 0\.\d{3}  [\d.]+ s",
                line,
            )
        footer = "\n".join(lines[2:]) + "\n"
        assert re.fullmatch(FOOTER.replace("FOLDER", re.escape(str(folder))), footer), footer


def test_the_log_holds_what_was_printed(twins):
    for folder, out in twins:
        dated = (folder / "log.txt").read_text().splitlines()
        messages = [re.sub(r"^[\d-]+ [\d:,]+ (INFO|WARNING|DEBUG) ", "", line) for line in dated]
        assert [m for m in messages if not m.startswith("memory that is freed")] == out.splitlines()


def test_what_a_run_leaves(folder):
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
        *("log.txt", "metrics.csv", "result.json", "snapshot.npz"),
    }


def test_result(folder):
    result = json.loads((folder / "result.json").read_text())
    assert list(result) == KEYS
    assert (result["status"], result["error"]) == ("completed", None)
    assert result["overrides"] == ["trainer.max_epochs=2"]
    assert (result["seed"], result["epochs"], result["steps"]) == (0, 2, 42)
    assert result["parts"]["neuron"] == "lif" and result["parts"]["dataset"] == "digits"
    assert {"val/acc", "val/loss", "test/acc", "test/loss"} <= set(result["metrics"])
    assert set(result["selection"]) == {"best_val", "last", "best_test"}
    assert result["selection"]["best_test"] is None
    best = result["selection"]["best_val"]
    assert result["metrics"] == {k: v for k, v in best.items() if k != "epoch"}
    data = result["data"]
    assert (data["train"], data["val"], data["test"]) == (1293, 144, 360)
    assert re.fullmatch("[0-9a-f]{64}", data["split_sha256"])
    assert set(result["seconds"]) == {"fit", "test"}
    assert set(result["spikes"]) == {"rate", "layers", "silent"}
    assert {"ac", "mac", "energy_nj", "formula"} <= set(result["ops"])
    assert result["samples_per_second"] > 0 and result["peak_memory_bytes"] > 1e7
    assert set(result["git"]) == {"commit", "dirty"}
    assert result["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_selection_is_by_validation_loss(folder):
    result = json.loads((folder / "result.json").read_text())["selection"]
    table = rows(folder)
    best = min(table, key=lambda row: float(row["val/loss"]))
    assert result["best_val"]["epoch"] == int(best["epoch"]) + 1
    for chosen, row in ((result["best_val"], best), (result["last"], table[-1])):
        assert {k: float(row[k]) for k in ("train/loss", "train/acc", "val/loss", "val/acc")} == {
            k: chosen[k] for k in ("train/loss", "train/acc", "val/loss", "val/acc")
        }


def test_metrics_have_a_row_an_epoch(folder):
    table = rows(folder)
    assert [(row["epoch"], row["step"], row["samples"]) for row in table] == [
        ("0", "21", "1293"),
        ("1", "42", "1293"),
    ]
    assert {"train/loss", "val/acc", "lr", "spikes/rate", "spikes/silent/body.0"} <= set(table[0])
    assert float(table[1]["train/loss"]) < float(table[0]["train/loss"])


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_are_plain(folder, name):
    plain = (dict, list, tuple, str, int, float, bool, type(None), torch.Tensor)

    def visit(value, place):
        assert type(value) in plain or type(value).__module__ == "collections", place
        if isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{place}/{key}")
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item, place)

    visit(torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True), name)


def test_same_seed_same_result(twins):
    (one, _), (two, _) = twins
    assert rows(one) == rows(two)
    assert same_weights(one, two)
    first, second = (json.loads((f / "result.json").read_text()) for f in (one, two))
    for key in ("metrics", "selection", "spikes", "ops", "data"):
        assert first[key] == second[key]


def test_another_seed_another_result_in_the_folder_that_was_named(snnrun, folder, tmp_path):
    named = tmp_path / "deep" / "it's mine"
    words = ("seed=1", "trainer.max_epochs=2", 'hydra.run.dir="deep/it\'s mine"')
    done = snnrun(*words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert f"\ndirectory   {named}\n" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    result = json.loads((named / "result.json").read_text())
    assert (result["status"], result["seed"]) == ("completed", 1)
    assert [row["train/loss"] for row in rows(named)] != [row["train/loss"] for row in rows(folder)]
    one, two = weights(folder), weights(named)
    assert not torch.equal(one["net.body.0.synapse.weight"], two["net.body.0.synapse.weight"])
    split = json.loads((folder / "result.json").read_text())["data"]["split_sha256"]
    assert result["data"]["split_sha256"] == split  # the split has a seed of its own

    again = snnrun(*words)
    assert again.stderr == (
        "deep/it's mine holds a run already. Go on with it: snnrun resume deep/it's mine."
        " Or choose another hydra.run.dir.\n"
    )
    assert again.returncode == 2


def test_rerun_goes_where_it_is_sent(trained, warm, tmp_path):
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "test=false")
    done = warm("rerun", str(trained), *short, "hydra.run.dir=there/${seed}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"\ndirectory   {tmp_path}/there/0\n" in done.stdout
    assert (tmp_path / "there" / "0" / "result.json").exists()
    done = warm("rerun", str(trained), *short, "hydra.run.dir=there/0", cwd=tmp_path)
    assert done.stderr.startswith("there/0 holds a run already. ")
    assert done.returncode == 2
    done = warm("rerun", str(trained), *short, "paths.outputs=other", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    (folder,) = (tmp_path / "other").iterdir()
    assert folder.name.endswith("_mlp_bptt_digits") and (folder / "result.json").exists()


def test_changes_of_a_run_that_is_resumed_are_on_record(warm, tmp_path):
    words = ("trainer.max_epochs=1", "scheduler=constant", "trainer.limit_train_batches=4")
    assert warm(*words, "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    folder = tmp_path / "run"
    (folder / "result.json").unlink()
    done = warm("resume", "run", "trainer.max_epochs=2", "surrogate=sigmoid", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] == 2 and result["parts"]["surrogate"] == "sigmoid"
    assert result["overrides"] == [*words, "trainer.max_epochs=2", "surrogate=sigmoid"]
    (folder / "result.json").unlink()
    done = warm("resume", "run", cwd=tmp_path)  # as it is now
    assert "surrogate=sigmoid" in done.stdout
    again = json.loads((folder / "result.json").read_text())
    for key in ("epochs", "overrides", "parts", "metrics"):
        assert again[key] == result[key]


def test_a_rate_that_follows_the_length_of_a_run_keeps_it(trained, warm, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    before = (tmp_path / "run" / ".hydra" / "config.yaml").read_bytes()
    done = warm("resume", "run", "trainer.max_epochs=5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "trainer.max_epochs=5: under scheduler=one_cycle the learning rate follows the length of the run, of which a"
        f" part is done. For another length: snnrun rerun {tmp_path / 'run'} trainer.max_epochs=5\n"
    )
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_bytes() == before
