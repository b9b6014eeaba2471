"""A report as text: Markdown to read, CSV for a spreadsheet, JSON with everything."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from snnrun.report.gather import Record
from snnrun.report.group import COSTS, Group, Study, value
from snnrun.report.ranking import Ranking, shown
from snnrun.report.significance import Estimate

LEGEND = (
    "Mean ± sample standard deviation over seeds{folds} and, in brackets, the 95 % interval of the mean (Student's t)."
    " Sorted by {by}{chosen}; {score} is what is reported and compared."
)
COMPARED = (
    "difference: of the means of {score}, from row {row}{why}. p: of a paired t-test where seeds are the same, else of"
    " Welch's t-test; raised after Holm, as several rows are compared. No p: too few seeds, or none of them differs."
)
UNTESTED = "difference: of {score}, from row {row}{why}. Whether it is chance takes several seeds to say: seed=1,2,3."
COSTS_TOLD = "rate: spikes a neuron and time step. AC, MAC: accumulates and multiply-accumulates of a sample."
HEADINGS = {
    "rate": "rate",
    "ac": "AC",
    "mac": "MAC",
    "energy_nj": "energy (nJ)",
    "fit_seconds": "training (s)",
}


def headings(ranking: Ranking) -> dict[str, str]:
    """Costs that are known, with their heading."""
    return {
        key: name for key, name in HEADINGS.items() if any(g.estimate(key) for g in ranking.groups)
    }


def cells(found: Study, ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """The table as a reader sees it: its headings, and a list of texts a row."""
    costs = headings(ranking)
    compared = ["difference", "p"][: 1 + tested(ranking)] if ranking.baseline else []
    head = ["#", *found.columns, "runs", *ranking.metrics]
    head += [*compared, *costs.values()]
    rows = []
    for number, group in enumerate(ranking.groups, 1):
        row = [str(number), *(shown(group.settings[name]) for name in found.columns), runs(group)]
        row += [interval(group.estimate(metric), metric) for metric in ranking.metrics]
        row += [difference(group, ranking), p_value(group, ranking)][: len(compared)]
        rows.append(row + [short(group.estimate(key)) for key in costs])
    return head, rows


def tested(ranking: Ranking) -> bool:
    """Whether anything could be tested."""
    return any(group.p_holm is not None for group in ranking.groups)


def runs(group: Group) -> str:
    """How many runs, and of how many that were begun."""
    return f"{group.n}" if group.tried <= group.n else f"{group.n} of {group.tried}"


def interval(found: Estimate | None, metric: str) -> str:
    """A score with its deviation and interval."""
    if found is None:
        return "-"
    digits = 2 if "acc" in metric else 4
    text = f"{found.mean:.{digits}f}"
    if found.std is None:
        return text
    return f"{text} ± {found.std:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def short(found: Estimate | None) -> str:
    """A cost in a few digits."""
    if found is None:
        return "-"
    return f"{found.mean:,.0f}" if abs(found.mean) >= 1000 else f"{found.mean:.3g}"


def difference(group: Group, ranking: Ranking) -> str:
    """How far a group is from the baseline."""
    if group is ranking.baseline:
        return "baseline"
    digits = 2 if "acc" in ranking.score else 4
    return f"{group.comparison.difference:+.{digits}f}" if group.comparison else "-"


def p_value(group: Group, ranking: Ranking) -> str:
    """What is to be said of a difference."""
    if group is ranking.baseline or group.comparison is None:
        return ""
    if group.p_holm is None:
        return "-"
    return "< 0.001" if group.p_holm < 0.001 else f"{group.p_holm:.3f}"


def legend(found: Study, ranking: Ranking) -> list[str]:
    """How to read the table, and what a reader must not overlook."""
    monitored = {group.runs[0].value("task.monitor") for group in ranking.groups}
    chosen = ", by which checkpoints were chosen" if ranking.by in monitored else ""
    folds = " and folds" if any(len(g.folds) > 1 for g in ranking.groups) else ""
    words = {"by": ranking.by, "chosen": chosen, "score": ranking.score, "folds": folds}
    lines = [LEGEND.format(**words)]
    if ranking.by.startswith("test/"):
        lines.append(
            f"Caution: {ranking.by} is of test data; the first of many rows is also the luckiest."
        )
    if ranking.baseline and ranking.score.startswith("val/"):
        lines.append(
            f"Caution: {ranking.score} is of the data that rows and checkpoints were chosen by."
        )
    if ranking.baseline:
        lines += compared(ranking, ranking.baseline)
    if headings(ranking):
        lines.append(COSTS_TOLD)
    if found.replaced:
        lines.append(
            f"Left out, as the same settings and seed were run again later: {len(found.replaced)}."
        )
    return lines


def compared(ranking: Ranking, baseline: Group) -> list[str]:
    """What the comparison with the baseline says."""
    number = ranking.groups.index(baseline) + 1
    words = {"row": number, "score": ranking.score, "why": " (the best)" if number == 1 else ""}
    if not tested(ranking):
        return [UNTESTED.format(**words)]
    ps = {str(n): g.p_holm for n, g in enumerate(ranking.groups, 1) if g is not baseline}
    alike = [n for n, p in ps.items() if p is not None and p >= 0.05]
    unknown = [n for n, p in ps.items() if p is None]
    lines = [COMPARED.format(**words)]
    if alike:
        lines.append(f"Not to be told from row {number} (p at least 0.05): {listed(alike)}.")
    if unknown:
        lines.append(f"Not tested against row {number}: {listed(unknown)}.")
    if not alike and not unknown:
        lines.append(
            f"Every other row differs from row {number} by more than chance (p below 0.05)."
        )
    return lines


def listed(numbers: Sequence[str], most: int = 30) -> str:
    """Numbers of rows in words."""
    word = "row" if len(numbers) == 1 else "rows"
    rest = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"{word} {', '.join(numbers[:most])}{rest}"


def counted(found: Study) -> str:
    """How many runs there are, in words."""
    done = sum(group.n for group in found.groups) + len(found.replaced)
    states: dict[str, int] = {}
    for run in found.failures:
        states[run.status] = states.get(run.status, 0) + 1
    rest = "".join(f", {count} {state}" for state, count in states.items())
    settings = f"{len(found.groups)} setting{'' if len(found.groups) == 1 else 's'}"
    return f"{done} run{'' if done == 1 else 's'} completed{rest}; {settings}"


def constant(found: Study) -> str:
    """What is the same in all rows."""
    return " ".join(f"{key}={shown(setting)}" for key, setting in found.constant.items())


def told(found: Study) -> list[Record]:
    """The failures that are listed: not what a search stopped early, which is no accident."""
    return [run for run in found.failures if run.status != "pruned"]


def failure(found: Study, run: Record) -> str:
    """A run that did not end well, in a line."""
    settings = " ".join(f"{c}={shown(value(run, c))}" for c in found.columns)
    words = run.last_words
    return f"{run.folder} ({run.status}{'; ' + settings if settings else ''}){': ' + words if words else ''}"


def markdown(found: Study, ranking: Ranking, folders: Sequence[str]) -> str:
    """The table with its legend, the best command and the failures."""
    lines = [f"# {' '.join(folders)}", "", f"{counted(found)}."]
    if found.constant:
        lines += ["", f"In all rows: `{constant(found)}`"]
    if ranking.groups:
        head, rows = cells(found, ranking)
        lines += ["", row(head), row(["---"] * len(head)), *map(row, rows), ""]
        lines += [line for text in legend(found, ranking) for line in (text, "")]
        lines += [f"Best by {ranking.by}:", "", f"    {ranking.groups[0].command}"]
    if failed := told(found):
        lines += ["", f"## Failures ({len(failed)})", ""]
        lines += [f"- {failure(found, run)}" for run in failed]
    return "\n".join(lines) + "\n"


def row(texts: Sequence[str]) -> str:
    """A row of a Markdown table."""
    inside = (cell.replace("|", r"\|").replace("\n", " ") for cell in texts)
    return f"| {' | '.join(inside)} |"


def table(found: Study, ranking: Ranking, folders: Sequence[str]) -> str:
    """One line a group, numbers in full."""
    lines = [flat_row(entry) for entry in entries(found, ranking)]
    columns = dict.fromkeys(key for line in lines for key in line) or ["rank", *found.columns, "n"]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def flat_row(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without nesting."""
    line: dict[str, Any] = {"rank": entry["rank"], **entry["settings"], "n": entry["n"]}
    line["seeds"] = " ".join(map(str, entry["seeds"]))
    for name, found in {**entry["metrics"], **entry["costs"]}.items():
        for part in ("mean", "std", "low", "high"):
            line[f"{name}_{part}"] = found[part]
    return line | {k: entry[k] for k in ("difference", "p", "p_holm", "test", "command")}


