"""A published table as a YAML under `paper/` states it: rows, what was reported, and what counts as reproduced."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from snnrun.config import BadRequest, Choices, closest

STATUSES = ("log", "readme", "paper", "second-hand", "recalled")
COMPARED = ("best_test", "last", "best_val")
REPORTED = ("mean", "std", "best", "last")
BANDS = ("at_least", "within")


@dataclass(frozen=True)
class Row:
    """A row of a table.

    **Arguments:**

    - `name`: what it is called on the command line.
    - `experiment`: the experiment that it runs.
    - `overrides`: settings on top of it.
    - `seeds`: seeds that make the row complete.
    - `dataset`, `network`, `steps`: what the paper says it is.
    - `train`, `test`: samples of the published split; runs on others are not judged.
    - `reported`: `mean`, `std`, `best` and `last` in percent, as far as they are known.
    - `status`: where these stand: `log`, `readme`, `paper`, `second-hand`, or `recalled` for numbers that nobody could
      check, which are never shown; None where nothing was reported.
    - `compare`: which epoch of ours is compared: `best_test`, `last` or `best_val`.
    - `band`: `at_least: x` or `within: x` (percent), what counts as reproduced.
    - `cost`: what a run takes, in words.
    - `note`: what else a reader should know.
    """

    name: str
    experiment: str
    overrides: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    dataset: str = ""
    network: str = ""
    steps: int | None = None
    train: int | None = None
    test: int | None = None
    reported: Mapping[str, float] = field(default_factory=dict)
    status: str | None = None
    compare: str = "last"
    band: Mapping[str, float] = field(default_factory=dict)
    cost: str = ""
    note: str = ""

    @property
    def words(self) -> list[str]:
        """The request that the row stands for, but for the seed."""
        return [f"experiment={self.experiment}", *self.overrides]

    @property
    def known(self) -> Mapping[str, float]:
        """What was reported and may be shown."""
        return {} if self.status == "recalled" else self.reported

    @property
    def against(self) -> str | None:
        """The reported number that ours is compared with: the last epoch with the last, the mean before the best."""
        wanted = ("last",) if self.compare == "last" and "last" in self.known else ("mean", "best")
        return next((name for name in wanted if name in self.known), None)

    def reached(self, value: float) -> bool | None:
        """Whether a number of ours lies in the band; None without a band."""
        value = round(value, 2)
        if self.status == "recalled" or not self.band:
            return None
        if "at_least" in self.band:
            return value >= self.band["at_least"]
        if self.against is None:
            return None
        return round(abs(value - self.known[self.against]), 2) <= self.band["within"]


@dataclass(frozen=True)
class Paper:
    """A table: its key, title, source and rows."""

    key: str
    title: str
    source: str
    rows: dict[str, Row]

    def chosen(self, names: list[str]) -> list[Row]:
        """The rows of these names; all if there are none. Raises `BadRequest`."""
        for name in names:
            if name not in self.rows:
                near = closest(name, self.rows)
                raise BadRequest(
                    f"{self.key} has no row {name!r}.{near}\n  rows: {', '.join(self.rows)}"
                )
        return [row for name, row in self.rows.items() if not names or name in names]


def keys(choices: Choices) -> list[str]:
    """The keys of all tables."""
    return choices.options("paper") if "paper" in choices.groups else []


def load(choices: Choices, key: str) -> Paper:
    """Read the table of a key. Raises `BadRequest` if there is none or it says what makes no sense."""
    known = keys(choices)
    if key not in known:
        raise BadRequest(f"There is no paper {key!r}.{closest(key, known)}\n  {', '.join(known)}")
    content = choices.load("paper", key)
    rows = content.get("rows")
    problems = list(_unknown("", content, ("title", "source", "overrides", *SHARED, "rows")))
    made: dict[str, Row] = {}
    for name, entry in rows.items() if isinstance(rows, dict) else ():
        problems += [f"rows.{name}: {problem}" for problem in _problems(name, entry)]
        if not problems:
            values = {k: content[k] for k in SHARED if k in content} | entry
            values["overrides"] = [*content.get("overrides", ()), *entry.get("overrides", ())]
            made[str(name)] = Row(name=str(name), **values)
            problems += [f"rows.{name}: {problem}" for problem in _senseless(made[str(name)])]
    if not made and not problems:
        problems.append("it has no rows")
    if problems:
        raise BadRequest("\n".join(f"{choices.file('paper', key)}: {p}" for p in problems))
    return Paper(key, str(content.get("title", key)), str(content.get("source", "")), made)


SHARED = ("seeds", "compare")  # what a table may state for all of its rows


def _unknown(place: str, entry: Any, known: tuple[str, ...]) -> Iterator[str]:
    for key in entry if isinstance(entry, Mapping) else ():
        if key not in known:
            yield f"{place}there is no key {key!r}.{closest(str(key), known)}"


def _problems(name: Any, entry: Any) -> Iterator[str]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("experiment"), str):
        yield "it must name its experiment"
        return
    if not str(name).replace("_", "").isalnum():
        yield "a row's name is made of letters, digits and underscores"
    yield from _unknown("", entry, tuple(f.name for f in fields(Row) if f.name != "name"))
    for part, known in (("reported", REPORTED), ("band", BANDS)):
        node = entry.get(part, {})
        if not isinstance(node, Mapping) or not all(
            isinstance(v, int | float) for v in node.values()
        ):
            yield f"{part} must hold numbers"
        yield from _unknown(f"{part}: ", node, known)
    for part in ("overrides", "seeds"):
        if not isinstance(entry.get(part, []), list):
            yield f"{part} must be a list"


def _senseless(row: Row) -> Iterator[str]:
    if row.compare not in COMPARED:
        yield f"compare must be {', '.join(COMPARED)}; got {row.compare}"
    if row.reported and row.status not in STATUSES:
        yield f"status must be {', '.join(STATUSES)}; got {row.status}"
    if len(row.band) > 1 or ("within" in row.band and not row.reported):
        yield "band must be at_least: x, or within: x of what was reported"
    if not row.seeds or not all(isinstance(seed, int) and seed >= 0 for seed in row.seeds):
        yield f"seeds must be a list of numbers, got {row.seeds}"
