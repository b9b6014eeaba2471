"""Whether a request makes a run: composition, fit, types, and a forward pass without data or memory."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf, read_write

from snnrun.config import GROUPS, BadRequest, Choices, check_types, group_defaults, parse
from snnrun.fit import ignored, misfits

# what a run reads without asking whether it is there
NEEDED = (*(g for g in GROUPS if g != "callbacks"), *("seed", "ema", "test", "kernel"))
NEEDED += ("channels_last", "keep_memory", "paths")


def request(words: Sequence[str]) -> tuple[Choices, list[str]]:
    """Split a verb's words into the search path and the overrides. Raises `BadRequest` for unknown flags."""
    folders, overrides, rest = [], [], iter(words)
    for word in rest:
        if word in ("--config-dir", "-cd"):
            folders.append(next(rest, ""))
        elif word.startswith("--config-dir="):
            folders.append(word.partition("=")[2])
        elif word.startswith("-"):
            raise BadRequest(f"There is no flag {word} here; `snnrun --help` lists what there is.")
        else:
            overrides.append(word)
    return Choices(folders, searchpath(overrides)), overrides


def searchpath(overrides: Sequence[str]) -> list[str]:
    """The places that `hydra.searchpath=[...]` adds."""
    for override in parse([o for o in overrides if o.startswith("hydra.searchpath")]):
        value = override.value()
        return [str(place) for place in value] if isinstance(value, list) else [str(value)]
    return []


def composed(choices: Choices, overrides: Sequence[str], *, warn: bool = True) -> DictConfig:
    """A composed and checked configuration, with warnings of parts that take no effect.

    Raises `BadRequest` with everything that is wrong.
    """
    cfg = entered(choices, overrides)
    plain, chosen = without_hydra(cfg), group_defaults(cfg)
    complain(choices, plain, chosen)
    for warning in ignored(plain, chosen, overrides) if warn else ():
        print(warning, file=sys.stderr)
    return cfg


