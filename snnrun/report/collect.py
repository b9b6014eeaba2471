"""Runs on disk: which there are, what became of them, how their settings differ from a recipe, and their mean."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from snnrun.report.stored import LeftOut, Stored

KEPT = (".hydra/config.yaml", "result.json")  # of a run on record
SELECTIONS = ("best_val", "last", "best_test")
# settings that change no result: where things are, what is told of them, and which machine computes
ELSEWHERE = (
    *("seed", "paths.", "hydra.", "logger.", "keep_memory", "recompute", "trainer.accelerator"),
    *("dataset.root", "dataset.num_workers", "dataset.download", "dataset.cache"),
)


def elsewhere(key: str) -> bool:
    """Whether a setting changes no result; `logger` and `paths` as groups too."""
    return f"{key}.".startswith(ELSEWHERE) or key.startswith(ELSEWHERE)


@dataclass
class Found:
    """A run directory and how it differs from what was meant.

    **Arguments:**

    - `run`: its files.
    - `changes`: settings that differ from the recipe, in words.
    """

    run: Stored
    changes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int | None:
        """The seed, which the directory's name says."""
        found = re.match(r"seed=(\d+)", self.run.folder.name)
        return int(found[1]) if found else None

    @property
    def status(self) -> str:
        """`completed`, `failed` or `interrupted`; `unfinished` without a result (it runs, or was killed)."""
        return str(self.run.result.get("status", "unfinished"))

    @property
    def epochs(self) -> int:
        """Finished epochs of a completed run."""
        return int(self.run.result.get("epochs", 0))

    def score(self, selection: str) -> float | None:
        """Test accuracy of a selected epoch, in percent."""
        chosen = (self.run.result.get("selection") or {}).get(selection) or {}
        return chosen.get("test/acc")

    def samples(self, split: str) -> int | None:
        """The number of samples of a split."""
        return (self.run.result.get("data") or {}).get(split)

    @cached_property
    def hours(self) -> float | None:
        """Hours of training, those before a resume too, and of what was scored in between."""
        try:
            return float(self.run.history["seconds"].sum()) / 3600
        except (LeftOut, KeyError):
            seconds = (self.run.result.get("seconds") or {}).get("fit")
            return None if seconds is None else float(seconds) / 3600

    @property
    def hardware(self) -> str:
        """The accelerator, or the processor and its threads."""
        known = self.run.result.get("hardware") or {}
        threads = known.get("threads")
        cpu = f"{known.get('cpu')}, {threads} thread{'' if threads == 1 else 's'}"
        return str(known.get("accelerator") or (cpu if known.get("cpu") else ""))

    @property
    def commit(self) -> str:
        """The commit that it ran from, marked if the checkout held changes."""
        git = self.run.result.get("git") or {}
        return f"{git['commit'][:10]}{'+' if git.get('dirty') else ''}" if git.get("commit") else ""


def runs(folder: Path, record: Path | None = None) -> list[Found]:
    """The run directories `seed=...` in a folder, by seed and name.

    Where it lacks a completed one of that name, the one on record, made on another machine or since deleted.
    """
    found: dict[str, Found] = {}
    for path in [*folder.glob("seed=*"), *(record.glob("seed=*") if record else ())]:
        one, rival = Found(Stored(path)), found.get(path.name)
        if one.seed is None or not (path / ".hydra").is_dir():
            continue
        if rival is None or (rival.status != "completed" and one.status == "completed"):
            found[path.name] = one
    return sorted(found.values(), key=lambda one: (one.seed or 0, one.run.folder.name))


def keep(one: Found, record: Path) -> None:
    """Put on record what a comparison reads of a run."""
    for name in KEPT:
        source, target = one.run.folder / name, record / one.run.folder.name / name
        if source != target and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def flat(content: Any, place: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys; empty nodes count as values."""
    if not isinstance(content, Mapping) or not content:
        return {place: content}
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        leaves |= flat(value, f"{place}.{key}" if place else str(key))
    return leaves


def differences(stored: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """What a stored configuration sets otherwise than a recipe, in words.

    A key that only the recipe has is newer than the run and no difference, unless the run had nothing in its place.
    """
    ours, theirs = flat(stored), flat(recipe)
    found = []
    for key, value in ours.items():
        if elsewhere(key) or (key in theirs and theirs[key] == value):
            continue
        if key in theirs:
            found.append(f"{key}={value} (recipe: {theirs[key]})")
        elif not any(other.startswith(f"{key}.") for other in theirs):
            found.append(f"{key}={value} (not in the recipe)")
    for key, value in theirs.items():
        parents = [key[:i] for i, letter in enumerate(key) if letter == "."]
        if not elsewhere(key) and any(parent in ours for parent in parents):
            found.append(f"no {key} (recipe: {value})")
    return found


def average(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of the values that there are; None where there are too few."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None, stdev(known) if len(known) > 1 else None
