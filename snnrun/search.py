"""Searches: Optuna proposes the values of trials, which are jobs of a sweep, and stops those that lag behind."""

import csv
import math
import shlex
import signal
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from snnrun.check import values_of
from snnrun.config import BadRequest, cannot_write, file_name, parse
from snnrun.jobs import Sweep, Task
from snnrun.sweep import JobsFailed
from snnrun.whole import whole

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, Trial, TrialState
except ImportError as error:
    raise BadRequest("hydra/sweeper=optuna needs Optuna: pip install 'snnrun[optuna]'.") from error


FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Settings:
    """How a search proceeds.

    **Arguments:**

    - `n_trials`: how many trials there are to be in all, those of earlier calls included; None: the whole grid.
    - `sampler`: what proposes values.
    - `seed`: of the sampler.
    - `objectives`: numbers of `result.json`: a metric, or keys joined by dots.
    - `directions`: whether to maximize or to minimize each.
    - `pruner`: what stops trials that lag behind the others.
    - `prune_after`: for how many epochs none is stopped.
    - `storage`: what remembers the trials: a journal file, or a SQLite data base.
    """

    n_trials: int | None
    sampler: Literal["tpe", "random", "grid", "cmaes"]
    seed: int | None
    objectives: Sequence[str]
    directions: Sequence[str]
    pruner: Literal["none", "median", "hyperband"]
    prune_after: int
    storage: Literal["journal", "sqlite"]

    def __post_init__(self):
        if self.n_trials is None and self.sampler != "grid":
            raise BadRequest("hydra.sweeper.n_trials=null means the whole grid; give a number.")
        if self.n_trials is not None and self.n_trials < 1:
            raise BadRequest(f"hydra.sweeper.n_trials must be at least 1, got {self.n_trials}.")
        if self.prune_after < 0:
            raise BadRequest(
                f"hydra.sweeper.prune_after must be 0 or more, got {self.prune_after}."
            )
        if not self.objectives or len(self.objectives) != len(self.directions):
            raise BadRequest(
                "hydra.sweeper.objectives and directions must be lists of the same length, got"
                f" {', '.join(self.objectives)} and {', '.join(self.directions)}."
            )
        for name in self.objectives:
            if name.startswith("test/"):
                raise BadRequest(f"{name} is no objective: nothing is chosen by test data.")
        for direction in self.directions:
            if direction not in ("maximize", "minimize"):
                raise BadRequest(
                    f"hydra.sweeper.directions must be maximize or minimize, got {direction}."
                )
        if self.pruner != "none" and len(self.objectives) > 1:
            raise BadRequest(
                f"hydra.sweeper.pruner={self.pruner} takes one objective, not {len(self.objectives)}."
            )
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise BadRequest("hydra.sweeper.sampler=cmaes takes one objective; tpe takes several.")


# --- the space


def distribution(override: Override) -> BaseDistribution:
    """Where Optuna draws a value from. Raises `BadRequest`."""
    value, tags = override.value(), getattr(override.value(), "tags", set())
    if tags - {"log"}:
        raise BadRequest(f"{override.input_line}: there is no tag but log.")
    log = "log" in tags
    try:
        if isinstance(value, IntervalSweep):
            whole = isinstance(value.start, int) and isinstance(value.end, int)
            kind = IntDistribution if whole else FloatDistribution
            return kind(value.start, value.end, log=log)  # pyright: ignore[reportArgumentType]
        if isinstance(value, RangeSweep):
            steps = list(value.range())
            if all(isinstance(step, int) for step in steps):
                step = abs(int(value.step))
                return IntDistribution(min(steps), max(steps), log=log, step=step)  # pyright: ignore[reportArgumentType]
            low, high = float(min(steps)), float(max(steps))
            return FloatDistribution(low, high, log=log, step=abs(float(value.step)))
        if log:
            raise ValueError("only intervals and ranges have a logarithm")
        return CategoricalDistribution(list(dict.fromkeys(values_of(override))))
    except ValueError as error:
        raise BadRequest(f"{override.input_line}: {error}") from error


