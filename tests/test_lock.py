"""A directory belongs to one process as long as that lives."""

import os
import platform
import signal
import subprocess
import sys

import pytest

from snnrun import lock as module
from snnrun.lock import NAME, Locked, lock, unlock, unlock_all

HOLD = "import sys; from pathlib import Path; from snnrun.lock import lock; lock(Path(sys.argv[1]))"


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked the folder, and a process of its own that lives longer."""
    program = f"{HOLD}; import os; os.fork(); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_until_the_first_is_killed(holder, tmp_path):
    with pytest.raises(Locked) as error:
        lock(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is in use by process {holder.pid} on {platform.node()}."
        " Wait until that has ended, or stop it."
    )
    assert (tmp_path / NAME).read_text() == f"process {holder.pid} on {platform.node()}\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait(60)  # its child lives on
    lock(tmp_path)
    assert (tmp_path / NAME).read_text().startswith(f"process {os.getpid()} ")
    unlock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_may_lock_twice_and_unlock_what_it_has_not_locked(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    unlock(one)
    lock(one)
    lock(tmp_path / "two" / ".." / "one")
    lock(two)
    unlock_all()
    assert not list(tmp_path.rglob(NAME)) and not module.held


def test_a_lock_that_was_taken_away_while_it_was_waited_for_counts_for_nothing(
    tmp_path, monkeypatch
):
    """The owner unlocks, and removes the file, after a second process has opened it."""
    opened, files = os.open, []

    def late(path, *args):
        files.append(opened(path, *args))
        if len(files) == 1:
            os.unlink(path)
        return files[-1]

    monkeypatch.setattr(os, "open", late)
    lock(tmp_path)
    assert len(files) == 2 and (tmp_path / NAME).exists()
    unlock(tmp_path)


def test_without_locks_nothing_is_kept_out(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "lockf", refuse)
    lock(tmp_path)
    assert not module.held and list(tmp_path.iterdir()) == []
