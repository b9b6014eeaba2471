"""Sweeps as they are asked for: which directory one has, what it remembers, and how it is gone on with."""

import hashlib
import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from snnrun.check import entered, sweep_words, without_hydra
from snnrun.check import sweep as check_values
from snnrun.config import (
    BadRequest,
    Choices,
    cannot_write,
    check_types,
    file_name,
    foreign,
    parse,
    quoted,
)
from snnrun.report.collect import elsewhere
from snnrun.whole import whole

RECORD = "sweep.yaml"
# settings that say how jobs are run, not which
ORCHESTRATION = ("hydra.launcher", "hydra/launcher", "hydra.mode", "hydra.verbose", "hydra.run.")
ORCHESTRATION += ("hydra.sweep.", "hydra.sweeper.n_trials", "hydra.searchpath", "hydra/job_logging")

# takes the place of Hydra's own sweeper; were it a default, no configuration could choose another one
GRID = "hydra/sweeper=grid"

Run = Callable[[DictConfig], int]

# what the jobs of a sweep may build that is resumed from its record; None for what was typed
ALLOWED: ContextVar[frozenset[str] | None] = ContextVar("allowed", default=None)


class JobsFailed(Exception):
    """Jobs of a sweep failed, and were told of."""


# --- names


def key_of(word: str) -> str:
    """The key or group that an override sets."""
    return word.lstrip("+~").partition("=")[0]


def changes_results(word: str) -> bool:
    """Whether an override makes another run of a run."""
    key = key_of(word)
    if key.startswith(ORCHESTRATION) or word == GRID:
        return False
    return key == "seed" or not elsewhere(key)


def varied(words: Sequence[str]) -> list[str]:
    """The keys to which a sweep gives several values, in the order of names: the seed is the last."""
    keys = {o.key_or_group for o in parse(words) if o.is_sweep_override()}
    return sorted(keys, key=lambda key: (key == "seed", key))


def sweep_name(words: Sequence[str]) -> str:
    """What a sweep is called: the keys that vary, and the settings that do not, in whichever order they were typed.

    More values of the same keys belong to the same sweep.
    """
    keys = varied(words)
    fixed = [word for word in words if key_of(word) not in keys and changes_results(word)]
    return ",".join([*keys, *sorted(fixed, key=key_of)]) or "defaults"


def job_name(words: Sequence[str], keys: Sequence[str]) -> str:
    """What a job is called: the values that vary."""
    values = {key_of(word): word.lstrip("+") for word in words}
    return ",".join(values[key] for key in keys if key in values) or sweep_name(words)


# --- what a sweep remembers


def recorded(folder: Path) -> dict[str, Any]:
    """What `sweep.yaml` says: the sweep's name, what was asked for, a hash of configurations; empty without one.

    Raises `BadRequest`.
    """
    path = folder / RECORD
    try:
        content = yaml.safe_load(path.read_text())
        if not all(isinstance(word, str) for words in content["requests"] for word in words):
            raise TypeError("its requests are no words")
        return content
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise BadRequest(f"{path} cannot be read: {error!r}") from error


