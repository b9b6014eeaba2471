"""The verb `check`: words, sweeps, a dry forward pass."""

import pytest
import torch

from snnrun.check import (
    check,
    check_papers,
    composed,
    dry_run,
    outermost,
    request,
    searchpath,
    sweep,
    without_hydra,
)
from snnrun.config import BadRequest, Choices

CHOICES = Choices()


def test_words_are_split_into_search_path_and_overrides(tmp_path):
    _, overrides = request(["seed=1", "--config-dir", str(tmp_path), "neuron=lif"])
    assert overrides == ["seed=1", "neuron=lif"]


def test_an_unknown_flag():
    with pytest.raises(BadRequest) as error:
        request(["--fast"])
    assert str(error.value) == "There is no flag --fast here; `snnrun --help` lists what there is."


def test_search_path_in_both_forms():
    assert searchpath(["hydra.searchpath=[pkg://a,file://b]", "seed=1"]) == ["pkg://a", "file://b"]
    assert searchpath(["hydra.searchpath=pkg://a"]) == ["pkg://a"]
    assert searchpath(["seed=1"]) == []


def test_a_dry_run_needs_neither_data_nor_memory(tmp_path):
    words = ["dataset=cifar10", f"paths.data={tmp_path}", "model=convnet", "model.spec=100000"]
    text = dry_run(without_hydra(composed(CHOICES, words)))
    weights = 3 * 32 * 32 * 100_000 + 2 * 100_000 + 100_000 * 10 + 10  # and the norm's
    assert text == f"{weights:,} parameters, 4 steps of 3x32x32 to 10 classes"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_recordings():
    words = ["dataset=nmnist", "model=convnet", "dataset.steps=3"]
    assert dry_run(without_hydra(composed(CHOICES, words))).endswith(
        "3 steps of 2x34x34 to 10 classes"
    )


def test_a_dry_run_finds_what_a_part_refuses():
    with pytest.raises(BadRequest, match=r"ConvNet: model.spec: cannot read '15X5'"):
        dry_run(without_hydra(composed(CHOICES, ["model=convnet", "model.spec=15X5"])))


def test_a_dry_run_finds_a_readout_of_the_wrong_shape(monkeypatch):
    monkeypatch.setattr("snnrun.readout.Readout.forward", lambda self, out: out.mean(0)[:, :3])
    monkeypatch.setattr("snnrun.loss.CrossEntropy.forward", lambda self, out, y, readout: out.sum())
    with pytest.raises(BadRequest) as error:
        dry_run(without_hydra(composed(CHOICES, [])))
    assert str(error.value) == "model: the readout gives (2, 3), not (2, 10)."


def test_the_verb(capsys):
    assert check(["neuron=plif", "model.spec=8"]) == 0
    assert capsys.readouterr().out == (
        "ok: 627 parameters, 4 steps of 1x8x8 to 10 classes\n"  # 64*8 + 8, norm 16, PLIF 1, head 90
    )


@pytest.mark.slow  # continuous integration runs the command itself
def test_check_all_tells_of_every_experiment(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "experiment" / "paper"
    folder.mkdir(parents=True)
    (folder / "good.yaml").write_text("# @package _global_\nmodel: {spec: 16}\n")
    (folder / "bad.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /loss: spike_count\n  - _self_\n"
    )
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "table.yaml").write_text("rows: {row: {experiment: paper/good}}\n")
    monkeypatch.setattr("snnrun.report.table.keys", lambda choices: ["table"])
    assert check(["--all", "--config-dir", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok      experiment=paper/good: ") for line in lines)
    assert "ok      paper table/row: experiment=paper/good" in lines
    assert "FAILED  experiment=paper/bad: loss=spike_count needs spiking_output," in "".join(lines)
    total = 2 + len(Choices([str(tmp_path)]).options("experiment"))
    assert lines[-1] == f"{total - 1} of {total} requests are sound"


def test_check_all_composes_every_row_of_every_paper(capsys, tmp_path, monkeypatch):
    for name, text in (
        ("experiment/mine/small", "# @package _global_\nmodel: {spec: 16}\n"),
        (
            "paper/table",
            "rows:\n  good: {experiment: mine/small, overrides: [ema=0.5]}\n"
            "  bad: {experiment: mine/small, overrides: [loss=spike_count]}\n"
            "  later: {experiment: mine/large}\n",
        ),
        ("paper/wrong", "rows: {}\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr("snnrun.report.table.keys", lambda choices: ["table", "wrong"])
    assert check_papers(Choices([str(tmp_path)]), []) == (4, 3)
    told = capsys.readouterr().out.splitlines()
    good, bad, later, wrong = (line for line in told if " paper " in line)
    assert good == "ok      paper table/good: experiment=mine/small ema=0.5"
    assert bad.startswith("FAILED  paper table/bad: loss=spike_count needs spiking_output,")
    assert later == "FAILED  paper table/later: there is no experiment mine/large"
    assert wrong.startswith("FAILED  paper wrong: ") and wrong.endswith("it has no rows")


def test_a_sweep_is_checked_before_it_starts():
    sweep(CHOICES, ["neuron=lif,plif", "seed=1,2", "neuron.tau=2,3"])
    with pytest.raises(BadRequest, match=r"neuron.tau must be a number, got 'x'"):
        sweep(CHOICES, ["seed=1,2", "neuron.tau=2,x"])
    with pytest.raises(BadRequest, match="loss=spike_count needs spiking_output"):
        sweep(CHOICES, ["loss=cross_entropy,spike_count"])


def test_of_numbers_the_outermost_are_checked():
    assert outermost(["3", "1", "2"]) == ["1", "3"]
    assert outermost(["2", "0.5", "3", "lif", "1e-3", "4"]) == ["lif", "2", "4", "1e-3", "0.5"]
    with pytest.raises(BadRequest, match=r"seed must lie between 0 and \d+, got -1"):
        sweep(CHOICES, ["seed=3,-1,2"])


def test_the_meta_device_is_left_again():
    dry_run(without_hydra(composed(CHOICES, [])))
    assert torch.zeros(1).device.type == "cpu"
