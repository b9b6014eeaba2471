"""`snnrun paper run`: runs what is missing of a table and resumes what broke."""

import shlex
import shutil
import time
from typing import Any

from snnrun.config import BadRequest, quoted
from snnrun.pool import Job, Pool, command
from snnrun.report import table
from snnrun.report.collect import Found, differences
from snnrun.report.request import USAGE, Request, plain, recipe, say, stored_config
from snnrun.report.stored import Stored
from snnrun.report.table import Paper, Row


def run(asked: Request) -> int:
    """Run what is missing and resume what broke; see `Pool`."""
    if not asked.names:
        raise BadRequest(USAGE.rstrip())
    paper = table.load(asked.choices, asked.names[0])
    todo: list[Job] = []
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

    def ended(job: Job) -> None:
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

    interrupted = Pool(asked.at_once, ended).run(todo)
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


def planned(asked: Request, paper: Paper, row: Row, seed: int, cfg: Any) -> Job | str | None:
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
    kept = Found(Stored(asked.record(paper, row) / folder.name))
    if kept.status == "completed":
        config = kept.run.folder / ".hydra" / "config.yaml"
        if not differences(stored_config(config), plain(cfg)):
            print(f"{name}: {outcome(kept)}, on record in {kept.run.folder}")
            return None

    def words() -> list[str]:
        if (folder / "checkpoints" / "last.ckpt").is_file():
            return ["resume", str(folder), *asked.resumed, *asked.flags]
        shutil.rmtree(folder / ".hydra", ignore_errors=True)  # nothing was finished: start anew
        settings = [*row.words, *asked.overrides, f"seed={seed}", f"hydra.run.dir={quoted(folder)}"]
        return [*settings, *asked.flags]

    return Job(name, folder, lambda slot: command(words(), slot))


def problem_of(job: Job) -> str | None:
    """What went wrong with a job that has ended."""
    if job.busy:
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
