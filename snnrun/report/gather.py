"""All runs below some folders, read with few system calls: what each was told to do, and what became of it."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from snnrun.report.collect import elsewhere, flat

REPLICATES = ("seed", "dataset.fold")  # what repeats an experiment rather than changes it
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, eq=False)
class Section:
    """A top-level entry of a configuration; runs whose text is the same share it.

    **Arguments:**

    - `settings`: its values by dotted key, but for those that change no result.
    - `replicate`: the seed or the fold, where it holds one.
    """

    settings: Mapping[str, Any]
    replicate: Mapping[str, Any]

    @property
    def target(self) -> Any:
        """The class that it builds."""
        return next(
            (v for k, v in self.settings.items() if k.count(".") == 1 and k.endswith("._target_")),
            None,
        )


@dataclass(eq=False, slots=True)
class Record:
    """A run directory as a report reads it.

    **Arguments:**

    - `folder`: where it is.
    - `config`: its configuration by top-level key.
    - `result`: what `result.json` says; empty without one.
    - `written`: when that was written, in seconds since the epoch.
    - `problem`: why a file of it cannot be read.
    - `pruned`: whether a search stopped it because it lagged behind.
    """

    folder: str
    config: dict[str, Section] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    written: float = 0.0
    problem: str = ""
    pruned: bool = False

    @property
    def status(self) -> str:
        """`completed`, `failed`, `interrupted` or `pruned`; `unfinished` without a result: it runs, or was killed."""
        if self.pruned and self.result.get("status") != "completed":
            return "pruned"
        return "unreadable" if self.problem else str(self.result.get("status", "unfinished"))

    @property
    def replicate(self) -> tuple[Any, ...]:
        """Seed and fold."""
        found: dict[str, Any] = {}
        for name in ("seed", "dataset"):
            if name in self.config:
                found |= self.config[name].replicate
        return tuple(found.get(key, 0) for key in REPLICATES)

    @property
    def parts(self) -> Mapping[str, Any]:
        """The option of every group."""
        return self.result.get("parts") or {}

    @property
    def overrides(self) -> list[str]:
        """What was typed; of a run without a result, too."""
        if not self.result:
            text = read(os.path.join(self.folder, ".hydra", "overrides.yaml"))[0]
            found = yaml.load(text, Loader) if text else []
            return [str(word) for word in found] if isinstance(found, list) else []
        return list(self.result.get("overrides") or [])

    def value(self, key: str) -> Any:
        """A setting by its dotted key; None where there is none."""
        section = self.config.get(key.partition(".")[0])
        return None if section is None else section.settings.get(key)

    def has(self, key: str) -> bool:
        """Whether there is such a setting."""
        section = self.config.get(key.partition(".")[0])
        return section is not None and key in section.settings

    @property
    def last_words(self) -> str:
        """The last line of the error; of a run without a result, of its log."""
        if self.problem:
            return self.problem
        error = str(self.result.get("error") or "")
        if not self.result:
            error = read(os.path.join(self.folder, "log.txt"), last=4096)[0]
        lines = [line.strip() for line in error.splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith("The traceback is in ")]
        return told[-1] if told else ""


def gather(places: Iterable[str]) -> list[Record]:
    """The runs below folders, each once."""
    found: dict[str, Record] = {}
    for place in places:
        for folder in run_folders(os.path.normpath(place)):
            found.setdefault(os.path.realpath(folder), record(folder))
    lagging = {above: pruned(above) for above in {os.path.dirname(path) for path in found}}
    for path, run in found.items():
        run.pruned = os.path.basename(path) in lagging[os.path.dirname(path)]
    return list(found.values())


def pruned(folder: str) -> set[str]:
    """The trials of a search that it stopped early, as its `trials.csv` says."""
    text, _ = read(os.path.join(folder, "trials.csv"))
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return {str(row.get("directory")) for row in rows if row.get("state") == "pruned"}


def run_folders(place: str) -> Iterator[str]:
    """The directories of runs in and below a folder, by name; nothing is looked for inside a run."""
    waiting = [place]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError:
            continue
        if ".hydra" in names or "result.json" in names:
            yield folder
            continue
        below = sorted((name for name, is_folder in names.items() if is_folder), key=natural)
        waiting += [os.path.join(folder, name) for name in reversed(below)]


def natural(name: str) -> list[tuple[int, str]]:
    """A key that puts 10 behind 9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]


def record(folder: str) -> Record:
    """Read a run."""
    found = Record(folder)
    text, _ = read(os.path.join(folder, ".hydra", "config.yaml"))
    try:
        found.config = sections(text)
        if not found.config:
            found.problem = f"{folder}/.hydra/config.yaml is missing or empty"
    except (yaml.YAMLError, AttributeError) as error:
        found.problem = f"{folder}/.hydra/config.yaml cannot be read: {str(error).splitlines()[0]}"
    text, found.written = read(os.path.join(folder, "result.json"))
    if text:
        try:
            found.result = json.loads(text)
            if not isinstance(found.result, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            found.result, found.problem = {}, f"{folder}/result.json cannot be read: {error}"
    return found


def read(path: str, last: int = 0) -> tuple[str, float]:
    """The text of a file, or its last bytes, and when it was written; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            if last and stat.st_size > last:
                file.seek(-last, os.SEEK_END)
            return file.read().decode(errors="replace"), stat.st_mtime
    except OSError:
        return "", 0.0


TOP = re.compile(r"^(?=[A-Za-z_])", re.M)


def sections(text: str) -> dict[str, Section]:
    """A stored configuration by top-level key. Each is parsed once, however many runs have it."""
    try:
        pairs = [pair for piece in TOP.split(text) if piece.strip() for pair in parsed(piece)]
    except yaml.YAMLError:  # a text that begins at the margin: read the file as a whole
        pairs = [made(str(k), v) for k, v in (yaml.load(text, Loader) or {}).items()]
    return dict(pairs)


@lru_cache(1 << 16)
def parsed(text: str) -> tuple[tuple[str, Section], ...]:
    """The entries of a piece of YAML."""
    content = yaml.load(text, Loader)
    if not isinstance(content, dict):
        raise yaml.YAMLError("no mapping")
    return tuple(made(str(key), value) for key, value in content.items())


def made(key: str, value: Any) -> tuple[str, Section]:
    """A section from its content."""
    values = flat(value, key)
    settings = {k: v for k, v in values.items() if k not in REPLICATES and not elsewhere(k)}
    return key, Section(settings, {k: v for k, v in values.items() if k in REPLICATES})
