"""Every YAML under conf/: it composes, matches its target's signature both ways, and builds."""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, read_write

from snnrun.check import composed, dry_run, without_hydra
from snnrun.config import CONF, GROUPS, Choices, check_types, group_defaults, instantiate
from snnrun.fit import part, traits
from snnrun.run import build

CHOICES = Choices()
OPTIONS = [
    (path.relative_to(CONF).parts[0], path.relative_to(CONF / path.relative_to(CONF).parts[0]))
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF and path.relative_to(CONF).parts[0] != "hydra"
]
OPTIONS = [(group, str(path.with_suffix(""))) for group, path in OPTIONS]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]
PARTS = [pair for pair in OPTIONS if pair[0] not in ("experiment", "paper")]
# what the runner passes to any part, and no YAML holds
RUNTIME = {"channels", "static", "in_shape", "num_classes", "head", "params", "optimizer"}
# what it passes to a part of a group, though other groups have it in their YAML
PASSED = {"model": {"neuron", "norm"}, "readout": {"neuron", "norm"}}
# settings of a data set that belong to the data, not to the class that reads it
OF_THE_DATA = {"crop", "flip"}
# what an option refuses to run without
NEEDED_VALUES = {
    ("loss", "kernel"): ["dataset.steps=5"],
    ("neuron", "rel_psp"): ["rule=stdbp"],
    ("encoder", "spike_time"): ["rule=stdbp"],
    ("readout", "first_spike"): ["rule=stdbp"],
    ("loss", "first_spike"): ["rule=stdbp"],
}


def missing(cfg: DictConfig) -> list[str]:
    """The words that parts of a configuration need and none has."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    known = {str(key): value for key, value in plain.items()}
    found = [p for group in GROUPS if (p := part(known, group))]
    return sorted({w for f in found for w in f[0].words("needs", f[1])} - traits(known))


@cache
def default_options() -> dict[str, Any]:
    return group_defaults(CHOICES.compose([]))


@cache
def compose(*words: str) -> DictConfig:
    cfg = CHOICES.compose(words)
    with read_write(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = "."
    HydraConfig.instance().set_config(cfg)
    return without_hydra(cfg)


def fitting(group: str, option: str) -> DictConfig:
    """A configuration with this option in which all parts fit, made by choosing what has the missing words."""
    chosen = f"{group}=[{option}]" if group in ("logger", "callbacks") else f"{group}={option}"
    words = [] if default_options().get(group) == option else [chosen]
    words += NEEDED_VALUES.get((group, option), [])
    for _ in range(5):
        cfg = compose(*words).copy()
        lacking = missing(cfg)
        if not lacking:
            return cfg
        other, name = next(
            (g, n)
            for g, n in PARTS
            if g in GROUPS
            and g not in {w.partition("=")[0] for w in words}
            and lacking[0] in traits({g: CHOICES.load(g, n)})
        )
        words.append(f"{other}={name}")
    raise AssertionError(f"nothing fits {group}={option}: {words} still lack {lacking}")


def nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Every node with a target, nested ones too."""
    if isinstance(content, dict):
        if content.get("_target_"):
            yield content
        for value in content.values():
            yield from nodes(value)


def imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def signature(target: str) -> tuple[dict[str, inspect.Parameter], bool]:
    """Named arguments of a class or function, those that `**kwargs` hands to its bases included."""
    thing = imported(target)
    calls = [c.__init__ for c in thing.__mro__ if "__init__" in vars(c)]
    found: dict[str, inspect.Parameter] = {}
    for call in calls if inspect.isclass(thing) else [thing]:
        own = list(inspect.signature(call).parameters.values())
        for p in own[inspect.isclass(thing) :]:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                found.setdefault(p.name, p)
        if not any(p.kind == p.VAR_KEYWORD for p in own):
            return found, False
    return found, True


def test_the_glob_sees_what_the_search_path_sees():
    assert {group for group, _ in OPTIONS} >= set(GROUPS)
    for group in {group for group, _ in OPTIONS}:
        assert [option for g, option in OPTIONS if g == group] == CHOICES.options(group)


def test_order_of_the_defaults_list():
    listed = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    names = [next(iter(entry)) for entry in listed if isinstance(entry, dict)]
    assert [name for name in names if name in (*GROUPS, "logger", "experiment")] == [
        *("surrogate", "neuron", "encoder", "norm", "loss", "readout", "task", "optimizer"),
        *("scheduler", "trainer", "callbacks", "model", "dataset", "rule", "logger", "experiment"),
    ]
    assert listed[0] == "_self_"  # so that experiments can set what train.yaml sets
    assert names[: len(GROUPS)] == list(GROUPS)


@pytest.mark.parametrize(("group", "option"), PARTS)
def test_yaml_and_signature_agree(group, option):
    for node in nodes(CHOICES.load(group, option)):
        known, more = signature(node["_target_"])
        written = {k for k in node if k != "_target_"}
        if group == "scheduler":
            written.discard("interval")  # read by the learner
        assert more or written <= set(known)
        if not node["_target_"].startswith("snnrun."):
            continue  # of a third party's many arguments, those that someone will turn
        assert written == set(known) - RUNTIME - (PASSED.get(group, set()) - written)
        for name in written:
            default = known[name].default
            given = node[name]
            if default is inspect.Parameter.empty or "${" in str(given):
                continue
            if given != default:
                assert (group, name) in {
                    *(("dataset", n) for n in OF_THE_DATA),
                    ("readout", "reduce"),
                    ("readout", "neuron"),
                }, f"{group}={option}: {name} is {given!r} in the YAML and {default!r} in the code"


@pytest.mark.parametrize(("group", "option"), PARTS)
def test_option_composes_and_builds(group, option, tmp_path):
    cfg = fitting(group, option)
    assert check_types(cfg) == []
    if group not in GROUPS:
        for node in (cfg.get(group) or {}).values():
            if isinstance(node, DictConfig) and "_target_" in node:
                node.save_dir = str(tmp_path)
                assert type(instantiate(node)) is imported(node._target_)
        return
    assert " parameters, " in dry_run(cfg)
    with torch.device("meta"):
        _, learner = build(cfg)
        optimizer = learner.make_optimizer(learner.rule.param_groups(learner.net))
        if learner.make_scheduler:
            learner.make_scheduler(optimizer, 10)
        for node in cfg.get("callbacks", {}).values():
            instantiate(node)


@pytest.mark.parametrize(
    "experiment",
    # continuous integration runs `snnrun check --all`, which does the same for each of them
    [e if e.startswith("demo/") else pytest.param(e, marks=pytest.mark.slow) for e in EXPERIMENTS],
)
def test_experiment_passes_check(experiment):
    assert " parameters, " in dry_run(
        without_hydra(composed(CHOICES, [f"experiment={experiment}"]))
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_says_what_it_is_and_how_to_run_it(experiment):
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    assert any(f"snnrun experiment={experiment}" in line for line in header)
