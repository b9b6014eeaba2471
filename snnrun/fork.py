"""Processes forked from one that has imported torch already: each begins in milliseconds, and they share its memory."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, reduction
from typing import Any

from snnrun.pool import Process, Slot

SERVER = multiprocessing.get_context("forkserver")
LOADED = "snnrun.loaded"


def ready(environment: dict[str, str]) -> bool:
    """Start the process that is forked from, and wait until it has imported all; whether it may be forked from.

    It may not where it has threads, which a fork would lose, or has touched a GPU, which a fork cannot use.

    **Arguments:**

    - `environment`: variables that libraries read when they are loaded.
    """
    if sys.platform != "linux":
        return False
    SERVER.set_forkserver_preload([LOADED])
    # numpy's linear algebra would start threads
    with changed({"OPENBLAS_NUM_THREADS": "1", **os.environ, **environment}):
        forkserver.ensure_running()
    asked = SERVER.Process(target=answer)
    asked.start()
    asked.join()
    return asked.exitcode == 0


def answer() -> None:
    """End with 0 if the process that was forked may be forked."""
    from snnrun import loaded

    sys.exit(0 if loaded.SAFE else 1)


@contextmanager
def changed(environment: dict[str, str]) -> Iterator[None]:
    """Another environment, for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Forked:
    """A forked process, as `subprocess.Popen` would show it."""

    def __init__(self, *call: Any):
        self.process = SERVER.Process(target=child, args=call)
        self.process.start()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.exitcode

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal."""
        if self.process.exitcode is None and self.process.pid:
            os.kill(self.process.pid, sig)


def forked(call: tuple[Any, ...], slot: Slot) -> Process:
    """A process that calls a function; see `pool.plain`."""
    assert slot.lock is not None
    files = [Descriptor(slot.lock), *([Descriptor(slot.quiet.fileno())] if slot.quiet else [])]
    return Forked(files, slot.environment, *call)


class Descriptor:
    """An open file that goes with a process that is being started, where it is a number."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self) -> Any:
        return received, (reduction.DupFd(self.number),)


def received(file: Any) -> int:
    """The number of an open file, in the process that it went with."""
    return file.detach()


def child(files: list[int], environment: dict[str, str], function: Any, *arguments: Any) -> None:
    """What a forked process does: as if it had been started by itself, then the call."""
    with suppress(PermissionError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _, *quiet = files
    for stderr in quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(stderr, 2)
    os.environ.update(environment)
    sys.exit(function(*arguments))
