"""`snnrun eval` on a file of weights, published ones too, in this process."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from snnrun.check import composed, without_hydra
from snnrun.cli import main
from snnrun.config import Choices
from snnrun.model.keymap import to_published
from snnrun.run import build

NET = ("model=sew_resnet", "dataset.steps=2", "trainer.accelerator=cpu", "keep_memory=false")


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    return build(without_hydra(composed(Choices(), NET)))[1]


@pytest.fixture
def file(learner, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    state = to_published(learner.net, "original")
    arguments = argparse.Namespace(T=2, model="sew_resnet20")
    torch.save({"model": state, "epoch": 3, "args": arguments}, "authors.pth")
    return tmp_path / "authors.pth"


def said(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["eval", *words])
    return (done.value.code, *capsys.readouterr())  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("words", [(), ("ckpt_format=original",)])
def test_a_published_file_is_tested_without_a_run(file, learner, capsys, words):
    code, out, err = said(capsys, "ckpt=authors.pth", *words, *NET)
    assert code == 0, err
    outcome = json.loads(out)
    assert (outcome["checkpoint"], outcome["format"]) == ("authors.pth", "original")
    from snnrun.dataset import Digits

    data = Digits("nowhere", steps=2, batch_size=64)
    data.setup()
    x, y = data.samples["test"][data.indices["test"].tolist()]
    learner.eval()
    with torch.no_grad():
        guess = learner.readout(learner(learner.prepare(x, train=False))).argmax(1)
    right = 100 * (guess == y).double().mean().item()
    assert outcome["metrics"]["test/acc"] == pytest.approx(right, abs=0.3)
    assert outcome["ops"]["ac"] > 0
    assert [path.name for path in file.parent.iterdir()] == ["authors.pth"]  # nothing is written


def test_a_file_of_another_architecture(file, capsys):
    code, out, err = said(capsys, "ckpt=authors.pth", *NET, "model.depth=32")
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "authors.pth is of another architecture (read as ckpt_format=original):"
    assert lines[1].startswith("  missing (60): stages.0.3.path.0.synapse.weight, ")
    assert lines[1].endswith(", and 55 more") and len(lines) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ckpt=nowhere.pth"], "There is no checkpoint nowhere.pth. Name one with ckpt=FILE."),
        (["ckpt=authors.pth", "ckpt_format=timm"], "ckpt_format must be one of auto, snnrun, "),
        (["ckpt=authors.pth", "ckpt_format=snnrun"], "authors.pth is of another architecture"),
        (["ckpt=authors.pth", "model.dpth=20"], "model.dpth=20: model has no key 'dpth'."),
    ],
)
def test_wrong_requests(file, capsys, words, message):
    code, out, err = said(capsys, *words, *NET)
    assert (code, out) == (2, "") and err.startswith(message)
