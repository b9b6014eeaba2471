"""Composition, messages on wrong words, type checks, factories, fresh directories."""

import inspect
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from snnrun.check import composed, request, without_hydra
from snnrun.config import (
    BadRequest,
    Choices,
    Factory,
    cannot_write,
    check_types,
    claim,
    closest,
    factory,
    foreign,
    group_defaults,
    instantiate,
    parse,
)
from snnrun.neuron import LIF, PLIF
from snnrun.surrogate import ATan, Sigmoid

CHOICES = Choices()


def refused(*words: str, choices: Choices = CHOICES) -> str:
    with pytest.raises(BadRequest) as error:
        choices.compose(list(words))
    return str(error.value)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A configuration folder of a user, with a rule that brings defaults, a neuron and nested experiments."""
    files = {
        "rule/mine.yaml": """
            # @package _global_
            defaults:
              - override /neuron: plif
              - override /encoder: poisson
              - _self_
            optimizer: {lr: 5e-4}
            trainer: {gradient_clip_val: 1.0}
            rule: {_target_: snnrun.rule.BPTT, truncate: 2}
        """,
        "neuron/third.yaml": "{_target_: snnrun.neuron.IF, surrogate: '${surrogate}'}",
        "experiment/a_paper/a_row.yaml": """
            # @package _global_
            defaults:
              - override /rule: mine
              - override /neuron: alif
              - _self_
            seed: 7
        """,
        "experiment/a_paper/deeper/row.yaml": "# @package _global_\nseed: 8\n",
    }
    for name, text in files.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(inspect.cleandoc(text) + "\n")
    return tmp_path / "conf"


# --- words that are wrong


def test_a_mistyped_option():
    assert refused("neuron=lfi") == (
        "neuron=lfi: there is no such neuron. Did you mean lif or li?"
        f"\n  neuron: {', '.join(CHOICES.options('neuron'))}"
    )


def test_a_mistyped_group():
    assert refused("nueron=lif") == (
        "nueron=lif: there is no group or key 'nueron'. Did you mean neuron?"
    )


def test_a_mistyped_key():
    assert refused("neuron.tua=3") == (
        "neuron.tua=3: neuron has no key 'tua'. Did you mean neuron.tau?"
        "\n  neuron: surrogate, tau, threshold, reset, reset_value, decay_input, detach_reset,"
        " learnable, per_channel"
    )


def test_a_key_of_an_option_that_is_chosen_in_the_same_request():
    assert CHOICES.compose(["model=convnet", "model.spec=8C3"]).model.spec == "8C3"
    assert refused("model=mlp", "model.pool=max").startswith(
        "model.pool=max: model has no key 'pool'."
    )


def test_a_key_below_a_value():
    assert refused("seed.x=1") == "seed.x=1: seed has no key 'x'."


def test_all_wrong_words_are_told_at_once():
    lines = refused("neuron=lfi", "rule=bppt").splitlines()
    assert [line for line in lines if "there is no such" in line] == [
        "neuron=lfi: there is no such neuron. Did you mean lif or li?",
        "rule=bppt: there is no such rule. Did you mean bptt?",
    ]
    lines = refused("neuron.tua=3", "sed=1").splitlines()
    assert lines[0].startswith("neuron.tua=3: ") and lines[2].startswith("sed=1: ")


def test_a_wrong_option_among_several():
    assert refused("logger=[csv,wandv]").startswith(
        "logger=wandv: there is no such logger. Did you mean wandb?"
    )
    with pytest.raises(BadRequest, match="neuron=x: there is no such neuron"):
        CHOICES.compose(["neuron=lif,x"], multirun=True)


@pytest.mark.parametrize("group", ["logger", "callbacks"])
def test_null_where_hydra_would_end_in_a_traceback(group):
    assert refused(f"{group}=null") == (
        f"{group}=null is not possible; write '{group}=[]' for none."
    )
    assert not CHOICES.compose([f"{group}=[]"]).get(group)


def test_words_without_a_value():
    with pytest.raises(BadRequest, match=r"Settings are written key=value; `snnrun --help`"):
        parse(["neuron"])


def test_a_key_may_be_added_with_a_plus():
    assert CHOICES.compose(["+note=hello"]).note == "hello"


def test_closest_names():
    assert closest("lfi", ["lif", "alif", "li"]) == " Did you mean lif or li?"
    assert closest("tua", ["tau"], prefix="neuron") == " Did you mean neuron.tau?"
    assert closest("xyz", ["tau"]) == ""


# --- the search path


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BadRequest) as error:
        Choices([str(tmp_path / "none")])
    assert str(error.value) == f"--config-dir: there is no folder {tmp_path / 'none'}."


@pytest.mark.parametrize("how", ["--config-dir", "--config-dir=", "hydra.searchpath"])
def test_a_users_options_are_found(folder, how):
    words = {
        "--config-dir": ["--config-dir", str(folder)],
        "--config-dir=": [f"--config-dir={folder}"],
        "hydra.searchpath": [f"hydra.searchpath=['file://{folder}']"],
    }[how]
    choices, overrides = request([*words, "neuron=third"])
    assert "third" in choices.options("neuron") and "lif" in choices.options("neuron")
    assert choices.compose(overrides).neuron._target_ == "snnrun.neuron.IF"
    assert choices.file("neuron", "third") == folder / "neuron" / "third.yaml"


def test_a_rules_defaults_hold_unless_the_request_says_otherwise(folder):
    choices = Choices([str(folder)])
    cfg = choices.compose(["rule=mine"])
    assert (cfg.neuron._target_, cfg.encoder._target_) == (
        "snnrun.neuron.PLIF",
        "snnrun.encoder.Poisson",
    )
    assert (cfg.optimizer.lr, cfg.trainer.gradient_clip_val, cfg.rule.truncate) == (5e-4, 1.0, 2)
    assert cfg.optimizer.weight_decay == 0.01  # the rest of the group stays
    assert group_defaults(cfg)["neuron"] == "plif" and group_defaults(cfg)["rule"] == "mine"
    words = ["rule=mine", "neuron=if", "optimizer.lr=0.3", "optimizer=sgd"]
    for order in (words, words[::-1]):
        cfg = choices.compose(order)
        assert cfg.neuron._target_ == "snnrun.neuron.IF" and cfg.optimizer.lr == 0.3
        assert cfg.encoder._target_ == "snnrun.encoder.Poisson"


def test_an_experiment_wins_over_the_rule_it_chooses_and_the_request_over_both(folder):
    choices = Choices([str(folder)])
    cfg = choices.compose(["experiment=a_paper/a_row"])
    assert cfg.neuron._target_ == "snnrun.neuron.ALIF" and cfg.seed == 7
    assert cfg.encoder._target_ == "snnrun.encoder.Poisson" and cfg.rule.truncate == 2
    cfg = choices.compose(["experiment=a_paper/a_row", "neuron=if", "seed=9"])
    assert cfg.neuron._target_ == "snnrun.neuron.IF" and cfg.seed == 9


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 7), ("ema", 0.5), ("test", False), ("keep_memory", False), ("channels_last", False)],
)
def test_an_experiment_can_set_the_keys_of_train_yaml(folder, key, value):
    """With _self_ at the end of the defaults list, train.yaml would silently win."""
    (folder / "experiment" / "one.yaml").write_text(f"# @package _global_\n{key}: {value}\n")
    assert Choices([str(folder)]).compose(["experiment=one"])[key] == value


def test_nested_experiments_are_options_by_their_path(folder):
    choices = Choices([str(folder)])
    assert {"a_paper/a_row", "a_paper/deeper/row"} <= set(choices.options("experiment"))
    assert choices.compose(["experiment=a_paper/deeper/row"]).seed == 8
    message = refused("experiment=a_paper/a_rwo", choices=choices)
    assert "Did you mean a_paper/a_row" in message


def test_an_option_under_the_global_package_is_read_as_its_groups_node(folder):
    choices = Choices([str(folder)])
    assert choices.load("rule", "mine") == {"_target_": "snnrun.rule.BPTT", "truncate": 2}
    assert choices.load("dataset", "digits")["_target_"] == "snnrun.dataset.Digits"


# --- what may be built


def test_targets_are_those_on_the_search_path(folder):
    (folder / "neuron" / "own.yaml").write_text("_target_: mylab.Own\n")
    assert {"snnrun.neuron.LIF", "snnrun.neuron.LI", "torch.optim.AdamW"} <= CHOICES.targets()
    assert Choices([str(folder)]).targets() - CHOICES.targets() == {"mylab.Own"}


def test_foreign_targets_are_named_wherever_they_hide():
    cfg = OmegaConf.create(
        {
            "neuron": {"_target_": "snnrun.neuron.LIF", "tau": {"_target_": "os.system"}},
            "callbacks": {"x": [{"_target_": "shutil.rmtree", "path": "${missing}"}]},
        }
    )
    assert foreign(cfg, CHOICES.targets()) == ["os.system", "shutil.rmtree"]
    assert foreign(without_hydra(CHOICES.compose([])), CHOICES.targets()) == []


# --- types


def typed(**settings: Any) -> list[str]:
    neuron = {"_target_": "snnrun.neuron.LIF", "surrogate": {"_target_": "snnrun.surrogate.ATan"}}
    return check_types(OmegaConf.create({"neuron": {**neuron, **settings}}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": "fast"}, "neuron.tau must be a number, got 'fast'."),
        ({"tau": True}, "neuron.tau must be a number, got True."),
        ({"tau": None}, "neuron.tau must be a number, got None."),
        ({"learnable": 1}, "neuron.learnable must be true or false, got 1."),
        ({"reset": "gentle"}, "neuron.reset must be hard, soft or none, got 'gentle'."),
        ({"taus": 2.0}, "neuron.taus: snnrun.neuron.LIF takes no taus. Did you mean tau?"),
    ],
)
def test_a_wrong_type_is_told_in_words(settings, message):
    assert typed(**settings) == [message]


def test_right_types_and_whole_numbers_for_numbers():
    assert typed(tau=3, threshold=0.5, reset="soft", learnable=True) == []


def test_all_wrong_types_are_told_at_once_nested_ones_too():
    cfg = OmegaConf.create(
        {
            "neuron": {
                "_target_": "snnrun.neuron.LIF",
                "tau": "x",
                "surrogate": {"_target_": "snnrun.surrogate.ATan", "alpha": "y"},
            },
            "loss": {"_target_": "snnrun.loss.Nothing"},
        }
    )
    assert check_types(cfg) == [
        "neuron.tau must be a number, got 'x'.",
        "neuron.surrogate.alpha must be a number, got 'y'.",
        "loss._target_=snnrun.loss.Nothing: there is no such class or function.",
    ]


def test_settings_of_the_run_have_types_too():
    cfg = OmegaConf.create({"seed": "x", "ema": None, "test": 1, "keep_memory": True})
    assert check_types(cfg) == [
        "seed must be a whole number, got 'x'.",
        "ema must be a number, got None.",
        "test must be true or false, got 1.",
    ]


def test_a_value_from_elsewhere_is_told_of_where_it_stands():
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1}
    tet = {"_target_": "snnrun.loss.TET", "lam": "x", "phi": "${loss.lam}"}
    assert check_types(OmegaConf.create({"loss": tet, "optimizer": sgd})) == [
        "loss.lam must be a number, got 'x'."
    ]


def test_a_value_that_is_missing_or_points_nowhere():
    assert "mandatory" in check_types(OmegaConf.create({"a": "???"}))[0].lower()
    assert "b" in check_types(OmegaConf.create({"a": "${b}"}))[0]


def test_the_length_of_the_run_may_be_left_null():
    for scheduler in ("one_cycle", "cosine"):
        composed(CHOICES, [f"scheduler={scheduler}"])


# --- building


def test_nothing_is_built_from_nothing():
    assert instantiate(None) is None
    assert instantiate(OmegaConf.create({"_target_": None})) is None
    assert factory(None) is None


def test_runtime_arguments_reach_only_those_who_take_them():
    cfg = OmegaConf.create({"_target_": "snnrun.surrogate.ATan", "alpha": 3.0})
    assert instantiate(cfg, channels=4).alpha == 3.0
    optimizer = instantiate(
        OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 0.1}),
        params=[torch.nn.Parameter(torch.ones(1))],
    )
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_what_a_runtime_argument_takes_the_place_of_is_not_built():
    """A norm cannot be built without its channels; what else the node holds still finds its interpolations."""
    cfg = CHOICES.compose(
        ["readout.norm=${norm}", "readout.neuron=${neuron}", "readout.bias=${test}"]
    )
    made = instantiate(cfg.readout, neuron=factory(cfg.readout.neuron), norm=factory(cfg.norm))
    assert made.bias is True and made.norm(3).weight.shape == (3,)
    assert cfg.readout.norm.momentum == 0.1


def test_a_part_that_refuses_says_why():
    cfg = CHOICES.compose(["neuron.tau=0.5"])
    with pytest.raises(BadRequest) as error:
        instantiate(cfg.neuron)
    assert str(error.value).startswith("LIF: tau must be above 1, got 0.5.")
    cfg = OmegaConf.create({"_target_": "snnrun.loss.TET", "lambda": 1})
    with pytest.raises(BadRequest, match=r"TET: .*unexpected keyword argument 'lambda'"):
        instantiate(cfg)


def test_a_nested_part_that_refuses_says_why():
    cfg = OmegaConf.create(
        {
            "_target_": "snnrun.neuron.LIF",
            "surrogate": {"_target_": "snnrun.surrogate.ATan", "beta": 1},
        }
    )
    with pytest.raises(BadRequest, match="beta"):
        instantiate(cfg)


def test_a_factory_builds_afresh_with_a_surrogate_of_its_own():
    build = factory(CHOICES.compose(["neuron=plif", "surrogate=sigmoid"]).neuron)
    assert build is not None
    one, two = build(3), build(3)
    assert isinstance(one, PLIF) and isinstance(one.surrogate, Sigmoid)
    assert one is not two and one.surrogate is not two.surrogate


def test_a_factory_passes_the_number_of_channels():
    build = factory(CHOICES.compose(["neuron.learnable=true", "neuron.per_channel=true"]).neuron)
    assert build is not None
    neuron = build(5)
    assert isinstance(neuron, LIF) and neuron.w is not None and neuron.w.shape == (5,)


def test_a_factory_can_be_pickled():
    build = pickle.loads(pickle.dumps(Factory(CHOICES.compose([]).neuron)))
    assert isinstance(build(2), LIF) and isinstance(build(2).surrogate, ATan)


# --- directories


def test_a_taken_name_gets_a_number(tmp_path):
    wanted = tmp_path / "new" / "run"
    assert [claim(wanted).name for _ in range(3)] == ["run", "run-2", "run-3"]
    assert all((tmp_path / "new" / name).is_dir() for name in ("run", "run-2", "run-3"))
    wanted.with_name("run-4").write_text("a file of that name")
    assert claim(wanted).name == "run-5"


def test_a_place_that_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest) as error:
        claim(tmp_path / "file" / "run")
    assert str(error.value) == (
        f"Cannot write to {tmp_path / 'file' / 'run'}: Not a directory."
        " Choose another place with paths.outputs=DIR or hydra.run.dir=DIR."
    )


@pytest.mark.skipif(sys.platform == "win32", reason="error texts are POSIX's")
def test_a_full_disk_in_words():
    text = cannot_write(Path("out"), OSError(28, "whatever"))
    assert text.startswith(f"Cannot write to out: {os.strerror(28)}.")
