"""`rule=conversion` from the command line: one ANN, converted again and again by `snnrun eval`."""

import json
from pathlib import Path

import numpy as np
import pytest

from snnrun.cli import main

WORDS = (
    *("rule=conversion", "model=convnet", "model.spec=6C3-P2-8C3-P2", "dataset.steps=24"),
    *("trainer.max_epochs=6", "trainer.accelerator=cpu", "hydra.run.dir=run"),
)


@pytest.fixture(scope="module")
def ann(warm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conversion")
    done = warm(*WORDS, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  ANN " in done.stdout
    return folder / "run"


def said(capsys, *words: str) -> tuple[int, str, str]:
    """What the command line says, in this process."""
    with pytest.raises(SystemExit) as done:
        main(words)
    return (done.value.code, *capsys.readouterr())  # pyright: ignore[reportReturnType]


def evaluated(capsys, run: Path, *words: str) -> dict:
    code, out, err = said(capsys, "eval", str(run), *words)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_run_tells_of_the_ann_and_of_every_step(ann):
    result = json.loads((ann / "result.json").read_text())
    steps = result["accuracy_by_step"]
    assert len(steps) == 24 and steps[0] < 60
    assert steps[-1] == pytest.approx(result["metrics"]["test/acc"], abs=1e-3)
    for selected in ("best_val", "last"):
        scores = result["selection"][selected]
        assert scores["test/acc_ann"] > 70 and scores["test/acc"] > scores["test/acc_ann"] - 6
    assert set(result["spikes"]["layers"]) == {"net.body.0", "net.body.2"}
    assert 0 < result["spikes"]["rate"] < 1 and result["ops"]["ac"] > 0
    first = 64 * 6 * 9 - (4 * 5 + 4 * 6 * 3) * 6  # a convolution misses the margin
    assert abs(result["ops"]["mac"] - first) < 100  # once, whatever the number of steps
    with np.load(ann / "snapshot.npz") as picture:
        assert picture["accuracy"].tolist() == steps
        assert picture["out"].shape == (4, 24, 10)
        assert picture["spikes/net.body.0"].shape == (4, 24, 100)


@pytest.mark.parametrize(
    "words",
    [
        ("neuron=burst", "neuron.gamma=3", "dataset.steps=12"),
        ("neuron=msat", "neuron.tau_mp=0.2", "rule.confidence=[0.9]", "rule.scale=max"),
        ("rule.scale=channel", "rule.pool=gate", "rule.scale_factor=0.5"),
    ],
    ids=" ".join,
)
def test_one_ann_is_converted_in_other_ways(ann, capsys, words):
    before = {p: p.stat().st_mtime_ns for p in ann.rglob("*")}
    outcome = evaluated(capsys, ann, *words)
    result = json.loads((ann / "result.json").read_text())
    assert outcome["metrics"]["test/acc_ann"] == result["metrics"]["test/acc_ann"]
    steps = outcome["accuracy_by_step"]
    assert len(steps) == (12 if "dataset.steps=12" in words else 24)
    assert steps != result["accuracy_by_step"] and steps[-1] > 50
    assert {p: p.stat().st_mtime_ns for p in ann.rglob("*")} == before


def test_the_neuron_comes_as_the_rule_wants_it(ann, capsys):
    """A neuron that is chosen again gets the settings that rule=conversion gives to all."""
    first = evaluated(capsys, ann)
    assert evaluated(capsys, ann, "neuron=if") == first
    hard = evaluated(capsys, ann, "neuron=if", "neuron.reset=hard")
    assert hard["accuracy_by_step"] != first["accuracy_by_step"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("neuron=isf",), "neuron=isf: there is no such neuron. Did you mean if"),
        (("neuron=burst", "neuron.gama=2"), "neuron.gama=2: Key 'gama' is not in struct"),
        (("model=sew_resnet",), "model=sew_resnet: this option of model sets more than model"),
        (("neuron=li",), "rule=conversion needs integrating, which none of the chosen parts has."),
        (("neuron.threshold=0.5",), "rule=conversion sets the threshold of every neuron"),
        (
            ("test_every_epoch=true",),
            "test_every_epoch=true scores the network that is being trained",
        ),
        (("rule.activation=qcfs",), "{run}/checkpoints/best.ckpt is of another architecture"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit(ann, capsys, words, message):
    code, out, err = said(capsys, "eval", str(ann), *words)
    assert (code, out) == (2, "")
    assert err.startswith(message.format(run=ann)), err
