"""`snnrun paper list | run | compare`: published tables, rebuilt from real runs."""

import re
import shlex
import shutil
import sys
import textwrap
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snnrun.check import composed, request, without_hydra
from snnrun.config import BadRequest, Choices, cannot_write
from snnrun.report import jobs, table
from snnrun.report.collect import Found, differences, elsewhere, runs
from snnrun.report.comparison import line, markdown, read, write
from snnrun.report.stored import Stored
from snnrun.report.table import Paper, Row

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

    def folder(self, paper: Paper, row: Row, seed: int) -> Path:
        """The directory of a run: always the same, so that it can be resumed; another one where settings differ."""
        name = ",".join([f"seed={seed}", *self.changes])
        name = re.sub(r"[^\w.=,+~-]", "_", name)
        if len(name) > 200:
            name = f"{name[:190]}~{zlib.crc32(name.encode()):08x}"
        return self.root / paper.key / row.name / name


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def main(words: list[str]) -> int:
    """The verb. Returns 0; 1 if a run failed; 130 if interrupted. Raises `BadRequest`."""
    verbs = {"list": list_rows, "run": run, "compare": compare}
    if not words or words[0] not in verbs:
        raise BadRequest(USAGE.rstrip())
    asked = understood(words[1:])
    if words[0] != "run" and asked.changes:
        raise BadRequest(f"paper {words[0]} takes no {asked.changes[0]}.")
    return verbs[words[0]](asked)


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


# --- list


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
    found = runs(asked.root / paper.key / row.name)
    named = [one for one in found if "," not in one.run.folder.name]
    return [int(one.seed or 0) for one in named if one.status == "completed"]


# --- run


def run(asked: Request) -> int:
    """Run what is missing and resume what broke; see `jobs.run`."""
    if not asked.names:
        raise BadRequest(USAGE.rstrip())
    paper = table.load(asked.choices, asked.names[0])
    todo: list[jobs.Job] = []
    failed: list[str] = []
    refused = 0
    rows = paper.chosen(asked.names[1:])
    for row in rows:
        try:
            cfg = recipe(asked, row)
        except BadRequest as error:
            say(f"{row.name}: {error}")
            failed.append(row.name)
            refused += 1
            continue
        for seed in asked.seeds or row.seeds:
            job = planned(asked, paper, row, seed, cfg)
            if isinstance(job, str):
                failed.append(f"{row.name} seed={seed}")
                say(job)
            elif job:
                todo.append(job)
    if refused == len(rows):
        return 2
    done = 0

    def ended(job: jobs.Job) -> None:
        nonlocal done
        problem = problem_of(job)
        if problem:
            failed.append(job.name)
            say(f"{job.name}: {problem}")
        else:
            done += 1
            minutes = (time.monotonic() - job.started) / 60
            print(
                f"{job.name}: {outcome(Found(Stored(job.folder)))}, {minutes:.1f} min", flush=True
            )

    interrupted = jobs.run(todo, asked.at_once, ended)
    print(f"{done} of {len(todo)} runs done; {len(failed)} failed" if todo else "Nothing to run.")
    told = [f"seeds={','.join(map(str, asked.seeds))}"] if asked.seeds else []
    told += [f"jobs={asked.at_once}"] if asked.at_once > 1 else []
    more = [*asked.names, *told, *asked.overrides, *asked.flags]
    again = f"snnrun paper run {shlex.join(more)}"
    if interrupted:
        say(f"Interrupted. Go on with: {again}")
        return 130
    if failed:
        say(f"Failed: {', '.join(failed)}. Once the cause is gone: {again}")
    print(f"next  snnrun paper compare {shlex.join([paper.key, *asked.places, *asked.flags])}")
    return 1 if failed else 0


def planned(asked: Request, paper: Paper, row: Row, seed: int, cfg: Any) -> jobs.Job | str | None:
    """The process that a run needs: a new one, or a resumption; None if it is complete; or what is in its way."""
    folder, name = asked.folder(paper, row, seed), f"{row.name} seed={seed}"
    name += "".join(f" {change}" for change in asked.changes)
    found = Found(Stored(folder))
    if (folder / ".hydra").exists():
        config = folder / ".hydra" / "config.yaml"
        resumable = config.is_file() and (folder / "checkpoints" / "last.ckpt").is_file()
        if found.status == "completed" or resumable:
            changes = differences(stored_config(config), plain(cfg))
            if changes:
                return (
                    f"{name}: {folder} was run with other settings than the row has now"
                    f" ({'; '.join(changes[:5])}). Move it away to run the row again."
                )
        if found.status == "completed":
            print(f"{name}: {outcome(found)}, done before")
            return None

    def words() -> list[str]:
        if (folder / "checkpoints" / "last.ckpt").is_file():
            return ["resume", str(folder), *asked.resumed, *asked.flags]
        shutil.rmtree(folder / ".hydra", ignore_errors=True)  # nothing was finished: start anew
        settings = [*row.words, *asked.overrides, f"seed={seed}", f"hydra.run.dir={quoted(folder)}"]
        return [*settings, *asked.flags]

    return jobs.Job(name, words, folder)


def quoted(folder: Path) -> str:
    """A path as a value in Hydra's grammar."""
    text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def problem_of(job: jobs.Job) -> str | None:
    """What went wrong with a job that has ended."""
    if job.process is None:
        return f"another process is at {job.folder}; it was left alone"
    if job.code == 0:
        return None
    if job.asked:
        return "interrupted"
    result = Stored(job.folder).result
    error = result.get("error") or job.error or f"its process ended with code {job.code}"
    log = job.folder / "log.txt"
    return f"{error}" if str(log) in error or not log.exists() else f"{error}\n  log: {log}"


def outcome(found: Found) -> str:
    """The scores of a run in words."""
    names = {"best_test": "best test epoch", "best_val": "best on validation data", "last": "last"}
    scores = [(words, found.score(name)) for name, words in names.items()]
    told = ", ".join(f"{words} {score:.2f} %" for words, score in scores if score is not None)
    epochs = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    return f"{found.status}, {epochs}, test accuracy: {told or 'none'}"


def say(message: str) -> None:
    """Tell of a problem."""
    print(message, file=sys.stderr, flush=True)


# --- compare


def compare(asked: Request) -> int:
    """Write `results/KEY.csv` and `results/KEY.md`, and print the latter."""
    if len(asked.names) != 1:
        raise BadRequest(USAGE.rstrip())
    paper = table.load(asked.choices, asked.names[0])
    folder = Path("results")
    old = {entry["row"]: entry for entry in read(folder / f"{paper.key}.csv")}
    lines, kept = [], []
    for row in paper.rows.values():
        found = runs(asked.root / paper.key / row.name)
        before = old.get(row.name)
        if before and before["ours_n"] and not any(one.status == "completed" for one in found):
            lines.append(before)  # of another machine
            kept.append(row.name)
            continue
        lines.append(line(row, *judged(asked, row, found)))
    text = markdown(paper, lines)
    try:
        folder.mkdir(exist_ok=True)
        write(folder / f"{paper.key}.csv", lines)
        (folder / f"{paper.key}.md").write_text(text)
    except OSError as error:
        raise BadRequest(cannot_write(folder, error)) from error
    print(text, end="")
    say(f"\nWritten: {folder / paper.key}.csv and .md")
    if kept:
        say(f"Kept as they stood, for want of runs here: {', '.join(kept)}")
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
