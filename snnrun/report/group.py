"""Runs grouped over their seeds: what varied between the groups, and what each of them reached."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from snnrun.report.collect import elsewhere
from snnrun.report.gather import REPLICATES, Record, Section
from snnrun.report.significance import Comparison, Estimate, estimate

# choices that are told even where nothing varied
TOLD = ("experiment", "model", "neuron", "rule", "encoder", "dataset")
COSTS = {
    "rate": ("spikes", "rate"),
    "ac": ("ops", "ac"),
    "mac": ("ops", "mac"),
    "energy_nj": ("ops", "energy_nj"),
    "parameters": ("parameters",),
    "fit_seconds": ("seconds", "fit"),
    "peak_memory_bytes": ("peak_memory_bytes",),
}


@dataclass(eq=False)
class Group:
    """Completed runs of the same settings, one for each seed and fold.

    **Arguments:**

    - `runs`: them, by seed.
    - `tried`: how many seeds were begun, those that failed too.
    """

    runs: list[Record]
    tried: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # by column
    comparison: Comparison | None = None  # with the baseline
    p_holm: float | None = None

    @property
    def n(self) -> int:
        """How many runs it is the mean of."""
        return len(self.runs)

    @cached_property
    def seeds(self) -> list[Any]:
        """The seeds of its runs."""
        return list(dict.fromkeys(run.replicate[0] for run in self.runs))

    @cached_property
    def folds(self) -> list[Any]:
        """The folds of its runs."""
        return list(dict.fromkeys(run.replicate[1] for run in self.runs))

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that its runs have."""
        return list(dict.fromkeys(k for run in self.runs for k in run.result.get("metrics") or {}))

    def scores(self, metric: str) -> dict[tuple[Any, ...], float]:
        """A metric of the chosen epoch for each seed and fold, or what a run cost."""
        place = COSTS.get(metric, ("metrics", metric))
        found = {run.replicate: dig(run.result, place) for run in self.runs}
        return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and interval of a metric or a cost; None if no run has it."""
        if metric not in self._estimates:
            self._estimates[metric] = estimate(list(self.scores(metric).values()))
        return self._estimates[metric]

    @cached_property
    def _estimates(self) -> dict[str, Estimate | None]:
        return {}

    @cached_property
    def operations(self) -> float | None:
        """Synaptic operations of a sample: accumulates and multiply-accumulates."""
        found = [self.estimate(name) for name in ("ac", "mac")]
        return None if None in found else sum(e.mean for e in found if e)

    @cached_property
    def layers(self) -> dict[str, Estimate]:
        """The firing rate of every layer."""
        rates: dict[str, list[float]] = {}
        for run in self.runs:
            for name, rate in (dig(run.result, ("spikes", "layers")) or {}).items():
                if isinstance(rate, int | float):
                    rates.setdefault(name, []).append(float(rate))
        return {name: found for name, values in rates.items() if (found := estimate(values))}

    @property
    def command(self) -> str:
        """What to type to run it again, all seeds of it."""
        last: dict[str, str] = {}
        for word in self.runs[0].overrides:
            key = key_of(word)
            if key in REPLICATES or key.startswith(("hydra.", "hydra/", "hparams_search")):
                continue  # which run, and where and how, not what
            last.pop(key, None)  # a later word wins, where it stands
            last[key] = word
        words = list(last.values())
        several = self.n > 1
        if len(self.folds) > 1:
            words.append(f"dataset.fold={','.join(map(str, self.folds))}")
        words.append(f"seed={','.join(map(str, self.seeds))}")
        return shlex.join(["snnrun", *(["-m"] if several else []), *words])


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def dig(content: Any, place: Sequence[str]) -> Any:
    """A value inside nested dicts; None where there is none."""
    for name in place:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


@dataclass(eq=False)
class Study:
    """All that was found.

    **Arguments:**

    - `groups`: what was completed.
    - `failures`: runs that ended badly or not at all, unless the same was completed since.
    - `replaced`: completed runs of the same settings and seed as a later one, which alone counts.
    - `columns`: what varied between the groups.
    - `constant`: the settings that were typed for all, and the chosen parts.
    """

    groups: list[Group]
    failures: list[Record]
    replaced: list[Record]
    columns: list[str]
    constant: dict[str, Any]


def value(run: Record, column: str) -> Any:
    """The value of a column in a run: the choice of a group, or a setting."""
    if column in run.parts:
        return run.parts[column]
    if not run.parts and "." not in column:  # an unfinished run tells what was typed
        return next(
            (w.partition("=")[2] for w in reversed(run.overrides) if key_of(w) == column), None
        )
    return run.value(column)


def study(records: Iterable[Record]) -> Study:
    """Group runs over seeds and find out what varied."""
    records = list(records)
    readable = [run for run in records if not run.problem]
    identity = identities(readable)
    by_settings: dict[Any, dict[Any, Record]] = {}
    seeds: dict[Any, set[Any]] = {}
    replaced, failures = [], [run for run in records if run.problem]
    for run in readable:
        seeds.setdefault(identity(run), set()).add(run.replicate)
        if run.status != "completed":
            continue
        known = by_settings.setdefault(identity(run), {})
        rival = known.get(run.replicate)
        if rival is None or run.written >= rival.written:
            known[run.replicate] = run
        if rival is not None:
            replaced.append(min(rival, run, key=lambda one: one.written))
    for run in readable:
        if run.status != "completed" and run.replicate not in by_settings.get(identity(run), {}):
            failures.append(run)
    groups = [
        Group([runs[key] for key in sorted(runs, key=str)], len(seeds[settings]))
        for settings, runs in by_settings.items()
    ]
    columns, constant = varied([group.runs[0] for group in groups] or readable)
    for group in groups:
        group.settings = {name: value(group.runs[0], name) for name in columns}
    return Study(groups, failures, replaced, columns, constant)


def identities(runs: Sequence[Record]) -> Any:
    """A function from a run to what its settings are, but for those that are the same in all runs.

    A key that some runs lack, because it is newer than they are, tells runs apart only if the others differ in it.
    """
    distinct: dict[str, dict[int, Section]] = {}
    for run in runs:
        for name, section in run.config.items():
            distinct.setdefault(name, {})[id(section)] = section
    keys: dict[tuple[str, Any], list[str]] = {}
    several: dict[str, bool] = {}
    for name, found in distinct.items():
        targets = {section.target for section in found.values()}
        several[name] = len(targets) > 1
        for target in targets:
            same = [section for section in found.values() if section.target == target]
            keys[name, target] = [
                key
                for key in dict.fromkeys(key for section in same for key in section.settings)
                if len({str(s.settings[key]) for s in same if key in s.settings}) > 1
            ]
    names = [n for n in distinct if several[n] or any(keys[n, t] for m, t in keys if m == n)]
    known: dict[int, tuple[Any, ...]] = {}

    def of(name: str, section: Section | None) -> tuple[Any, ...]:
        if section is None:
            return ()
        if id(section) not in known:
            values = (str(section.settings.get(key)) for key in keys[name, section.target])
            known[id(section)] = (section.target, *values)
        return known[id(section)]

    return lambda run: tuple(of(name, run.config.get(name)) for name in names)


def varied(runs: Sequence[Record]) -> tuple[list[str], dict[str, Any]]:
    """The columns that tell runs of different settings apart: what was typed first, then as little else as it takes.

    Beside them what was typed for all, and the parts that all have.
    """
    typed = dict.fromkeys(
        key
        for run in runs
        for word in run.overrides
        if (key := key_of(word)) not in REPLICATES and not elsewhere(key)
    )
    columns, constant = [], {}
    for key in typed:
        values = {str(value(run, key)) for run in runs}
        if len(values) > 1:
            columns.append(key)
        elif runs:
            constant[key] = value(runs[0], key)
    told: dict[str, Any] = {}
    for part in TOLD:
        values = [run.parts.get(part) for run in runs]
        if values and values[0] is not None and len(set(map(str, values))) == 1:
            told[part] = values[0]
    classes = [list(runs)]  # that the columns so far do not tell apart
    for column in columns:
        classes = [part for members in classes for part in divided(members, column)]
    for column in others(runs, columns):
        if len(classes) == len(runs):
            break
        finer = [part for members in classes for part in divided(members, column)]
        if len(finer) > len(classes):
            columns.append(column)
            classes = finer
    return columns, {**told, **{k: v for k, v in constant.items() if k not in told}}


def others(runs: Sequence[Record], columns: Sequence[str]) -> Iterator[str]:
    """Candidates for further columns: choices of parts, then settings, in the configuration's order."""
    parts = dict.fromkeys(name for run in runs for name in run.parts if not elsewhere(name))
    yield from (name for name in parts if name not in columns)
    sections: dict[int, Section] = {id(s): s for run in runs for s in run.config.values()}
    keys = dict.fromkeys(key for section in sections.values() for key in section.settings)
    yield from (key for key in keys if key not in columns and not key.endswith("_target_"))


def divided(runs: Sequence[Record], column: str) -> list[list[Record]]:
    """Runs by their value in a column."""
    found: dict[str, list[Record]] = {}
    for run in runs:
        found.setdefault(str(value(run, column)), []).append(run)
    return list(found.values())
