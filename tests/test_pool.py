"""Several processes at once: order, failures, locks, signals."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snnrun.pool import Job, Pool, command

# in the place of snnrun: says what it was told, and ends with the code or the signal that it was told
CHILD = """\
import os, signal, sys, time
def stop(number, frame):
    print("told", number, flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
_, folder, what = sys.argv
os.makedirs(folder)
open(os.path.join(folder, "threads"), "w").write(os.environ.get("OMP_NUM_THREADS", ""))
if what == "wait":
    open(os.path.join(folder, "waiting"), "w").close()
    time.sleep(60)
if what != "0":
    print("it broke", file=sys.stderr)
sys.exit(int(what))
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes jobs whose process is the program above."""
    package = tmp_path / "fake" / "snnrun"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.chdir(tmp_path)  # where python -m looks first

    def make(name: str, what: str) -> Job:
        folder = tmp_path / "runs" / name
        return Job(name, folder, lambda slot: command([str(folder), what], slot))

    return make


@pytest.mark.parametrize("at_once", [1, 2])
def test_one_that_fails_does_not_stop_the_others(job, at_once, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    wanted = [job("a", "0"), job("b", "3"), job("c", "0")]
    ended: list[Job] = []
    assert not Pool(at_once, ended.append).run(wanted)
    assert sorted((j.name, j.code) for j in ended) == [("a", 0), ("b", 3), ("c", 0)]
    for one in ended:
        threads = (one.folder / "threads").read_text()
        assert threads == ("" if at_once == 1 else "3")
        assert one.error == ("it broke" if one.name == "b" and at_once == 2 else "")


def test_a_directory_in_use_is_left_alone(job):
    one, other = job("a", "0"), job("b", "0")
    one.folder.parent.mkdir()
    ended: list[Job] = []
    with (one.folder.parent / ".a.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not Pool(1, ended.append).run([one, other])
    assert [j.name for j in ended] == ["a", "b"]
    assert one.process is None and one.code is None and other.code == 0
    assert not one.folder.exists()


def test_a_run_that_nobody_here_started_is_left_alone(job, tmp_path):
    one = job("a", "0")
    one.folder.mkdir(parents=True)
    program = "import sys; from pathlib import Path; from snnrun.lock import lock; lock(Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}; print(flush=True); sys.stdin.read()", str(one.folder)],
        cwd=Path(__file__).parents[1],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout and process.stdout.readline()
        assert not one.start(quiet=False, environment={}) and one.busy
        process.communicate()
    assert list(one.folder.iterdir()) == [one.folder / ".lock"]


def test_the_lock_is_held_as_long_as_the_process_lives(job):
    one, again = job("a", "wait"), job("a", "0")
    assert one.start(quiet=False, environment={}) and one.process
    assert not again.start(quiet=False, environment={})
    one.process.kill()
    one.process.wait()
    assert again.start(quiet=False, environment={}) and again.process
    again.process.wait()


@pytest.fixture
def heard():
    """Ctrl-C and a closed terminal are noticed, though the tests may run under nohup or in the background."""
    defaults = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGHUP, signal.SIGTERM),
    ],
)
def test_a_signal_ends_what_runs_and_starts_nothing_more(job, tmp_path, number, told, heard):
    wanted = [job("a", "wait"), job("b", "wait"), job("c", "0")]
    waker = subprocess.Popen(  # sends the signal once both wait
        [sys.executable, "-c", WAKER, str(tmp_path / "runs"), str(os.getpid()), str(int(number))]
    )
    ended: list[Job] = []
    before = signal.getsignal(number)
    started = time.monotonic()
    assert Pool(2, ended.append).run(wanted)
    assert time.monotonic() - started < 50
    assert waker.wait() == 0
    assert sorted((j.name, j.code, j.asked) for j in ended) == [("a", 130, True), ("b", 130, True)]
    assert not wanted[2].folder.exists()
    assert signal.getsignal(number) == before


WAKER = """\
import os, sys, time
runs, pid, number = sys.argv[1:]
while not all(os.path.exists(os.path.join(runs, name, "waiting")) for name in "ab"):
    time.sleep(0.05)
os.kill(int(pid), int(number))
"""
