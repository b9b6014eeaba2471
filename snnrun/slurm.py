"""Jobs that Slurm runs, a run each: queued, looked after, and queued again where Slurm stops one before its end."""

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig

from snnrun import launch
from snnrun.config import BadRequest
from snnrun.pool import Process, Slot

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

# in which a job stays
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
OVER |= {"BOOT_FAIL", "DEADLINE", "REVOKED"}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
INTERVAL = 5.0  # seconds between two looks at the queue
PATIENCE = 30.0  # seconds until a network file system shows what another machine has written


@dataclass(frozen=True)
class Settings:
    """What is asked of Slurm for each job; None leaves it to Slurm.

    **Arguments:**

    - `timeout_min`: time limit in minutes, after which a job is queued again and goes on.
    - `signal_delay_s`: how many seconds before that it is told to stop.
    - `max_num_timeout`: how often a job may reach the limit and be queued again.
    - `cpus_per_task`: processors, and threads.
    - `gpus_per_node`: GPUs; None: as many as `trainer.devices` where `trainer.accelerator` is gpu or cuda.
    - `mem_gb`: memory in GB.
    - `partition`, `account`, `qos`, `constraint`: see `sbatch`.
    - `additional_parameters`: other options of `sbatch`, without the dashes before them.
    """

    timeout_min: int = 60
    signal_delay_s: int = 120
    max_num_timeout: int = 100
    cpus_per_task: int = 1
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, least in (("timeout_min", 1), ("cpus_per_task", 1), ("max_num_timeout", 0)):
            if getattr(self, name) < least:
                raise BadRequest(
                    f"hydra.launcher.{name} must be at least {least}, got {getattr(self, name)}."
                )
        if not 0 < self.signal_delay_s < 60 * self.timeout_min:
            raise BadRequest(
                f"hydra.launcher.signal_delay_s must be above 0 and less than timeout_min, {60 * self.timeout_min} s,"
                f" got {self.signal_delay_s}."
            )
        for one in fields(self):
            value = getattr(self, one.name)
            words = [*value, *value.values()] if isinstance(value, Mapping) else [value]
            if any("\n" in str(word) for word in words):  # it would be a line of a script
                raise BadRequest(f"hydra.launcher.{one.name} must be of one line, got {value!r}.")

    def parameters(self, name: str, gpus: int) -> dict[str, Any]:
        """What submitit is told of a job.

        **Arguments:**

        - `name`: what it is called.
        - `gpus`: how many the run asks for.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        del found["max_num_timeout"]
        found["gpus_per_node"] = gpus if self.gpus_per_node is None else self.gpus_per_node
        found["gpus_per_node"] = found["gpus_per_node"] or None
        found["additional_parameters"] = {"requeue": True, **self.additional_parameters}
        told = {key: value for key, value in found.items() if value is not None}
        return {"name": name, "nodes": 1, "tasks_per_node": 1, **told}


class Queue:
    """What of Slurm's queue belongs to this user.

    **Arguments:**

    - `settings`: what is asked of Slurm for each job.

    Raises `BadRequest` if there is no Slurm, or no submitit.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        problems = []
        if find_spec("submitit") is None:
            problems.append("hydra/launcher=slurm needs submitit: pip install 'snnrun[slurm]'.")
        if missing := [p for p in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(p)]:
            problems.append(
                f"hydra/launcher=slurm needs Slurm: there is no {', '.join(missing)} on this machine. Type the sweep"
                " where jobs are submitted, or leave hydra/launcher=slurm out."
            )
        if problems:
            raise BadRequest("\n".join(problems))
        self.looked = 0.0
        self.known: dict[str, tuple[str, str]] = {}  # of a job's number state and name

    def look(self, *, now: bool = False) -> dict[str, tuple[str, str]]:
        """The state and the name of every job, as they were some seconds ago.

        **Arguments:**

        - `now`: ask Slurm in any case.
        """
        if now or time.monotonic() > self.looked + INTERVAL:
            words = ["squeue", "--noheader", "--states=all", f"--user={getpass.getuser()}"]
            done = subprocess.run([*words, "--format=%i|%T|%j"], capture_output=True, text=True)
            self.looked = time.monotonic()
            if done.returncode == 0:  # or its controller is busy, and what was known last stays
                rows = (line.split("|", 2) for line in done.stdout.splitlines())
                self.known = {number: (state, name) for number, state, name in rows}
        return self.known

    def submit(self, name: str, folder: Path, cfg: DictConfig, slot: Slot, gpus: int) -> Process:
        """Put a run into the queue, or find the job that an earlier sweep has put there.

        **Arguments:**

        - `name`: what the job is called.
        - `folder`: the run's directory; messages of the job go to `slurm` in it.
        - `cfg`: its configuration.
        - `slot`: what it was handed.
        - `gpus`: how many it asks for.
        """
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError

        place = folder / "slurm"
        before = {file.name.partition("_")[0] for file in place.glob("*_submitted.pkl")}
        for number, (state, called) in self.look(now=bool(before)).items():
            if number in before and called == name and state not in OVER:
                return Submitted(self, number, folder, slot)
        executor = AutoExecutor(
            place, cluster="slurm", slurm_max_num_timeout=self.settings.max_num_timeout
        )
        told = self.settings.parameters(name, gpus)
        known = {"name", "nodes", "tasks_per_node", "timeout_min", "cpus_per_task"}
        known |= {"gpus_per_node", "mem_gb"}
        executor.update_parameters(
            **{k if k in known else f"slurm_{k}": value for k, value in told.items()}
        )
        try:
            job = executor.submit(Call(cfg, sys.path, slot.environment))
        except FailedJobError as error:
            return Refused(str(error), slot)
        self.known[job.job_id] = ("PENDING", name)
        return Submitted(self, job.job_id, folder, slot)


