"""What is typed behind `snnrun paper`, and the configurations that it stands for."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snnrun.check import composed, request, without_hydra
from snnrun.config import BadRequest, Choices, file_name
from snnrun.report.collect import elsewhere
from snnrun.report.table import Paper, Row

RESULTS = Path("results")
USAGE = """\
Usage: snnrun paper list [KEY]
       snnrun paper run KEY [ROW ...] [seeds=1,2,3] [jobs=N] [key=value ...]
       snnrun paper compare KEY
"""


@dataclass
class Request:
    """What was typed behind `paper VERB`."""

    choices: Choices
    names: list[str]  # the key, then rows
    overrides: list[str]
    flags: list[str]  # that say where configurations are
    seeds: list[int] | None
    at_once: int

    @property
    def changes(self) -> list[str]:
        """The overrides that change results."""
        return [o for o in self.overrides if not elsewhere(key_of(o))]

    @property
    def places(self) -> list[str]:
        """The overrides that say where things are."""
        return [o for o in self.overrides if key_of(o).startswith(("paths", "hydra.searchpath"))]

    @property
    def resumed(self) -> list[str]:
        """The overrides that a resumed run is told anew: those of keys that change no result."""
        known = ("paths.", "dataset.", "trainer.", "keep_memory", "hydra.searchpath")
        return [o for o in self.overrides if o not in self.changes and key_of(o).startswith(known)]

    @cached_property
    def root(self) -> Path:
        """The folder of all papers' runs."""
        return Path(self.choices.compose(self.places).paths.outputs).resolve() / "papers"

    def record(self, paper: Paper, row: Row) -> Path:
        """Where the results of a row's completed runs are kept, small enough to be committed."""
        return RESULTS / "runs" / paper.key / row.name

    def folder(self, paper: Paper, row: Row, seed: int) -> Path:
        """The directory of a run: always the same, so that it can be resumed; another one where settings differ."""
        name = ",".join([f"seed={seed}", *self.changes])
        return self.root / paper.key / row.name / file_name(name)


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def understood(words: Sequence[str]) -> Request:
    """Split the words behind `paper VERB`. Raises `BadRequest`."""
    flags: list[str] = []
    names: list[str] = []
    overrides: list[str] = []
    own: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        key, equals, value = word.partition("=")
        if word in ("--config-dir", "-cd"):
            flags += ["--config-dir", next(remaining, "")]
        elif key == "--config-dir":
            flags.append(word)
        elif equals and key in ("seeds", "jobs"):
            own[key] = value
        elif equals or word[:1] in ("-", "~"):
            overrides.append(word)
        else:
            names += word.split("/", 1) if not names else [word]  # KEY/ROW is KEY ROW
    for word in overrides:
        if key_of(word) in ("seed", "hydra.run.dir", "experiment"):
            hint = "; write seeds=1,2,3" if key_of(word) == "seed" else ""
            raise BadRequest(f"{word}: `paper` sets {key_of(word)} itself{hint}.")
    choices, overrides = request([*flags, *overrides])
    seeds = numbers(own["seeds"], "seeds=1,2,3", 0) if "seeds" in own else None
    at_once = numbers(own.get("jobs", "1"), "jobs=2", 1)
    if len(at_once) > 1:
        raise BadRequest(f"jobs takes one number, got {own['jobs']}.")
    return Request(choices, names, overrides, flags, seeds, at_once[0])


def numbers(text: str, example: str, least: int) -> list[int]:
    """Whole numbers from text such as `1,2,3` or `[1,2,3]`, each once. Raises `BadRequest`."""
    try:
        found = list(dict.fromkeys(int(word) for word in text.strip("[]").split(",")))
    except ValueError:
        found = [-1]
    if min(found) < least:
        name = example.partition("=")[0]
        raise BadRequest(f"{name} must be whole numbers from {least}, as in {example}; got {text}.")
    return found


def recipe(asked: Request, row: Row) -> Any:
    """The configuration of a row, with what was typed. Raises `BadRequest`."""
    return composed(asked.choices, [*row.words, *asked.overrides], warn=False)


def plain(cfg: Any) -> dict[str, Any]:
    """A composed configuration as plain data."""
    content = OmegaConf.to_container(without_hydra(cfg), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def stored_config(path: Path) -> dict[str, Any]:
    """The configuration that a run wrote down; empty if it cannot be read."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, OmegaConfBaseException):
        return {}
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else {}


def say(message: str) -> None:
    """Tell of a problem."""
    print(message, file=sys.stderr, flush=True)
