"""`list` and `show`: what they print of snnrun's parts and of a user's."""

import re
from pathlib import Path

import pytest

from snnrun.catalogue import list_parts, sentence, show
from snnrun.config import GROUPS, BadRequest, Choices
from snnrun.source import definition

CHOICES = Choices()
GROUPS_SEEN = [g for g in CHOICES.groups if "/" not in g and g != "hydra" and CHOICES.options(g)]


def test_all_groups_with_the_defaults_marked(capsys):
    assert list_parts([]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line and line[0].isalpha()}
    assert set(lines) == set(GROUPS_SEEN)
    assert set(GROUPS) <= set(lines)
    assert "[lif]" in lines["neuron"] and "[mlp]" in lines["model"]
    assert out.count("[lif]") == 1 and "[early_stopping]" not in out
    assert out.endswith(
        "[...] is the default. snnrun list GROUP says more; snnrun show GROUP=OPTION says all.\n"
    )


@pytest.mark.parametrize("group", GROUPS_SEEN)
def test_every_option_has_a_sentence(capsys, group):
    assert list_parts([group]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == CHOICES.options(group)
    assert [o for o in CHOICES.options(group) if not sentence(CHOICES, group, o)] == []


def test_only_what_fits(capsys):
    assert list_parts(["readout", "--fits", "loss=spike_count"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["spike_count", "spike_rate"]


def test_nothing_fits(capsys):
    assert list_parts(["encoder", "--fits", "loss=spike_count"]) == 0
    assert capsys.readouterr().out == "no encoder fits loss=spike_count\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nueron"], "There is no group 'nueron'. Did you mean neuron?"),
        (["neuron", "rule"], "Usage: snnrun list [GROUP] [--fits group=option ...]."),
        (["neuron=lif"], "Usage: snnrun list [GROUP] [--fits group=option ...]."),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(BadRequest) as error:
        list_parts(words)
    assert str(error.value) == message


def test_a_mistake_in_what_must_be_fitted_is_no_misfit():
    with pytest.raises(BadRequest, match="loss=x: there is no such loss"):
        list_parts(["readout", "--fits", "loss=x"])


@pytest.mark.parametrize("option", CHOICES.options("neuron"))
def test_show_a_part(capsys, option):
    assert show([f"neuron={option}"]) == 0
    out = capsys.readouterr().out
    file = CHOICES.file("neuron", option)
    assert file and out.startswith(f"neuron={option}   {file}\n")
    found = definition(CHOICES.load("neuron", option)["_target_"])
    assert found
    for text in (found.doc, file.read_text()):
        assert all(line.strip() in out for line in text.splitlines())
    for word in found.words("traits", CHOICES.load("neuron", option)):
        assert f"is {word}: " in out


def test_show_needs(capsys):
    show(["loss=spike_count", "readout=spike_rate"])
    assert "needs spiking_output: the head fires" in capsys.readouterr().out


def test_show_the_whole_configuration(capsys):
    assert show(["neuron.tau=3"]) == 0
    out = capsys.readouterr().out
    assert "tau: 3\n" in out and "${dataset.steps}" in out and "\nhydra:" not in out


def test_a_users_part_is_listed_and_shown(capsys, tmp_path, monkeypatch):
    (tmp_path / "shown.py").write_text(
        'raise RuntimeError\nclass Mine:\n    """A neuron of mine."""\n    traits = {"stepped"}\n'
    )
    conf: Path = tmp_path / "conf" / "neuron"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("_target_: shown.Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = ["--config-dir", str(tmp_path / "conf")]
    list_parts(["neuron", *flags])
    assert re.search(r"mine +A neuron of mine\.\n", capsys.readouterr().out)
    show(["neuron=mine", *flags])
    assert "    A neuron of mine.\n" in capsys.readouterr().out
