"""`snnrun paper list | run | compare`: published tables, rebuilt from real runs."""

import textwrap
from pathlib import Path

from snnrun.config import BadRequest, cannot_write
from snnrun.report import table
from snnrun.report.collect import Found, differences, keep, runs
from snnrun.report.comparison import line, markdown, write
from snnrun.report.reproduce import run
from snnrun.report.request import (
    RESULTS,
    USAGE,
    Request,
    plain,
    recipe,
    say,
    stored_config,
    understood,
)
from snnrun.report.table import Paper, Row


def main(words: list[str]) -> int:
    """The verb. Returns 0; 1 if a run failed; 130 if interrupted. Raises `BadRequest`."""
    verbs = {"list": list_rows, "run": run, "compare": compare}
    if not words or words[0] not in verbs:
        raise BadRequest(USAGE.rstrip())
    asked = understood(words[1:])
    if words[0] != "run" and asked.changes:
        raise BadRequest(f"paper {words[0]} takes no {asked.changes[0]}.")
    return verbs[words[0]](asked)


def list_rows(asked: Request) -> int:
    """Print the tables, or the rows of one: what was reported, what it costs, what has been run."""
    if not asked.names:
        for key in table.keys(asked.choices):
            paper = table.load(asked.choices, key)
            done = sum(len(completed(asked, paper, row)) for row in paper.rows.values())
            print(f"{key:<12} {len(paper.rows):>2} rows, {done} runs done   {paper.title}")
        print("\nsnnrun paper list KEY shows the rows.")
        return 0
    paper = table.load(asked.choices, asked.names[0])
    print(f"{paper.title}\n\n{textwrap.fill(paper.source, 100)}\n")
    lines = [("row", "dataset", "T", "reported", "status", "done", "cost")]
    for row in paper.chosen(asked.names[1:]):
        done = [str(seed) for seed in completed(asked, paper, row)]
        wanted = ",".join(map(str, row.seeds))
        lines.append(
            (
                *(row.name, row.dataset, str(row.steps or ""), reported(row), row.status or ""),
                *(f"{','.join(done) or 'none'} of {wanted}", row.cost),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for entry in lines:
        cells = (cell.ljust(width) for cell, width in zip(entry, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def reported(row: Row) -> str:
    """What was reported, in words."""
    if row.status == "recalled":
        return "-"
    known = {name: f"{value:.2f}" for name, value in row.known.items()}
    mean = [" +- ".join(known[n] for n in ("mean", "std") if n in known)] if "mean" in known else []
    return ", ".join(
        [*mean, *(f"{name} {known[name]}" for name in ("best", "last") if name in known)]
    )


def completed(asked: Request, paper: Paper, row: Row) -> list[int]:
    """The seeds of a row that were run to the end under its own settings, as far as names tell."""
    found = runs(asked.root / paper.key / row.name, asked.record(paper, row))
    named = [one for one in found if "," not in one.run.folder.name]
    return [int(one.seed or 0) for one in named if one.status == "completed"]


def compare(asked: Request) -> int:
    """Write `results/KEY.csv` and `results/KEY.md`, print the latter, and put completed runs on record."""
    if len(asked.names) != 1:
        raise BadRequest(USAGE.rstrip())
    paper = table.load(asked.choices, asked.names[0])
    folder = RESULTS
    lines: list[dict[str, str]] = []
    done: list[tuple[Found, Path]] = []
    for row in paper.rows.values():
        record = asked.record(paper, row)
        found = runs(asked.root / paper.key / row.name, record)
        done += [(one, record) for one in found if one.status == "completed"]
        lines.append(line(row, *judged(asked, row, found)))
    text = markdown(paper, lines)
    try:
        folder.mkdir(exist_ok=True)
        for one, record in done:
            keep(one, record)
        write(folder / f"{paper.key}.csv", lines)
        (folder / f"{paper.key}.md").write_text(text)
    except OSError as error:
        raise BadRequest(cannot_write(folder, error)) from error
    print(text, end="")
    say(f"\nWritten: {folder / paper.key}.csv and .md")
    return 0


def judged(asked: Request, row: Row, found: list[Found]) -> tuple[list[Found], int | None, str]:
    """The runs of a row with what they changed, the recipe's epochs, and why there is no recipe."""
    try:
        cfg = recipe(asked, row)
    except BadRequest as error:
        return found, None, f"its experiment does not compose: {str(error).splitlines()[0]}"
    for one in found:
        config = one.run.folder / ".hydra" / "config.yaml"
        one.changes = differences(stored_config(config), plain(cfg))
    return found, int(cfg.trainer.max_epochs), ""
