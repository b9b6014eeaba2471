"""result.json is written whole or not at all; header and footer say what they should, to the letter."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from snnrun import result
from snnrun.dataset import Digits

OUTCOME: dict[str, Any] = {
    "selection": {
        "best_val": {"epoch": 7, "train/acc": 99.0, "val/acc": 97.916, "test/acc": 96.944},
        "last": {"epoch": 50, "train/acc": 100.0, "val/acc": 97.222},
        "best_test": None,
    },
    "seconds": {"fit": 4.26, "test": 0.14},
    "samples_per_second": 15234.7,
    "spikes": {"rate": 0.12345, "layers": {"body.0": 0.12}, "silent": {"body.0": 0.128}},
    "ops": {"ac": 12345, "mac": 16384, "energy_nj": 86.5, "ann_mac": 18944, "ann_energy_nj": 87.1},
}


def test_footer_to_the_letter():
    folder = Path("outputs") / "run"
    assert result.footer(OUTCOME, folder) == [
        "best        test 96.94 %  val 97.92 %  train 99.00 %   (epoch 7, chosen on validation data)",
        "last        val 97.22 %  train 100.00 %   (epoch 50)",
        "time        4.3 s training, 0.1 s test, 15,235 samples/s",
        "firing      0.1235 spikes a neuron and step, at most 13 % of a layer silent",
        "operations  12,345 accumulates + 16,384 multiply-accumulates a sample, 86.5 nJ"
        "   (ANN: 18,944 multiply-accumulates, 87.1 nJ)",
        f"result      {folder / 'result.json'}",
        f"next        snnrun plot {folder}",
        f"            snnrun eval {folder}",
    ]


def test_footer_without_validation_data_and_without_spikes():
    outcome = {
        **OUTCOME,
        "selection": {"best_val": None, "last": {"epoch": 3, "test/acc": 80.0}, "best_test": None},
        "spikes": {"rate": None, "layers": {}, "silent": {}},
        "ops": {},
    }
    assert [line.split()[0] for line in result.footer(outcome, Path("run"))] == [
        *("last", "time", "result", "next", "snnrun"),
    ]
    assert result.footer(outcome, Path("run"))[0] == "last        test 80.00 %   (epoch 3)"


def test_footer_says_of_the_best_test_epoch_that_it_was_chosen_on_test_data():
    best_test = {"chosen_on": "test data", "epoch": 2, "train/acc": 90.0, "test/acc": 81.0}
    selection = {
        "best_val": None,
        "last": {"epoch": 3, "test/acc": 80.0},
        "best_test": best_test,
    }
    assert result.footer({**OUTCOME, "selection": selection}, Path("run"))[:2] == [
        "last        test 80.00 %   (epoch 3)",
        "best test   test 81.00 %  train 90.00 %   (epoch 2, chosen on test data:"
        " only to compare with numbers that were published so)",
    ]


def test_header():
    run: Any = SimpleNamespace(
        parts={"model": "mlp", "neuron": "lif", "rule": "bptt", "callbacks": []},
        folder=Path("outputs") / "run",
        cfg=OmegaConf.create({"seed": 3}),
    )
    learner: Any = SimpleNamespace(net=nn.Linear(64, 16), trainable=1024)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), precision="32-true"
    )
    data = Digits("nowhere", steps=4, batch_size=64)
    n = torch.get_num_threads()
    threads = "1 thread" if n == 1 else f"{n} threads"
    assert result.header(run, data, learner, trainer) == [
        "parts       model=mlp  neuron=lif  rule=bptt",
        "parameters  1,024",
        "input       1x8x8, T = 4, batch 64, 10 classes",
        f"device      cpu ({threads}), precision 32-true",
        f"directory   {Path('outputs') / 'run'}",
        "seed        3",
    ]
    learner.net.describe = lambda: "16 neurons in a row"
    lines = result.header(run, data, learner, trainer)
    assert lines[2] == "model       16 neurons in a row" and len(lines) == 7


def test_written_and_read(tmp_path):
    result.write({"status": "completed", "metrics": {"val/acc": 1.5}, "n": (1, None)}, tmp_path)
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == {"status": "completed", "metrics": {"val/acc": 1.5}, "n": [1, None]}
    assert text.endswith("}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(tmp_path, value):
    result.write({"a": value, "b": [value, {"c": value}], 3: 1.0}, tmp_path)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = (tmp_path / "result.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "a": None,
        "b": [None, {"c": None}],
        "3": 1.0,
    }


@pytest.mark.parametrize("fails", ["json.dump", "os.fsync"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, fails):
    result.write({"status": "interrupted"}, tmp_path)
    before = (tmp_path / "result.json").read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"snnrun.result.{fails}", fail)
    with pytest.raises(OSError, match="No space"):
        result.write({"status": "completed"}, tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    result.write({"status": "interrupted"}, tmp_path)
    with pytest.raises(TypeError):
        result.write({"status": "completed", "bad": object()}, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == {"status": "interrupted"}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_an_unfinished_run_says_why():
    run: Any = SimpleNamespace(
        parts={"neuron": "lif"}, overrides=["seed=4"], cfg=OmegaConf.create({"seed": 4})
    )
    outcome = result.unfinished(run, "failed", "It broke.")
    assert (outcome["status"], outcome["error"]) == ("failed", "It broke.")
    assert (outcome["parts"], outcome["overrides"]) == ({"neuron": "lif"}, ["seed=4"])
    assert (outcome["seed"], outcome["metrics"]) == (4, {})
    assert {"versions", "git", "hardware"} <= set(outcome)


def test_surroundings_name_versions_commit_and_hardware():
    found = result.surroundings()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "snnrun", "lightning", "numpy"} <= set(found["versions"])
    assert set(found["git"]) == {"commit", "dirty"}
    assert set(found["hardware"]) == {"cpu", "cores", "threads", "accelerator"}
    assert found["hardware"]["cores"] >= 1


def test_peak_memory_is_in_bytes_and_covers_what_is_held():
    held = torch.ones(30_000_000)  # 120 MB
    assert held.nbytes < result.peak_memory() < 2**40
