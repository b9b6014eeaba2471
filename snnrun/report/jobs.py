"""Several commands at once, each a process of its own, that Ctrl-C ends cleanly."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass
class Job:
    """A `snnrun` command.

    **Arguments:**

    - `name`: what it is called in messages.
    - `words`: gives what follows `snnrun`; called when the directory is known to be free.
    - `folder`: the directory of its run; a lock beside it is held as long as the process lives.
    """

    name: str
    words: Callable[[], list[str]]
    folder: Path
    code: int | None = None  # exit code; None if it never started or is locked
    error: str = ""
    started: float = 0.0
    asked: bool = False  # to stop
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    stderr: "IO[bytes] | None" = field(default=None, repr=False)

    def start(self, quiet: bool, threads: int | None) -> bool:
        """Start it, unless another process is at its directory; whether it was started.

        **Arguments:**

        - `quiet`: keep what it prints from the terminal; the run's own log has it.
        - `threads`: how many threads it may use.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f".{self.folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self.stderr = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snnrun", *self.words()],
                env={**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=self.stderr,
                pass_fds=[lock.fileno()],  # the lock is the child's from here on
                start_new_session=True,  # a Ctrl-C reaches it from here, once
            )
        return True

    def stop(self, number: int) -> None:
        """Pass a signal on; what a closed terminal sends would end it without a checkpoint."""
        if self.process:
            self.asked = True
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def finished(self) -> bool:
        """Whether it has ended; then `code` and `error` are known."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        self.code = self.process.returncode
        if self.stderr:
            self.stderr.seek(0)
            self.error = self.stderr.read().decode(errors="replace").strip()
            self.stderr.close()
        return True


def run(jobs: Sequence[Job], at_once: int, ended: Callable[[Job], None]) -> bool:
    """Run jobs in order, so many at once; one that fails does not stop the others. Whether it was interrupted.

    **Arguments:**

    - `jobs`: what to run.
    - `at_once`: how many at the same time; the threads are divided among them.
    - `ended`: called with each job that ended, or that was not started because its directory is in use.
    """
    waiting, running = list(jobs), list[Job]()
    threads = None
    if at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    asked: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
        for job in running:
            job.stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, pass_on)
    try:
        while running or (waiting and not asked):
            while waiting and not asked and len(running) < at_once:
                job = waiting.pop(0)
                running.append(job)  # before it starts: a signal in between must reach it
                if not job.start(at_once > 1, threads):
                    running.remove(job)
                    ended(job)
                elif asked and not job.asked:
                    job.stop(asked[-1])
            for job in [job for job in running if job.finished()]:
                running.remove(job)
                ended(job)
            time.sleep(0.1)
    finally:
        for job in running:  # only if this loop broke
            job.stop(signal.SIGTERM)
        for number, handler in previous.items():
            signal.signal(number, handler)
    return bool(asked)
