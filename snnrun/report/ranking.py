"""Groups of runs in order: by which score, and which of them differ from a baseline by more than chance."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import yaml

from snnrun.config import BadRequest, closest
from snnrun.report.gather import Record
from snnrun.report.group import COSTS, Group, Study, value
from snnrun.report.significance import compare, holm


@dataclass(frozen=True)
class Ranking:
    """Groups, the best first.

    **Arguments:**

    - `groups`: in order; those without the score last.
    - `by`: what they are sorted by: the monitored score, which is of validation data.
    - `mode`: `max` or `min`, whichever is better.
    - `score`: what is reported and compared: of test data.
    - `baseline`: the group that the others are compared with, if any.
    """

    groups: list[Group]
    by: str
    mode: str
    score: str
    baseline: Group | None

    @cached_property
    def metrics(self) -> list[str]:
        """The scores that a table shows."""
        beside = [name for name in ("test/acc", "test/acc_ann") if known(self.groups, name)]
        return list(dict.fromkeys([self.by, self.score, *beside]))


def rank(found: Study, sort: str | None, score: str | None, baseline: str) -> Ranking:
    """Sort groups and compare them with a baseline. Raises `BadRequest`.

    **Arguments:**

    - `found`: the groups.
    - `sort`: a metric to sort by; None for the monitored one.
    - `score`: a metric to report; None for accuracy on test data.
    - `baseline`: see `choose`.
    """
    metrics = dict.fromkeys(name for group in found.groups for name in group.metrics)
    for name in (sort, score):
        if name is not None and name not in metrics and name not in COSTS:
            near = closest(name, [*metrics, *COSTS])
            raise BadRequest(f"No run has {name!r}.{near}\n  {', '.join([*metrics, *COSTS])}")
    reported = score or usual(list(metrics))
    by, mode = order(found, sort, reported)

    def place(group: Group) -> tuple[bool, float]:
        reached = group.estimate(by)
        if reached is None:
            return True, 0.0
        return False, reached.mean if mode == "min" else -reached.mean

    groups = sorted(found.groups, key=place)
    base = choose(groups, baseline)
    if base:
        others = [group for group in groups if group is not base]
        reference = base.scores(reported)
        for group in others:
            if reference and (ours := group.scores(reported)):
                group.comparison = compare(ours, reference)
        ps = holm([group.comparison.p if group.comparison else None for group in others])
        for group, p in zip(others, ps, strict=True):
            group.p_holm = p
    return Ranking(groups, by, mode, reported, base)


def usual(metrics: Sequence[str]) -> str:
    """What is reported unless something else is wanted: accuracy on test data; without that, on validation data."""
    tested = [m for m in metrics if m.startswith("test/") and not m.endswith("loss")]
    wanted = ["test/acc", *tested, "test/loss", "val/acc", *metrics, "test/acc"]
    return next(metric for metric in wanted if metric in metrics or not metrics)


def order(found: Study, sort: str | None, score: str) -> tuple[str, str]:
    """What to sort by, and whether `max` or `min` is better: the monitored metric unless something else is wanted."""
    chosen = [(g.runs[0].value("task.monitor"), g.runs[0].value("task.mode")) for g in found.groups]
    modes = {str(monitor): str(mode) for monitor, mode in chosen}
    if sort is None:
        there = {monitor for monitor in modes if known(found.groups, monitor)}
        usual = [str(monitor) for monitor, _ in chosen if monitor in there]
        sort = Counter(usual).most_common(1)[0][0] if usual else score
    return sort, modes.get(sort) or ("min" if sort in COSTS or "loss" in sort else "max")


def known(groups: Sequence[Group], metric: str) -> bool:
    """Whether any group has a metric."""
    return any(group.estimate(metric) for group in groups)


def choose(groups: Sequence[Group], baseline: str) -> Group | None:
    """The group that a word names.

    **Arguments:**

    - `groups`: the best first.
    - `baseline`: `best`, `none`, the number of a row, settings `key=value,key=value`, or the folder of a run.

    Raises `BadRequest` if none or several are meant.
    """
    if baseline == "none" or len(groups) < 2:
        return None
    if baseline == "best":
        return groups[0]
    if baseline.isdigit():
        if not 1 <= int(baseline) <= len(groups):
            raise BadRequest(f"baseline={baseline}: there are rows 1 to {len(groups)}.")
        return groups[int(baseline) - 1]
    if os.path.isdir(baseline):
        inside = os.path.realpath(baseline) + os.sep
        found = [g for g in groups if any(within(run, inside) for run in g.runs)]
    elif "=" in baseline:
        wanted = pairs(baseline)
        for key in wanted:
            if not any(key in g.runs[0].parts or g.runs[0].has(key) for g in groups):
                keys = dict.fromkeys(k for g in groups for k in (*g.settings, *g.runs[0].parts))
                raise BadRequest(f"baseline={baseline}: no run has {key!r}.{closest(key, keys)}")
        found = [g for g in groups if all(same(value(g.runs[0], k), v) for k, v in wanted.items())]
    else:
        raise BadRequest(
            f"baseline={baseline}: say best, none, the number of a row, settings such as"
            " baseline=neuron=lif,neuron.tau=2, or the folder of a run."
        )
    if len(found) != 1:
        rows = [f"  {n}  {told(g)}" for n, g in enumerate(groups, 1) if g in found][:10]
        much = "no row" if not found else f"{len(found)} rows; add settings until one is left"
        raise BadRequest("\n".join([f"baseline={baseline} fits {much}.", *rows]))
    return found[0]


def within(run: Record, folder: str) -> bool:
    """Whether a run lies in a folder, or is it."""
    return (os.path.realpath(run.folder) + os.sep).startswith(folder)


def pairs(text: str) -> dict[str, str]:
    """`a=1,b=[2,3]` as a dict; a comma inside brackets belongs to the value."""
    words, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth:
            words.append("")
        else:
            words[-1] += letter
    return {key.strip(): value.strip() for key, _, value in (word.partition("=") for word in words)}


def same(stored: object, typed: str) -> bool:
    """Whether a stored value is what was typed: `0.001` is `1e-3`."""
    try:
        return float(str(stored)) == float(typed)
    except ValueError:
        pass
    try:
        return str(stored) == typed or stored == yaml.safe_load(typed)
    except yaml.YAMLError:
        return False


def told(group: Group) -> str:
    """The settings of a group in words."""
    return " ".join(f"{key}={setting}" for key, setting in group.settings.items())


def shown(setting: object) -> str:
    """A setting as a table shows it."""
    if setting is None or setting == "":
        return "-"
    if isinstance(setting, bool):
        return str(setting).lower()
    return f"{setting:g}" if isinstance(setting, float) else str(setting)
