"""A published table beside our runs: one line a row, as CSV and as Markdown."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from snnrun.report.collect import SELECTIONS, Found, average
from snnrun.report.table import Paper, Row
from snnrun.whole import whole

COLUMNS = (
    *("row", "dataset", "network", "steps", "reported_mean", "reported_std", "reported_best"),
    *("reported_status", "ours_mean", "ours_std", "ours_n", "ours_last", "ours_best_val"),
    *(
        "ours_best_test",
        "difference",
        "within_band",
        "epochs",
        "hours",
        "hardware",
        "commit",
        "note",
    ),
)
HEADINGS = {
    "row": "row",
    "dataset": "dataset",
    "network": "network",
    "steps": "T",
    "reported": "reported",
    "reported_status": "status",
    "ours": "ours",
    "ours_n": "runs",
    "ours_last": "last",
    "ours_best_val": "best val",
    "ours_best_test": "best test",
    "difference": "difference",
    "within_band": "in band",
    "epochs": "epochs",
    "hours": "h a run",
    "hardware": "hardware",
    "commit": "commit",
    "note": "note",
}
LEGEND = """\
Test accuracy in percent. `ours`: mean +- sample standard deviation over runs (seeds) of the epoch that the published
number is of. `last`, `best val`, `best test`: means for the last epoch, for the epoch chosen on validation data, and
for the best epoch on test data, which only published protocols choose by. `difference`: our mean with the reported
mean, or our best run with the reported best where no mean was reported. `-`: a number that could not be checked.
`in band` is only said of runs of the whole recipe on the whole data set.
"""


def line(row: Row, found: Sequence[Found], epochs: int | None, problem: str) -> dict[str, str]:
    """A row of the table.

    **Arguments:**

    - `row`: what was published.
    - `found`: our runs.
    - `epochs`: epochs of the recipe, if it composes.
    - `problem`: why it does not.
    """
    done = [one for one in found if one.status == "completed"]
    departures = {id(one): [*departed(row, one, epochs)] for one in done}
    whole = [one for one in done if not departures[id(one)] and not problem]
    groups: dict[tuple[str, ...], list[Found]] = {}
    for one in done:
        groups.setdefault(tuple(departures[id(one)]), []).append(one)
    used = whole or max(groups.values(), key=lambda g: (g[0].epochs, len(g)), default=[])
    scores = {name: [one.score(name) for one in used] for name in SELECTIONS}
    known = [score for score in scores[row.compare] if score is not None]
    mean, std = average(known)
    value = max(known) if known and row.against == "best" else mean
    target = row.known[row.against] if row.against else None
    reached = row.reached(value) if value is not None else None
    hours, _ = average([one.hours for one in used])
    notes = [*remarks(row, found, used, departures), problem, row.note]
    if used and not known:
        notes.insert(0, f"no {row.compare} in the result")
    return {
        "row": row.name,
        "dataset": row.dataset,
        "network": row.network,
        "steps": str(row.steps or ""),
        **{f"reported_{name}": shown(row, name) for name in ("mean", "std", "best")},
        "reported_status": row.status or "",
        "ours_mean": number(mean),
        "ours_std": number(std),
        "ours_n": str(len(known) or ""),
        **{f"ours_{name}": number(average(scores[name])[0]) for name in SELECTIONS},
        "difference": "" if value is None or target is None else f"{value - target:+.2f}",
        "within_band": verdict(reached, bool(whole), bool(used)),
        "epochs": progress(used[0].epochs, epochs) if used else "",
        "hours": "" if hours is None else f"{hours:.3g}",
        "hardware": "; ".join(dict.fromkeys(one.hardware for one in used)),
        "commit": " ".join(dict.fromkeys(one.commit for one in used)),
        "note": "; ".join(note for note in notes if note),
    }


def number(value: float | None) -> str:
    """A number with two digits behind the point; nothing for None."""
    return "" if value is None else f"{value:.2f}"


def shown(row: Row, name: str) -> str:
    """A reported number; `-` if there is one that could not be checked."""
    if row.status == "recalled":
        return "-" if name in row.reported else ""
    return number(row.reported.get(name))


def verdict(reached: bool | None, whole: bool, any_run: bool) -> str:
    """Whether a row counts as reproduced."""
    if reached is None or not any_run:
        return ""
    return ("yes" if reached else "no") if whole else "not judged"


def progress(epochs: int, planned: int | None) -> str:
    """Epochs, and of how many if they are not all."""
    return str(epochs) if planned in (None, epochs) else f"{epochs} of {planned}"


def departed(row: Row, one: Found, epochs: int | None) -> Iterator[str]:
    """How a finished run departs from its row, in words."""
    if epochs not in (None, one.epochs):
        yield f"{one.epochs} of {epochs} epochs"
    for split, wanted, word in (("train", row.train, "training"), ("test", row.test, "test")):
        if wanted is not None and one.samples(split) != wanted:
            yield f"{one.samples(split) or 0:,} of {wanted:,} {word} samples"
    yield from (c for c in one.changes[:5] if not c.startswith("trainer.max_epochs="))


def remarks(
    row: Row,
    found: Sequence[Found],
    used: Sequence[Found],
    departures: Mapping[int, list[str]],
) -> Iterator[str]:
    """What a reader must know of the runs."""
    if not found:
        yield "never run"
    if used:
        yield from departures[id(used[0])]
        missing = [str(s) for s in row.seeds if s not in {one.seed for one in used}]
        if missing:
            yield f"without seed {', '.join(missing)}"
    for one in found:
        if one in used:
            continue
        name = one.run.folder.name.replace(",", " ", 1)
        if one.status == "completed":
            why = ", ".join(departures[id(one)]) or "not in the mean"
            score = one.score(row.compare)
            yield f"{name} apart ({why}): {'no score' if score is None else number(score)}"
        else:
            error = str(one.run.result.get("error") or "").partition("\n")[0]
            yield f"{name} {one.status}{': ' + error if error else ''}"
    if "last" in row.known and row.against != "last":
        yield f"reported last epoch {number(row.known['last'])}"


def write(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV whole or not at all."""
    with whole(path, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def markdown(paper: Paper, lines: Sequence[Mapping[str, str]]) -> str:
    """The table with its title, source and legend."""
    rows = ["| " + " | ".join(HEADINGS.values()) + " |", "|---" * len(HEADINGS) + "|"]
    for entry in lines:
        cells = {**entry, "reported": reported(entry), "ours": plus_minus(entry, "ours")}
        text = (cells[name].replace("|", r"\|").replace("\n", " ") for name in HEADINGS)
        rows.append("| " + " | ".join(text) + " |")
    table = "\n".join(rows)
    return f"# {paper.title}\n\n{paper.source}\n\n{table}\n\n{LEGEND}"


def plus_minus(entry: Mapping[str, str], side: str) -> str:
    """Mean and standard deviation of a line."""
    return " +- ".join(v for v in (entry[f"{side}_mean"], entry[f"{side}_std"]) if v)


def reported(entry: Mapping[str, str]) -> str:
    """What was reported, as one cell."""
    best = entry["reported_best"]
    cells = [plus_minus(entry, "reported"), f"best {best}" if best not in ("", "-") else best]
    return ", ".join(cell for cell in cells if cell)