def grid(space: Mapping[str, Override]) -> list[dict[str, Any]]:
    """Every combination of values. Raises `BadRequest` for an interval."""
    for override in space.values():
        if override.is_interval_sweep():
            raise BadRequest(f"{override.input_line}: a grid has no intervals.")
    axes = []
    for key, override in space.items():
        value = override.value()
        steps = list(value.range()) if isinstance(value, RangeSweep) else values_of(override)
        axes.append([(key, step) for step in dict.fromkeys(steps)])
    return [dict(combination) for combination in product(*axes)]


def words(params: Mapping[str, Any], *, short: bool = False) -> list[str]:
    """Values as overrides; with `short` rounded, to be read.

    **Arguments:**

    - `params`: by key.
    - `short`: four digits of a float suffice.
    """

    def text(value: Any) -> str:
        return f"{value:.4g}" if short and isinstance(value, float) else str(value)

    return [f"{key}={text(value)}" for key, value in params.items()]


# --- the search


class Search:
    """A study of Optuna's whose trials are the jobs of a sweep.

    **Arguments:**

    - `sweep`: how and where jobs are run.
    - `settings`: how the search proceeds.
    - `overrides`: what was typed, and what the configuration says to be varied.

    Raises `BadRequest`.
    """

    def __init__(self, sweep: Sweep, settings: Settings, overrides: Sequence[str]):
        self.sweep, self.settings = sweep, settings
        parsed = parse(overrides, sweep.choices)
        keyed = {o.get_key_element(): o for o in parsed}  # what was typed stands behind
        varied = {key: o for key, o in keyed.items() if o.is_sweep_override()}
        self.fixed = [str(o.input_line) for key, o in keyed.items() if key not in varied]
        if not varied:
            raise BadRequest(
                "There is nothing to search: no key has several values, as in"
                " 'optimizer.lr=tag(log,interval(1e-4,1e-1))' or neuron=lif,plif."
            )
        self.space = {key: distribution(o) for key, o in varied.items()}
        self.grid = grid(varied) if settings.sampler == "grid" else None
        self.live: dict[Task, Trial] = {}
        self.lagging: set[Task] = set()  # stopped for that
        self.told: dict[Task, int] = {}  # rows of metrics
        self.known: dict[Task, set[int]] = {}  # epochs that Optuna was told of before
        self.folder = sweep.folder
        self.epochs = int(sweep.master.trainer.max_epochs)

    @property
    def budget(self) -> int:
        """How many trials there are to be."""
        given, all_of_it = self.settings.n_trials, len(self.grid or ())
        return min(given or all_of_it, all_of_it) if self.grid is not None else given or 0

    def open(self) -> optuna.Study:
        """The study in the sweep's directory, begun or gone on with. Raises `BadRequest`."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = [StudyDirection[d.upper()] for d in self.settings.directions]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadRequest(cannot_write(self.folder, error)) from error
        storage = self._storage()
        before = {s.study_name: s for s in optuna.get_all_study_summaries(storage)}.get("search")
        if before and before.directions != directions:
            raise BadRequest(
                f"{self.folder} holds a search with other objectives. Choose another hydra.sweep.dir."
            )
        study = optuna.create_study(
            study_name="search",
            storage=storage,
            sampler=self._sampler(before.n_trials if before else 0),
            pruner=self._pruner(),
            directions=directions,
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.distributions != self.space:
                raise BadRequest(
                    f"{self.folder} holds a search of another space. Choose another hydra.sweep.dir."
                )
        return study

    def _storage(self) -> Any:
        if self.settings.storage == "sqlite":
            return optuna.storages.RDBStorage(f"sqlite:///{self.folder / 'study.db'}")
        from optuna.storages.journal import JournalFileBackend

        return optuna.storages.JournalStorage(
            JournalFileBackend(str(self.folder / "study.journal"))
        )

    def _sampler(self, trials: int) -> optuna.samplers.BaseSampler:
        """What proposes values; one that goes on does not propose those of its beginning again."""
        seed = None if self.settings.seed is None else self.settings.seed + trials
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if (
                self.settings.sampler == "tpe"
            ):  # trials that run are taken to be bad: others are tried
                return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            if self.settings.sampler == "cmaes":
                try:
                    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
                except ImportError as error:
                    raise BadRequest(
                        "hydra.sweeper.sampler=cmaes needs cmaes: pip install 'snnrun[optuna]'."
                    ) from error
        return optuna.samplers.RandomSampler(seed)

    def _pruner(self) -> optuna.pruners.BasePruner:
        after = self.settings.prune_after
        if self.settings.pruner == "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=after)
        if self.settings.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(max(1, after), max(1, after, self.epochs))
        return optuna.pruners.NopPruner()

    def run(self) -> None:
        """Run trials until there are as many as there are to be.

        Raises `JobsFailed`, and `KeyboardInterrupt` if it was asked to stop.
        """
        self.sweep.compare([])
        self.study = study = self.open()
        ended = study.get_trials(deepcopy=False, states=FINISHED)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        drawn = (self.task(trial) for trial in (*ended, *running) if self.drawn(trial))
        begun = (task for task in drawn if task.completed or task.resumable)
        self.sweep.claim(list(islice(begun, 1)))  # the others differ from it in values only
        for values in self.grid or ():
            study.enqueue_trial(values, skip_if_exists=True)
        self.report(ended, running)
        left = max(0, self.budget - len(ended) - len(running)) + len(running)
        tasks: list[Task] = []
        try:
            if left:
                at_once = min(self.sweep.at_once(), left)
                self.sweep.stream(
                    self.trials(running, tasks), at_once, turn=self.prune, ended=self.tell
                )
        finally:
            self.write()
            self.summary()
        if any(task.state == "failed" for task in tasks):
            raise JobsFailed

    def report(self, ended: Sequence[FrozenTrial], running: Sequence[FrozenTrial]) -> None:
        """Say how many trials there are, and are to be."""
        counts = {
            "done before": len(ended),
            "to go on with": len(running),
            "to run": max(0, self.budget - len(ended) - len(running)),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        of = f" of {len(self.grid)} combinations" if self.grid else ""
        self.sweep.board.say(f"sweep     {self.folder}\ntrials    {self.budget}{of}: {told}")
        self.sweep.board.total = sum(counts.values()) - len(ended)

    def trials(self, running: Sequence[FrozenTrial], tasks: list[Task]) -> Iterator[Task]:
        """The jobs of trials that were interrupted, then of new ones until there are enough."""
        for frozen in running:
            if not self.drawn(frozen):
                self.study.tell(frozen.number, state=TrialState.FAIL)
                continue
            trial = Trial(self.study, frozen._trial_id)
            yield self.begun(trial, tasks, frozen.intermediate_values)
        while self.spent() < self.budget:
            yield self.begun(self.study.ask(self.space), tasks)

    def drawn(self, trial: FrozenTrial) -> bool:
        """Whether a trial has all of its values: not if the process was killed as it began."""
        return set(trial.params) == set(self.space)

    def spent(self) -> int:
        """How many trials have been begun."""
        waiting = (TrialState.WAITING,)
        return sum(t.state not in waiting for t in self.study.get_trials(deepcopy=False))

    def begun(self, trial: Trial, tasks: list[Task], known: Iterable[int] = ()) -> Task:
        """The job of a trial, of which Optuna knows some epochs."""
        task = self.task(trial)
        self.live[task], self.known[task] = trial, set(known)
        tasks.append(task)
        self.sweep.board.tasks.append(task)
        return task

    def task(self, trial: "Trial | FrozenTrial") -> Task:
        """The job that a trial is."""
        params = {key: trial.params[key] for key in self.space}
        name = ",".join([f"{trial.number:03}", *words(params, short=True)])
        overrides = [*self.fixed, *words(params)]
        return Task(trial.number, name, overrides, self.folder / file_name(name))

    def prune(self) -> None:
        """Tell Optuna of the epochs that have ended, and stop trials that lag behind."""
        if self.settings.pruner == "none":
            return
        (objective,) = self.settings.objectives
        for task, trial in self.live.items():
            if task.job is None or task.state != "running" or task in self.lagging:
                continue
            rows = task.rows()
            for row in rows[self.told.get(task, 0) :]:
                value, epoch = number(row.get(objective)), number(row.get("epoch"))
                if value is not None and epoch is not None and int(epoch) not in self.known[task]:
                    trial.report(value, int(epoch))
                    last = int(epoch) + 1 >= self.epochs  # it is as good as done
                    if not last and trial.should_prune():
                        self.lagging.add(task)
                        task.job.stop(signal.SIGTERM)
            self.told[task] = len(rows)

    def tell(self, task: Task) -> None:
        """Tell Optuna how a trial ended; of one that was interrupted nothing, so that it is gone on with."""
        trial = self.live.pop(task)
        if task.state == "interrupted" and task in self.lagging:
            task.state = "pruned"
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif task.state == "failed":
            self.study.tell(trial.number, state=TrialState.FAIL)
        elif task.state == "done":
            values = [value_of(task.result, name) for name in self.settings.objectives]
            lacking = [
                name
                for name, value in zip(self.settings.objectives, values, strict=True)
                if value is None
            ]
            if lacking:
                task.state = "failed"
                task.error = f"its result.json has no number {' and no '.join(lacking)}"
                self.study.tell(trial.number, state=TrialState.FAIL)
            else:
                self.study.tell(trial.number, [value for value in values if value is not None])

    # --- what is left behind

    def write(self) -> None:
        """Write `trials.csv`, and with several objectives `pareto.csv`: the trials that no other surpasses in all."""
        trials = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        self._table("trials.csv", trials)
        if len(self.settings.objectives) > 1:
            self._table("pareto.csv", self.front())

    def front(self) -> list[FrozenTrial]:
        """The trials that no other surpasses: with one objective the best."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sorted(self.study.best_trials, key=lambda t: t.values) if complete else []

    def _table(self, name: str, trials: Sequence[FrozenTrial]) -> None:
        with whole(self.folder / name, newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["trial", "state", *self.settings.objectives, *self.space, "directory"])
            for trial in trials:
                values = trial.values or [""] * len(self.settings.objectives)
                params = [trial.params.get(key, "") for key in self.space]
                folder = self.task(trial).folder.name if self.drawn(trial) else ""
                state = trial.state.name.lower()
                table.writerow([trial.number, state, *values, *params, folder])

    def summary(self) -> None:
        """Say what was found."""
        trials = self.study.get_trials(deepcopy=False)
        states = {
            "done": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }
        counts = {name: sum(t.state == state for t in trials) for name, state in states.items()}
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        say = self.sweep.board.say
        say(f"{sum(counts.values())} of {self.budget} trials: {told or 'none ended'}")
        front = self.front()
        if len(self.settings.objectives) > 1 and front:
            say(f"front     {len(front)} trials: {self.folder / 'pareto.csv'}")
        for trial in front[:10] if len(self.settings.objectives) > 1 else front[:1]:
            scores = zip(self.settings.objectives, trial.values, strict=True)
            told = "  ".join(f"{name} {value:.6g}" for name, value in scores)
            say(f"{'trial' if len(front) > 1 else 'best':<10}{told}   {self.task(trial).name}")
        if front:
            say(f"next      snnrun eval {shlex.quote(str(self.task(front[-1]).folder))}")


def value_of(result: Mapping[str, Any], name: str) -> float | None:
    """A number of a result: a metric, or keys joined by dots; None if there is none."""
    value: Any = (result.get("metrics") or {}).get(name)
    if value is None:
        value = result
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def number(cell: str | None) -> float | None:
    """A cell of a metrics file."""
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
