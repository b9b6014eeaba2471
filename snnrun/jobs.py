"""The jobs of a sweep: what is done of them, and doing the rest, each a run in a process of its own."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from snnrun import fork, pool
from snnrun.board import Board
from snnrun.check import complain, sweep_words, without_hydra
from snnrun.config import BadRequest, Choices, file_name, group_defaults
from snnrun.gpu import gpus
from snnrun.launch import job as run_job
from snnrun.report.collect import differences
from snnrun.report.stored import Stored
from snnrun.sweep import (
    changes_results,
    fingerprint,
    job_name,
    key_of,
    recorded,
    remember,
    sweep_name,
    trust,
    varied,
)


@dataclass(frozen=True)
class Settings:
    """How jobs are run.

    **Arguments:**

    - `jobs`: how many at once; None: one for each GPU or, without GPUs, for every four cores.
    - `threads`: of each; None divides those of the machine.
    - `gpus`: their names; None for all that this process may use.
    - `on_error`: what a job that fails does to the others: nothing, or it stops them.
    - `fork`: fork jobs from a process that has imported everything, where that is safe.
    """

    jobs: int | None = None
    threads: int | None = None
    gpus: Sequence[int | str] | None = None
    on_error: Literal["continue", "stop"] = "continue"
    fork: bool = True

    def __post_init__(self):
        for name in ("jobs", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadRequest(f"hydra.launcher.{name} must be at least 1, got {value}.")


State = Literal["queued", "running", "done", "failed", "interrupted", "pruned", "elsewhere"]


@dataclass(eq=False)
class Task:
    """A run of a sweep.

    **Arguments:**

    - `number`: its place in the sweep.
    - `name`: what it is called.
    - `words`: its overrides.
    - `folder`: its directory.
    """

    number: int
    name: str
    words: list[str]
    folder: Path
    state: State = "queued"
    error: str = ""
    cfg: DictConfig | None = field(default=None, repr=False)
    job: pool.Job | None = field(default=None, repr=False)
    read: tuple[int, list[dict[str, str]]] = field(default=(0, []), repr=False)

    @property
    def result(self) -> dict[str, Any]:
        """What its `result.json` says; empty while there is none."""
        return Stored(self.folder).result

    @property
    def completed(self) -> bool:
        """Whether it has been run to its end."""
        return self.result.get("status") == "completed"

    @property
    def score(self) -> float | None:
        """The score by which its checkpoint was chosen."""
        metrics = self.result.get("metrics") or {}
        return metrics.get(self.cfg.task.monitor) if self.cfg else metrics.get("val/acc")

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / "checkpoints" / "last.ckpt").is_file()

    def rows(self) -> list[dict[str, str]]:
        """The rows of its metrics file, an epoch each, which is read when it has another size."""
        path = self.folder / "metrics.csv"
        try:
            size = path.stat().st_size
            if size != self.read[0]:
                text = path.read_text(errors="replace")
                whole = text[: text.rfind("\n") + 1]  # a row may be about to be written
                self.read = size, list(csv.DictReader(whole.splitlines()))
        except OSError:
            return []
        return self.read[1]

    def conclude(self, job: pool.Job) -> None:
        """Say what became of it."""
        if job.busy:
            self.state = "elsewhere"
        elif self.completed:
            self.state = "done"
        elif job.asked:
            self.state = "interrupted"
        else:
            self.state = "failed"
            self.error = str(self.result.get("error") or job.error or end_of(job.code))


def end_of(code: int | None) -> str:
    """How a process ended that left no word."""
    if code is not None and code < 0:
        memory = ", which the system sends where memory is short" if code == -9 else ""
        return f"its process was ended by signal {-code}{memory}"
    return f"its process ended with code {code}"


class Queue(Protocol):
    """What runs jobs elsewhere, when there is room for them."""

    def submit(
        self, name: str, folder: Path, cfg: DictConfig, slot: pool.Slot, gpus: int
    ) -> pool.Process:
        """Hand over a run.

        **Arguments:**

        - `name`: what the job is called.
        - `folder`: the run's directory.
        - `cfg`: its configuration.
        - `slot`: what it was handed.
        - `gpus`: how many GPUs it asks for.
        """
        ...


class Sweep:
    """Jobs at the directory of a sweep.

    **Arguments:**

    - `master`: the configuration, without what varies.
    - `loader`: Hydra's.
    - `settings`: how jobs are run.
    - `queue`: of Slurm or Ray, which runs them; None: they are processes of this one.
    """

    def __init__(
        self, master: DictConfig, loader: Any, settings: Settings, queue: Queue | None = None
    ):
        self.master, self.loader, self.settings, self.queue = master, loader, settings, queue
        self.folder = Path(master.hydra.sweep.dir).resolve()
        self.choices = Choices.along(loader.get_search_path())
        self.words = sweep_words(master, list(master.hydra.overrides.task))
        self.name = sweep_name([*self.words, *master.hydra.overrides.hydra])
        self.keys = varied(self.words)
        self.board = Board(self.folder)

    @cached_property
    def gpus(self) -> list[str]:
        """The GPUs to hand out."""
        given = self.settings.gpus
        return gpus() if given is None else [str(gpu) for gpu in given]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the configuration files as they are now."""
        return fingerprint(self.choices)

    def at_once(self) -> int:
        """How many jobs run at the same time."""
        if self.settings.jobs:
            return self.settings.jobs
        of_a_job = wanted_gpus(self.master.trainer)
        if self.gpus and of_a_job:
            return max(1, len(self.gpus) // of_a_job)
        return max(1, len(os.sched_getaffinity(0)) // 4)

    def task(self, words: Sequence[str], number: int) -> Task:
        """The job that overrides make."""
        name = job_name(words, self.keys)
        folder = self.folder / file_name(name)
        if any(key_of(o) == "hydra.sweep.subdir" for o in self.master.hydra.overrides.hydra):
            cfg = self.loader.load_sweep_config(self.master, list(words))
            folder = self.folder / str(numbered(cfg, number).hydra.sweep.subdir)
        return Task(number, name, list(words), folder)

    def compose(self, task: Task) -> DictConfig:
        """The configuration of a job. Raises `BadRequest`."""
        from hydra.core.hydra_config import HydraConfig

        if task.cfg is None:
            cfg = numbered(self.loader.load_sweep_config(self.master, task.words), task.number)
            with read_write(cfg.hydra), open_dict(cfg.hydra):
                cfg.hydra.sweep.dir = str(self.folder)
                cfg.hydra.sweep.subdir = str(task.folder.relative_to(self.folder))
                cfg.hydra.runtime.output_dir = str(task.folder)
            HydraConfig.instance().set_config(cfg)
            trust(cfg)
            complain(self.choices, without_hydra(cfg), group_defaults(cfg))
            task.cfg = cfg
        return task.cfg

    def claim(self, tasks: Sequence[Task]) -> None:
        """Make the directory that of this sweep, and remember what was asked for. Raises `BadRequest` as `compare`."""
        self.compare(tasks)
        typed = [*self.master.hydra.overrides.hydra, *self.master.hydra.overrides.task]
        words = [o for o in typed if key_of(o) != "hydra.sweep.dir"]
        remember(self.folder, self.name, words, self.fingerprint)

    def compare(self, tasks: Sequence[Task]) -> None:
        """Raise `BadRequest` if the directory is another sweep's, or its runs would have other settings now."""
        before = recorded(self.folder)
        if before.get("sweep", self.name) != self.name:
            raise BadRequest(
                f"{self.folder} holds another sweep: {before['sweep']}. Choose another hydra.sweep.dir."
            )
        whole = before.get("configurations") != self.fingerprint
        problems = []
        for task in (task for task in tasks if task.completed or task.resumable):
            if found := self.changes(task, whole=whole):
                problems.append(f"  {task.name}: {'; '.join(found[:3])}")
        if problems:
            more = [f"  and {len(problems) - 5} more"] if len(problems) > 5 else []
            raise BadRequest(
                f"{self.folder} holds runs with other settings than they would have now:\n"
                + "\n".join([*problems[:5], *more])
                + "\nMove them away, or choose another hydra.sweep.dir."
            )

    def changes(self, task: Task, *, whole: bool) -> list[str]:
        """What a run that is there has otherwise than it would have now, in words.

        **Arguments:**

        - `task`: the run.
        - `whole`: compare configurations too, not only what was typed.
        """
        hydra = task.folder / ".hydra"
        then, now = (
            sorted(word for word in map(str, words) if changes_results(word))
            for words in (read(hydra / "overrides.yaml"), task.words)
        )
        if then != now:
            return [f"{' '.join(then)} (now {' '.join(now)})"]
        if not whole:
            return []
        plain = OmegaConf.to_container(without_hydra(self.compose(task)), resolve=False)
        found = differences(read(hydra / "config.yaml"), plain)  # pyright: ignore[reportArgumentType]
        return [change.replace("(recipe: ", "(now ") for change in found]

    def run(self, words: Sequence[Sequence[str]], first: int = 0) -> list[Task]:
        """Do what is missing; returns all jobs. Raises `BadRequest`, and `KeyboardInterrupt` if asked to stop.

        **Arguments:**

        - `words`: the overrides of each job.
        - `first`: the number of the first.
        """
        named: dict[Path, Task] = {}
        for number, one in enumerate(words, first):
            task = self.task(one, number)
            named.setdefault(task.folder, task)
        tasks = list(named.values())
        self.claim(tasks)
        for task in tasks:
            task.state = "done" if task.completed else "queued"
        todo = [task for task in tasks if task.state == "queued"]
        self.board.show(tasks, resumed=sum(task.resumable for task in todo))
        if todo:
            try:
                self.stream(todo, min(self.at_once(), len(todo)))
            finally:
                self.board.close(tasks)
        return tasks

    def stream(
        self,
        tasks: Iterable[Task],
        at_once: int,
        *,
        turn: Callable[[], None] = lambda: None,
        ended: Callable[[Task], None] = lambda task: None,
    ) -> None:
        """Run jobs, each taken from the iterator when there is room for it.

        **Arguments:**

        - `tasks`: the jobs.
        - `at_once`: how many run at the same time.
        - `turn`: called several times a second.
        - `ended`: called with each job that has ended.

        Raises `KeyboardInterrupt` if it was asked to stop.
        """
        threads = self.settings.threads or pool.shared_threads(at_once)
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        warm = self.settings.fork and fork.ready(environment)
        begin = fork.forked if warm else pool.plain
        running: dict[pool.Job, Task] = {}

        def prepared() -> Iterator[pool.Job]:
            for task in tasks:
                try:
                    task.job = self.prepare(task, begin)
                except BadRequest as error:
                    task.state, task.error = "failed", str(error)
                    conclude(task)
                    if runner.asked:
                        return
                    continue
                running[task.job] = task
                yield task.job

        def over(job: pool.Job) -> None:
            task = running.pop(job)
            task.conclude(job)
            conclude(task)

        def conclude(task: Task) -> None:
            ended(task)
            self.board.ended(task)
            if task.state == "failed" and self.settings.on_error == "stop" and not runner.asked:
                runner.stop()

        def look(jobs: Sequence[pool.Job]) -> None:
            turn()
            for job in jobs:
                if isinstance(job.process, pool.Queued):
                    running[job].state = "queued" if job.process.waiting else "running"
            self.board.turn()

        runner = pool.Pool(at_once, over, turn=look, quiet=True, threads=threads, gpus=self.gpus)
        with self.board:
            interrupted = runner.run(prepared())
        if interrupted:
            raise KeyboardInterrupt

    def prepare(self, task: Task, begin: "Callable[..., pool.Process]") -> pool.Job:
        """The process of a job. Raises `BadRequest`."""
        cfg = self.compose(task)

        def started(slot: pool.Slot) -> "pool.Process | None":
            if task.completed:  # by another sweep, meanwhile
                return None
            (task.folder / "result.json").unlink(missing_ok=True)
            task.state = "running"
            if self.queue:
                return self.queue.submit(task.name, task.folder, cfg, slot, gpus)
            return begin((run_job, cfg), slot)

        gpus = wanted_gpus(cfg.trainer)
        if self.queue and cfg.trainer.accelerator == "auto":
            gpus = 0  # those of this machine say nothing of those of others
        return pool.Job(task.name, task.folder, started, gpus, remote=self.queue is not None)


def numbered(cfg: DictConfig, number: int) -> DictConfig:
    """A configuration that knows the number of its job."""
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
    return cfg


def wanted_gpus(trainer: DictConfig) -> int:
    """How many GPUs a run is to be handed: none if it computes elsewhere, or names its own."""
    if trainer.accelerator not in ("auto", "gpu", "cuda") or OmegaConf.is_list(trainer.devices):
        return 0
    devices = str(trainer.devices)
    return int(devices) if devices.isdigit() else 1


def read(path: Path) -> Any:
    """The content of a YAML file of a run; an empty list if it cannot be read."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, OmegaConfBaseException, YAMLError):
        return []