def entries(found: Study, ranking: Ranking) -> Iterator[dict[str, Any]]:
    """Every group with all that is known of it."""
    for number, group in enumerate(ranking.groups, 1):
        known = {name: e for name in group.metrics if (e := group.estimate(name))}
        costs = {name: e for name in COSTS if (e := group.estimate(name))}
        yield {
            "rank": number,
            "settings": group.settings,
            "n": group.n,
            "begun": group.tried,
            "seeds": group.seeds,
            "folds": group.folds,
            "metrics": {name: asdict(e) for name, e in known.items()},
            "costs": {name: asdict(e) for name, e in costs.items()},
            "layers": {name: e.mean for name, e in group.layers.items()},
            "difference": group.comparison.difference if group.comparison else None,
            "p": group.comparison.p if group.comparison else None,
            "p_holm": group.p_holm,
            "test": group.comparison.test if group.comparison else None,
            "command": group.command,
            "runs": [run.folder for run in group.runs],
        }


def document(found: Study, ranking: Ranking, folders: Sequence[str]) -> str:
    """Everything."""
    best, base = ranking.groups[:1], ranking.baseline
    content = {
        "folders": list(folders),
        "completed": sum(group.n for group in ranking.groups),
        "columns": found.columns,
        "constant": found.constant,
        "sorted_by": {"metric": ranking.by, "mode": ranking.mode},
        "score": ranking.score,
        "baseline": ranking.groups.index(base) + 1 if base else None,
        "best": {"command": best[0].command, "settings": best[0].settings} if best else None,
        "rows": list(entries(found, ranking)),
        "failures": [
            {
                "folder": run.folder,
                "status": run.status,
                "error": run.last_words,
                "settings": {name: value(run, name) for name in found.columns},
            }
            for run in found.failures
        ],
        "replaced": [run.folder for run in found.replaced],
    }
    return json.dumps(content, indent=1, default=str) + "\n"
