"""The table of traits, and what is said of parts that do not fit or have no effect."""

from pathlib import Path

import pytest

from snnrun.check import composed, without_hydra
from snnrun.config import GROUPS, BadRequest, Choices, group_defaults
from snnrun.fit import TRAITS, having, ignored, traits
from snnrun.source import Definition, definition

CHOICES = Choices()


def definitions() -> list[Definition]:
    """Of every option of every group that makes a run."""
    return [
        found
        for group in GROUPS
        for option in CHOICES.options(group)
        if isinstance(target := CHOICES.load(group, option).get("_target_"), str)
        and (found := definition(target))
    ]


def words(*kinds: str) -> set[str]:
    """All words of these kinds, those that hang on a setting too."""
    literals = [found.literals for found in definitions()]
    fixed = {word for literal in literals for kind in kinds for word in literal.get(kind, ())}
    conditional = {
        word
        for literal in literals
        for kind in kinds
        for some in literal.get(f"{kind}_if", {}).values()
        for word in some
    }
    return fixed | conditional


def test_every_used_word_is_in_the_table():
    assert words("traits", "needs") - set(TRAITS) == set()


def test_every_word_of_the_table_is_used_by_a_part():
    assert set(TRAITS) - words("traits", "needs") == set()


def test_every_need_can_be_met():
    assert words("needs") - words("traits") == set()


@pytest.mark.parametrize("found", definitions(), ids=lambda found: found.target)
def test_a_setting_that_decides_is_an_argument(found):
    for kind in ("traits_if", "needs_if"):
        assert {setting for setting, _ in found.literals.get(kind, {})} <= set(found.arguments)


def refused(*request: str, choices: Choices = CHOICES) -> str:
    with pytest.raises(BadRequest) as error:
        composed(choices, list(request))
    return str(error.value)


def test_the_defaults_fit():
    composed(CHOICES, [])


def test_a_misfit_names_the_word_and_every_option_that_has_it():
    assert refused("loss=spike_count") == (
        "loss=spike_count needs spiking_output, which none of the chosen parts has."
        "\n  readout: spike_count, spike_rate, trace_sum   (now mean)"
    )


def test_a_misfit_names_options_that_have_the_word_with_a_setting():
    message = refused("encoder=poisson", "dataset=mnist")
    assert message.startswith(
        "encoder=poisson needs intensity, which none of the chosen parts has.\n  dataset: "
    )
    assert "digits, " in message and "mnist with dataset.normalize=false" in message
    assert message.endswith("(now mnist)")
    composed(CHOICES, ["encoder=poisson", "dataset=mnist", "dataset.normalize=false"])


def test_all_misfits_are_told_at_once():
    message = refused("loss=spike_count", "encoder=poisson", "dataset=mnist")
    assert "loss=spike_count needs" in message and "encoder=poisson needs" in message


def test_wrong_types_come_before_misfits():
    assert refused("loss=spike_count", "neuron.tau=x") == "neuron.tau must be a number, got 'x'."


def test_a_users_part_is_read_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "fitlab").mkdir()
    (tmp_path / "fitlab" / "__init__.py").write_text("")
    (tmp_path / "fitlab" / "parts.py").write_text(
        "raise RuntimeError('imported')\n"
        "class Needy:\n    needs = frozenset({'mine'})\n    def __init__(self, size: int = 1): ...\n"
        "class Haver:\n    traits = frozenset({'mine', 'spikes', 'stepped'})\n"
    )
    conf = tmp_path / "conf"
    for group, name, cls in (("rule", "needy", "Needy"), ("neuron", "haver", "Haver")):
        (conf / group).mkdir(parents=True)
        (conf / group / f"{name}.yaml").write_text(f"_target_: fitlab.parts.{cls}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    choices = Choices([str(conf)])
    assert refused("rule=needy", choices=choices) == (
        "rule=needy needs mine, which none of the chosen parts has.\n  neuron: haver   (now lif)"
    )
    composed(choices, ["rule=needy", "neuron=haver"])


def test_traits_of_the_chosen_parts_together():
    plain = {"neuron": {"_target_": "snnrun.neuron.LIF", "reset": "soft"}, "seed": 1, "norm": None}
    assert traits(plain) == {"spikes", "stepped", "leaky", "soft_reset"}


def test_options_with_a_trait():
    assert [group for group, _ in having("spiking_output", CHOICES)] == ["readout"]
    assert having("nothing has this", CHOICES) == []


def warnings(*request: str, choices: Choices = CHOICES) -> list[str]:
    cfg = choices.compose(list(request))
    return ignored(without_hydra(cfg), group_defaults(cfg), list(request))


def test_a_part_without_effect_is_warned_about(capsys):
    assert warnings("neuron=li", "surrogate=triangle") == [
        "warning: surrogate=triangle has no effect: neuron=li does not use it."
    ]
    composed(CHOICES, ["neuron=li", "surrogate.alpha=3"])
    assert capsys.readouterr().err == (
        "warning: surrogate=atan has no effect: neuron=li does not use it.\n"
    )


def test_no_warning_for_what_was_not_asked_for_or_is_used():
    assert warnings("neuron=li") == []
    assert warnings("surrogate=triangle") == []
    # the head's neurons are the network's own, which read the surrogate
    assert warnings("surrogate=triangle", "readout=spike_rate") == []


@pytest.mark.parametrize("rule", ["tandem", "desire_bp", "ide"])
def test_a_rule_that_keeps_no_layers_inputs_has_nothing_to_recompute(rule):
    told = f"warning: recompute=true has no effect: rule={rule} does not use it."
    assert warnings(f"rule={rule}", "recompute=true") == [told]
    assert warnings(f"rule={rule}", "recompute=false") == []
    assert warnings("recompute=true") == []


def test_a_part_may_say_what_it_ignores(tmp_path, monkeypatch):
    (tmp_path / "deaf.py").write_text(
        'class Deaf:\n    """Own gradients."""\n    ignores = frozenset({"surrogate", "loss"})\n'
    )
    conf: Path = tmp_path / "conf" / "rule"
    conf.mkdir(parents=True)
    (conf / "deaf.yaml").write_text("_target_: deaf.Deaf\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    choices = Choices([str(tmp_path / "conf")])
    assert warnings("rule=deaf", "surrogate=triangle", "+loss.x=1", choices=choices) == [
        "warning: loss=cross_entropy has no effect: rule=deaf does not use it.",
        "warning: surrogate=triangle has no effect: rule=deaf does not use it.",
    ]