class Submitted:
    """A job of Slurm, as `subprocess.Popen` would show a process.

    **Arguments:**

    - `queue`: the queue.
    - `number`: the job's.
    - `folder`: the run's directory.
    - `slot`: what the job was handed; the lock is held until the job is over.
    """

    def __init__(self, queue: Queue, number: str, folder: Path, slot: Slot):
        self.queue, self.number, self.folder, self.quiet = queue, number, folder, slot.quiet
        self.lock = None if slot.lock is None else os.dup(slot.lock)
        self.over: float | None = None  # since when
        self.code: int | None = None

    @property
    def state(self) -> str:
        """What Slurm says of it; empty where it has forgotten it."""
        return self.queue.look().get(self.number, ("", ""))[0]

    @property
    def waiting(self) -> bool:
        """Whether it does not run yet, or not again."""
        return self.state in WAITING

    def poll(self) -> int | None:
        """0 if it has come to its end, 1 if it has ended otherwise; None before."""
        if self.code is None and (not self.state or self.state in OVER):
            self.over = self.over or time.monotonic()
            done = self.state == "COMPLETED"
            if done and not (self.folder / "result.json").exists():
                done = False
                if time.monotonic() < self.over + PATIENCE:
                    return None
            self._end(0 if done else 1)
        return self.code

    def _end(self, code: int) -> None:
        self.code = code
        if self.lock is not None:
            os.close(self.lock)
        if code and self.quiet:
            tell(self.number, self.state, self.folder / "slurm", self.quiet)

    def send_signal(self, sig: int, /) -> None:
        """Cancel it: whatever the signal, the run gets SIGTERM, and some time to write its checkpoint."""
        subprocess.run(["scancel", self.number], capture_output=True)


class Refused:
    """A job that Slurm has not taken.

    **Arguments:**

    - `reason`: what `sbatch` said.
    - `slot`: what the job was handed.
    """

    def __init__(self, reason: str, slot: Slot):
        if slot.quiet:
            slot.quiet.write(reason.encode())

    def poll(self) -> int:
        """It has ended."""
        return 1

    def send_signal(self, sig: int, /) -> None:
        """Nothing."""


def tell(number: str, state: str, place: Path, out: "IO[bytes]") -> None:
    """Write why a job has ended."""
    errors = place / f"{number}_0_log.err"
    lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
    reason = f"Slurm ended job {number}: {state or 'it knows it no more'}."
    if state == "TIMEOUT":
        reason += " It had not stopped in time: hydra.launcher.signal_delay_s says how long before."
    out.write("\n".join([*lines[-5:], reason, f"Its messages: {place}"]).encode())


# --- in the job


@dataclass
class Call:
    """What a job does.

    **Arguments:**

    - `cfg`: the configuration of the run.
    - `path`: where modules are found.
    - `environment`: variables that differ from those with which it was submitted.
    """

    cfg: DictConfig
    path: list[str]
    environment: dict[str, str]

    def __call__(self) -> None:
        """Begin the run or go on with it; if it was told to stop because the job's time is over, queue it again."""
        from submitit import JobEnvironment

        sys.path[:] = self.path
        os.environ.update(self.environment)
        folder = Path(self.cfg.hydra.runtime.output_dir)
        code = 0 if launch.status(folder) == "completed" else launch.job(self.cfg)
        job = JobEnvironment()
        if code == 130 and running(job.job_id):
            signal.raise_signal(job._usr_sig())  # now it is submitit that listens
        if code:
            sys.exit(code)

    def checkpoint(self) -> "DelayedSubmission":
        """What the job does when it is queued again: the same, for the run has written its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def running(number: str) -> bool:
    """Whether Slurm lets a job go on: not one that was cancelled, or that it queues again by itself."""
    words = ["squeue", "--noheader", f"--jobs={number}", "--format=%T"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() == "RUNNING"