def entered(choices: Choices, overrides: Sequence[str], *, multirun: bool = False) -> DictConfig:
    """A composed configuration, in which `${hydra:...}` has its values."""
    from hydra.core.hydra_config import HydraConfig

    cfg = choices.compose(overrides, multirun=multirun)
    with read_write(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = "."  # loggers name it; the real one is not known yet
    HydraConfig.instance().set_config(cfg)
    return cfg


def complain(choices: Choices, cfg: DictConfig, chosen: dict[str, Any]) -> None:
    """Raise `BadRequest` with all wrong types and all misfits of a configuration."""
    problems = [f"{key} is missing: a run needs it." for key in NEEDED if key not in cfg]
    problems = problems or check_types(cfg)
    if not problems and (cfg.trainer.max_epochs is None or cfg.trainer.max_epochs < 1):
        problems = [f"trainer.max_epochs must be at least 1, got {cfg.trainer.max_epochs}."]
    if not problems and not 0 <= cfg.seed < 2**32:
        problems = [f"seed must lie between 0 and {2**32 - 1}, got {cfg.seed}."]
    # what a part takes no longer was meant for another one: that this one does not fit says more
    if all(" takes no " in problem for problem in problems):
        rule = str(chosen.get("rule"))
        brought = choices.brings("rule", rule) if problems else frozenset()
        hints = {key: f" It is set by rule={rule}; '~{key}' takes it away." for key in brought}
        problems = [problem + hints.get(problem.partition(":")[0], "") for problem in problems]
        problems = [*misfits(cfg, choices, chosen), *problems]
    if problems:
        raise BadRequest("\n".join(problems))


def without_hydra(cfg: DictConfig) -> DictConfig:
    """A copy without Hydra's own node."""
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    del copy["hydra"]
    return copy


def sweep_words(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What a sweep is told: by its sweeper's configuration, then by overrides that have not to do with Hydra."""
    params = cfg.hydra.sweeper.get("params") or {}
    given = [o for o in overrides if not parse([o])[0].is_hydra_override()]
    return [*(f"{key}={value}" for key, value in params.items()), *given]


def sweep(choices: Choices, overrides: Sequence[str]) -> None:
    """Check the values of every swept key, with the first values of the others; of many numbers the outermost.

    Raises `BadRequest`.
    """
    parsed = parse(overrides, choices)
    values = {i: values_of(o) for i, o in enumerate(parsed) if o.is_sweep_override()}
    first = [
        f"{o.get_key_element()}={values[i][0]}" if i in values else str(o.input_line)
        for i, o in enumerate(parsed)
    ]
    variants = [first]
    for i, options in values.items():
        variants += [
            [*first[:i], f"{parsed[i].get_key_element()}={value}", *first[i + 1 :]]
            for value in outermost(options)
            if value != options[0]
        ]
    told: set[str] = set()
    for variant in variants:
        cfg = composed(choices, variant, warn=False)
        for warning in ignored(without_hydra(cfg), group_defaults(cfg), variant):
            if warning not in told:
                print(warning, file=sys.stderr)
            told.add(warning)


def outermost(values: Sequence[str]) -> list[str]:
    """The smallest and largest of numbers, of whole ones and of others; whatever else there is."""
    numbers: dict[type, list[str]] = {int: [], float: []}
    others = []
    for value in values:
        for kind, found in numbers.items():
            with suppress(ValueError):
                kind(value)
                found.append(value)
                break
        else:
            others.append(value)
    ends = [end(found, key=float) for found in numbers.values() if found for end in (min, max)]
    return list(dict.fromkeys([*others, *ends]))


def values_of(override: Override) -> list[str]:
    """The values of a sweep; of an interval its ends. Raises `BadRequest` if there are none."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    values = [str(v) for v in override.sweep_string_iterator()]
    if not values:
        raise BadRequest(f"{override.input_line}: there is no such value.")
    return values


def dry_run(cfg: DictConfig) -> str:
    """Build everything and send two samples through on the meta device; returns what came out in words."""
    import torch

    from snnrun.run import build

    with torch.device("meta"):
        data, learner = build(cfg)
        shape = data.shape if learner.static else (data.steps, *data.shape)
        x = torch.zeros((2, *shape))
        out = learner(x if learner.static else x.transpose(0, 1))
        logits = learner.readout(out)
        learner.criterion(out, torch.zeros(2, dtype=torch.long), readout=learner.readout)
    if tuple(logits.shape) != (2, data.num_classes):
        raise BadRequest(
            f"model: the readout gives {tuple(logits.shape)}, not {(2, data.num_classes)}."
        )
    count = sum(p.numel() for p in learner.net.parameters())
    return f"{count:,} parameters, {data.steps} steps of {'x'.join(map(str, data.shape))} to {data.num_classes} classes"


def check(words: list[str]) -> int:
    """The verb: print what a request would run, or what is wrong with it."""
    everything = "--all" in words
    choices, overrides = request([w for w in words if w != "--all"])
    if not everything:
        print(f"ok: {dry_run(without_hydra(composed(choices, overrides)))}")
        return 0
    requests = [[], *([f"experiment={name}"] for name in choices.options("experiment"))]
    failed = 0
    for wanted in requests:
        name = " ".join(wanted) or "(defaults)"
        try:
            print(
                f"ok      {name}: {dry_run(without_hydra(composed(choices, [*wanted, *overrides])))}"
            )
        except BadRequest as error:
            failed += 1
            print(f"FAILED  {name}: {error}")
    rows, unsound = check_papers(choices, overrides)
    total, failed = len(requests) + rows, failed + unsound
    print(f"{total - failed} of {total} requests are sound")
    return 2 if failed else 0


def check_papers(choices: Choices, overrides: Sequence[str]) -> tuple[int, int]:
    """Compose every row of every published table; returns how many there are, and how many fail."""
    from snnrun.report import table

    count = failed = 0
    experiments = choices.options("experiment")
    for key in table.keys(choices):
        try:
            rows = list(table.load(choices, key).rows.values())
        except BadRequest as error:
            print(f"FAILED  paper {key}: {error}")
            count, failed = count + 1, failed + 1
            continue
        for row in rows:
            count += 1
            if row.experiment not in experiments:
                failed += 1
                print(f"FAILED  paper {key}/{row.name}: there is no experiment {row.experiment}")
                continue
            try:
                composed(choices, [*row.words, *overrides], warn=False)
                print(f"ok      paper {key}/{row.name}: {' '.join(row.words)}")
            except BadRequest as error:
                failed += 1
                print(f"FAILED  paper {key}/{row.name}: {error}")
    return count, failed
