"""Several processes at once, each at a directory of its own, that Ctrl-C ends cleanly."""

import fcntl
import gc
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from snnrun.lock import free

WORDS = "import sys; from snnrun.pool import unpacked; sys.exit(unpacked())"


class Process(Protocol):
    """What is asked of a process: of `subprocess.Popen`, say."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        ...

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal."""
        ...


@dataclass
class Slot:
    """What a job is handed when its turn comes.

    **Arguments:**

    - `lock`: a file descriptor, if any; the directory is the job's as long as its process has it open.
    - `environment`: variables that differ from those of this process.
    - `quiet`: where what it prints goes, stdout to nowhere and stderr here; None for the terminal.
    """

    lock: int | None
    environment: dict[str, str]
    quiet: "IO[bytes] | None" = None


@runtime_checkable
class Queued(Process, Protocol):
    """A process that begins when there is room for it."""

    @property
    def waiting(self) -> bool:
        """Whether it does not run yet, or not again."""
        ...


@dataclass(eq=False)
class Job:
    """Something to be done by a process at a directory.

    **Arguments:**

    - `name`: what it is called in messages.
    - `folder`: its directory. A lock beside it is handed to the process, which holds it from its first moment to its
      end, so that no other pool starts one; that of the run itself (`snnrun.lock`) must be free then.
    - `begin`: starts the process, when the directory is known to be free; None if nothing is left to do.
    - `gpus`: how many GPUs it computes on.
    - `remote`: it runs on another machine, perhaps already, and looks itself whether the directory is free.
    """

    name: str
    folder: Path
    begin: Callable[[Slot], Process | None]
    gpus: int = 0
    remote: bool = False
    code: int | None = None  # exit code; None if it never started
    error: str = ""  # what it printed, or why it did not start
    busy: bool = False  # another process is at its directory
    started: float = 0.0  # by the clock of `time.monotonic`
    ended: float = 0.0
    asked: bool = False  # to stop
    process: Process | None = field(default=None, repr=False)
    held: list[str] = field(default_factory=list)  # GPUs
    stderr: "IO[bytes] | None" = field(default=None, repr=False)

    def start(self, quiet: bool, environment: dict[str, str]) -> bool:
        """Start it, unless another process is at its directory; whether there is a process now.

        **Arguments:**

        - `quiet`: keep what it prints from the terminal; the run's own log has it.
        - `environment`: variables that differ from those of this process.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f".{self.folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.busy = not (self.remote or free(self.folder))
            except OSError:
                self.busy = True
            if self.busy:
                return False
            self.stderr = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115
            self.started = time.monotonic()
            self.process = self.begin(Slot(lock.fileno(), environment, self.stderr))
        return self.process is not None

    def stop(self, number: int) -> None:
        """Pass a signal on; what a closed terminal sends would end it without a checkpoint."""
        if self.process:
            self.asked = True
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def finished(self) -> bool:
        """Whether it has ended; then `code` and `error` are known."""
        assert self.process is not None
        self.code = self.process.poll()
        if self.code is None:
            return False
        self.ended = time.monotonic()
        if self.stderr:
            self.stderr.seek(0)
            self.error = self.stderr.read().decode(errors="replace").strip()
            self.stderr.close()
        return True


class Pool:
    """Runs jobs, so many at once; one that fails does not stop the others.

    **Arguments:**

    - `at_once`: how many run at the same time.
    - `ended`: called with each job that ended, or that was not started because its directory is in use.
    - `turn`: called several times a second with the jobs that run.
    - `quiet`: keep what the jobs print from the terminal; None: if they are several at once.
    - `threads`: how many each may use; None divides those of the machine, unless OMP_NUM_THREADS says otherwise.
    - `gpus`: the names of the GPUs to hand out; if fewer than jobs, several share one.
    """

    def __init__(
        self,
        at_once: int,
        ended: Callable[[Job], None],
        *,
        turn: Callable[[Sequence[Job]], None] = lambda running: None,
        quiet: bool | None = None,
        threads: int | None = None,
        gpus: Sequence[str] = (),
    ):
        self.at_once, self.ended, self.turn = at_once, ended, turn
        self.quiet = at_once > 1 if quiet is None else quiet
        self.threads = threads or shared_threads(at_once)
        self.gpus, self.sharing = gpus, math.ceil(at_once / max(1, len(gpus)))
        self.running: list[Job] = []
        self.asked: list[int] = []  # signals, to stop

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask what runs to stop, and start nothing more. Who does not listen twice is killed."""
        self.asked.append(number)
        for job in self.running:
            job.stop(number if len(self.asked) < 3 else signal.SIGKILL)

    def run(self, jobs: Iterable[Job]) -> bool:
        """Run jobs, each taken from the iterator when there is room for it; whether they were interrupted."""
        waiting, following = iter(jobs), None
        heard: list[int] = []

        def pass_on(number: int, frame: Any) -> None:
            heard.append(number)
            self.stop(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        known = {n: signal.getsignal(n) for n in numbers}
        previous = {n: handler for n, handler in known.items() if handler != signal.SIG_IGN}
        for number in previous:
            signal.signal(number, pass_on)
        try:
            more = True
            while self.running or (more and not self.asked):
                while more and not self.asked and len(self.running) < self.at_once:
                    following = following or next(waiting, None)
                    more = following is not None
                    if following is None or not self._room(following):
                        break
                    self._start(following)
                    following = None
                for job in [job for job in self.running if job.finished()]:
                    self.running.remove(job)
                    self.ended(job)
                self.turn(self.running)
                if self.running:
                    time.sleep(0.05)
        finally:
            for job in self.running:  # only if this loop broke
                job.stop(signal.SIGTERM)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return bool(heard)

    def _start(self, job: Job) -> None:
        environment = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        if self.gpus and job.gpus:
            job.held = self._free()[: job.gpus]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(job.held)
        self.running.append(job)  # before it starts: a signal in between must reach it
        if not job.start(self.quiet, environment):
            self.running.remove(job)
            self.ended(job)
        elif self.asked and not job.asked:
            job.stop(self.asked[-1])

    def _free(self) -> list[str]:
        """The GPUs with room for a job, the least used first."""
        used = Counter(gpu for job in self.running for gpu in job.held)
        return sorted((g for g in self.gpus if used[g] < self.sharing), key=lambda g: used[g])

    def _room(self, job: Job) -> bool:
        """Whether there are GPUs enough for a job, or as many as it will ever get."""
        return len(self._free()) >= min(job.gpus, len(self.gpus))


def shared_threads(at_once: int) -> int | None:
    """How many threads each of several jobs may use; None where that is settled otherwise."""
    if at_once == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // at_once)


# --- how a process starts


def command(words: Sequence[str], slot: Slot) -> Process:
    """A `snnrun` command.

    **Arguments:**

    - `words`: what follows `snnrun`.
    - `slot`: what the job was handed.
    """
    return started([sys.executable, "-m", "snnrun", *words], slot)


def plain(call: tuple[Any, ...], slot: Slot) -> Process:
    """A fresh interpreter that calls a function.

    **Arguments:**

    - `call`: a function that returns the exit code, and its arguments; all of them can be pickled.
    - `slot`: what the job was handed.
    """
    with tempfile.TemporaryFile() as packed:
        pickle.dump(sys.path, packed)
        pickle.dump(call, packed)
        packed.seek(0)
        return started([sys.executable, "-c", WORDS], slot, packed)


def unpacked() -> int:
    """Call the function that stdin holds, behind the places where modules are found."""
    sys.path[:] = pickle.load(sys.stdin.buffer)
    function, *arguments = pickle.load(sys.stdin.buffer)
    try:
        return function(*arguments)
    finally:
        gc.freeze()  # as `cli.main` does


def started(words: list[str], slot: Slot, stdin: "IO[bytes] | int" = subprocess.DEVNULL) -> Process:
    """A process that has the slot's lock, and that Ctrl-C reaches from here only, once."""
    return subprocess.Popen(
        words,
        env={**os.environ, **slot.environment},
        stdin=stdin,
        stdout=subprocess.DEVNULL if slot.quiet else None,
        stderr=slot.quiet,
        pass_fds=[] if slot.lock is None else [slot.lock],
        start_new_session=True,
    )
