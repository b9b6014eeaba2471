"""`new`: skeletons that fit, compose, train and pass the test that comes with them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from snnrun.check import composed, dry_run, request, without_hydra
from snnrun.config import BadRequest, Choices, check_types
from snnrun.fit import TRAITS
from snnrun.run import build
from snnrun.scaffold import KINDS, new
from snnrun.source import definition, module_of


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory that is on the path, as it is on the command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_skeleton_fits_builds_and_learns(kind, here, capsys):
    name = f"scaffolded_{kind}"
    definition.cache_clear(), module_of.cache_clear()
    assert new([kind, name]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {name}.py",
        f"wrote {Path('conf') / kind / f'{name}.yaml'}",
        f"wrote {Path('tests') / f'test_{name}.py'}",
        f"now: snnrun --config-dir conf {kind}={name}",
    ]
    choices, words = request(["--config-dir", "conf", f"{kind}={name}"])
    cfg = without_hydra(composed(choices, words))
    assert check_types(cfg) == []
    assert " parameters, " in dry_run(cfg)
    _, learner = build(cfg)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    learner.rule.backward(learner, learner.rule.loss(learner, x, y))
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in learner.net.parameters()
    )
    found = definition(f"{name}.{''.join(word.capitalize() for word in name.split('_'))}")
    assert found and found.words("traits", {}) | found.words("needs", {}) <= set(TRAITS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_test_of_a_skeleton_passes(kind, here):
    new([kind, "my_part"])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=here,
        env={"PYTHONPATH": str(here), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_settings_name_is_that_of_the_yaml(here):
    for kind in KINDS:
        new([kind, f"agreeing_{kind}"])
        choices = Choices([str(here / "conf")])
        values = choices.load(kind, f"agreeing_{kind}")
        found = definition(values["_target_"])
        assert found
        passed = {"neuron", "norm", "head", "in_shape", "num_classes"}
        assert set(values) - {"_target_"} == set(found.arguments) - passed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["neuron"], "Usage: snnrun new neuron|rule|model NAME."),
        (
            ["nueron", "x"],
            "There is no skeleton of a nueron. Did you mean neuron?"
            " Kinds are neuron, rule and model.",
        ),
        (
            ["neuron", "MyLIF"],
            "NAME must be a Python module name in lower case, such as my_neuron, got 'MyLIF'.",
        ),
        (
            ["rule", "class"],
            "NAME must be a Python module name in lower case, such as my_rule, got 'class'.",
        ),
        (["neuron", "lif"], "neuron=lif exists already; choose another name."),
    ],
)
def test_wrong_words(here, words, message):
    with pytest.raises(BadRequest) as error:
        new(words)
    assert str(error.value) == message
    assert list(here.iterdir()) == []


def test_nothing_is_overwritten(here):
    (here / "tests").mkdir()
    (here / "tests" / "test_mine.py").write_text("mine")
    with pytest.raises(BadRequest) as error:
        new(["neuron", "mine"])
    assert str(error.value) == (
        f"Nothing was written: {Path('tests') / 'test_mine.py'} exists already."
    )
    assert [path.name for path in here.rglob("*.*")] == ["test_mine.py"]
