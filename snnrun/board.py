"""What is shown of a sweep while it runs: on a terminal a table that is kept up to date, elsewhere a line a job."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from snnrun.jobs import Task

COLOURS = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "interrupted": "yellow",
    "pruned": "yellow",
}
# which rows are shown where not all have room
ORDER = ("failed", "running", "interrupted", "pruned", "elsewhere", "done", "queued")


class Board:
    """Tells of jobs.

    **Arguments:**

    - `folder`: the sweep's directory.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.tasks: list[Task] = []
        self.total: int | None = None  # if it is not the number of those that are known
        self.live: Live | None = None
        self.drawn = 0.0

    def show(self, tasks: "Sequence[Task]", resumed: int = 0) -> None:
        """Take up jobs, and say how many there are.

        **Arguments:**

        - `tasks`: the jobs.
        - `resumed`: how many of those to be run are gone on with.
        """
        self.tasks.extend(tasks)
        states = Counter(task.state for task in tasks)
        counts = {
            "done before": states["done"],
            "to go on with": resumed,
            "to run": states["queued"] - resumed,
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        self.say(f"sweep     {self.folder}\njobs      {len(tasks)}: {told}")

    def __enter__(self) -> "Board":
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(auto_refresh=False)
            self.live.start()
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self._draw()
            self.live.stop()
            self.live = None

    def turn(self) -> None:
        """Bring the table up to date, a few times a second."""
        if time.monotonic() - self.drawn > 0.25:
            self._draw()
            self.drawn = time.monotonic()

    def _draw(self) -> None:
        if self.live:
            self.live.update(self.table(self.live.console), refresh=True)

    def ended(self, task: "Task") -> None:
        """Tell of a job that has ended; of one that failed with its last lines."""
        if self.live and task.state != "failed":
            return
        states = Counter(task.state for task in self.tasks)
        total = self.total or len(self.tasks)
        done = sum(count for state, count in states.items() if state not in ("queued", "running"))
        place = f"[{done:>{len(str(total))}}/{total}]"
        self.say("  ".join([place, f"{task.state:<11}", task.name, *self._told(task)]))
        if task.state == "failed":
            for line in task.error.strip().splitlines()[-8:]:
                self.say(f"    {line}")
            log = task.folder / "log.txt"
            if log.exists() and str(log) not in task.error:
                self.say(f"    log: {log}")

    def close(self, tasks: "Sequence[Task]") -> None:
        """Sum up."""
        states = Counter(task.state for task in tasks)
        told = [f"{states[state]} {state}" for state in ORDER if states[state] and state != "done"]
        self.say(f"{states['done']} of {len(tasks)} jobs done{''.join(f', {one}' for one in told)}")
        if states["failed"]:
            folder = shlex.quote(str(self.folder))
            self.say(f"Once the cause is gone: snnrun resume {folder}")

    def say(self, text: str) -> None:
        """Print lines, above the table if there is one."""
        if self.live:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def _told(self, task: "Task") -> list[str]:
        """The scores and the time of a job."""
        scores = self._scores(task)
        told = [f"{split} {score:.2f} %" for split, score in scores.items()]
        return [*told, clock(task)] if task.job else told

    def _scores(self, task: "Task") -> dict[str, float]:
        """The accuracies of a job: of its result, or so far."""
        found: Any = task.result.get("metrics") if task.state == "done" else latest(task)
        scores = {split: (found or {}).get(f"{split}/acc") for split in ("train", "val", "test")}
        if scores["val"] not in (None, ""):
            scores["train"] = None
        return {split: float(score) for split, score in scores.items() if score not in (None, "")}

    def table(self, console: "Console") -> "Table":
        """The jobs, as many as a terminal has room for."""
        from rich.table import Table

        states = Counter(task.state for task in self.tasks)
        caption = ", ".join(f"{states[state]} {state}" for state in ORDER if states[state])
        table = Table(box=None, caption=caption, caption_justify="left", pad_edge=False)
        table.add_column("job", overflow="fold")
        for name in ("state", "epoch", "train", "val", "test", "time"):
            table.add_column(name, justify="left" if name == "state" else "right")
        places = max(1, console.height - 6)
        chosen = sorted(self.tasks, key=lambda task: ORDER.index(task.state))[:places]
        for task in (task for task in self.tasks if task in set(chosen)):
            scores = self._scores(task)
            cells = (f"{scores[s]:.2f}" if s in scores else "" for s in ("train", "val", "test"))
            state = f"[{COLOURS.get(task.state, 'default')}]{task.state}[/]"
            table.add_row(plain(task.name), state, self._epoch(task), *cells, clock(task))
        return table

    def _epoch(self, task: "Task") -> str:
        """How far a job has come."""
        if task.cfg is None:
            return ""
        row = latest(task)
        done = int(row["epoch"]) + 1 if row.get("epoch", "").isdigit() else 0
        return f"{done}/{task.cfg.trainer.max_epochs}"


def plain(name: str) -> str:
    """A name in which rich sees no markup."""
    from rich.markup import escape

    return escape(name)


def latest(task: "Task") -> dict[str, str]:
    """The last row of a job's metrics file; empty while there is none."""
    rows = task.rows()
    return rows[-1] if rows else {}


def clock(task: "Task") -> str:
    """For how long a job has run, or ran."""
    if task.job is None or not task.job.started:
        return ""
    seconds = round((task.job.ended or time.monotonic()) - task.job.started)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