def record(folder: Path, content: dict[str, Any]) -> None:
    """Write `sweep.yaml`, whole or not at all. Raises `BadRequest`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / RECORD) as file:
            yaml.safe_dump(content, file, sort_keys=False, default_flow_style=None, width=1000)
    except OSError as error:
        raise BadRequest(cannot_write(folder, error)) from error


def remember(folder: Path, name: str, request: list[str], configurations: str) -> None:
    """Add a request to what a sweep was asked for. Raises `BadRequest`."""
    others = [r for r in recorded(folder).get("requests", []) if not same(r, request)]
    requests = [*others, request]
    record(folder, {"sweep": name, "requests": requests, "configurations": configurations})


def fingerprint(choices: Choices) -> str:
    """A hash of the configuration files on the search path."""
    found = hashlib.sha256()
    for source in choices.repository.get_sources():
        if source.scheme() == "file" and source.available():
            for path in sorted(Path(source.path).rglob("*.yaml")):
                found.update(str(path.relative_to(source.path)).encode() + path.read_bytes())
    return found.hexdigest()


# --- a request


def start(choices: Choices, overrides: list[str], run: Run) -> int:
    """Run a sweep, or what is left of it; returns the exit code.

    **Arguments:**

    - `choices`: where configurations are.
    - `overrides`: what was typed.
    - `run`: a run in this process, for launchers that start none; returns its exit code.

    Raises `BadRequest`, before any job is started.
    """
    master = entered(choices, overrides, multirun=True)
    trust(master)
    words = sweep_words(master, overrides)
    check_values(choices, words)
    runner = {key: master.hydra[key] for key in ("launcher", "sweeper")}
    if problems := check_types(OmegaConf.create({"hydra": runner})):
        raise BadRequest("\n".join(problems))
    name = sweep_name([*words, *(o for o in overrides if key_of(o).startswith("hydra"))])
    folder = Path(master.hydra.sweep.dir).resolve()
    if not any(key_of(o) == "hydra.sweep.dir" for o in overrides):
        folder = Path(master.paths.outputs).resolve() / "sweeps" / file_name(name)
    others = [o for o in overrides if key_of(o) != "hydra.sweep.dir"]
    if master.hydra.sweeper._target_.endswith(".BasicSweeper"):
        others.append(GRID)
    codes = [0]

    def counted(cfg: DictConfig) -> None:
        codes.append(run(cfg))

    try:
        through_hydra(choices, [*others, f"hydra.sweep.dir={quoted(folder)}"], counted)
    except JobsFailed:
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted. Go on with: snnrun resume {shlex.quote(str(folder))}", flush=True)
        return 130
    return max(codes)


def trust(cfg: DictConfig) -> None:
    """Raise `BadRequest` if a sweep that is resumed from its record names what is not on the search path."""
    allowed = ALLOWED.get()
    if allowed is not None and (refused := foreign(without_hydra(cfg), allowed)):
        raise BadRequest(
            f"This sweep wants to build {', '.join(refused)}, which is neither snnrun's own nor on your search path."
            " If you trust it, add the folder whose YAML names it: --config-dir DIR."
        )


def same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two requests are for the same jobs."""
    one, other = ([word for word in words if changes_results(word)] for words in (one, other))
    return one == other


def resume(folder: Path, choices: Choices, changes: list[str], run: Run) -> int:
    """Do what is missing of everything that a sweep was ever asked for; returns the exit code.

    **Arguments:**

    - `folder`: the sweep's directory.
    - `choices`, `run`: see `start`.
    - `changes`: settings that say how or where, not what.

    Raises `BadRequest`.
    """
    for word in changes:
        if changes_results(word):
            raise BadRequest(
                f"{word}: a sweep is resumed as it was. For other runs type another sweep."
            )
    given = {key_of(word) for word in changes}
    requests = [
        [word for word in words if key_of(word) not in given and safe(folder, word)]
        for words in recorded(folder)["requests"]
    ]
    token = ALLOWED.set(choices.targets())
    codes = [0]
    try:
        for words in requests:
            place = f"hydra.sweep.dir={quoted(folder.resolve())}"
            codes.append(start(choices, [*words, *changes, place], run))
            if codes[-1] == 130:
                break
    finally:
        ALLOWED.reset(token)
    return max(codes)


def safe(folder: Path, word: str) -> bool:
    """Whether a word of a sweep's record is taken from there. Raises `BadRequest` if it might execute something."""
    key = key_of(word)
    if key == "hydra.searchpath":  # the user's to say
        return False
    hydra = key.startswith("hydra") and not key.startswith(("hydra.launcher.", "hydra.sweeper."))
    launchers = ("process", "slurm", "ray")
    known = key == "hydra/sweeper" or word in [f"hydra/launcher={one}" for one in launchers]
    if "_target_" in word or (hydra and not known):
        raise BadRequest(
            f"{folder / RECORD} says {word}, which is not taken from a file. If you trust it, type the sweep again."
        )
    return True


def through_hydra(
    choices: Choices, overrides: list[str], run: Callable[[DictConfig], None]
) -> None:
    """Let Hydra's sweeper and launcher do their work. Raises `JobsFailed`, `BadRequest`, `KeyboardInterrupt`."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2("snnrun", choices.path).multirun("train", run, overrides)
    except HydraException as error:
        raise BadRequest(str(error)) from error
    finally:
        GlobalHydra.instance().clear()
