"""What all tests share: one thread each, the command line as a subprocess, and where golden arrays are."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: threads of parallel tests would fight
os.environ.setdefault("WANDB_SILENT", "true")
# kernels are shared by all tests, and by the next run; not with the user
os.environ.setdefault("SNNRUN_CACHE", str(Path(tempfile.gettempdir()) / "snnrun-tests"))

Command = Callable[..., subprocess.CompletedProcess[str]]

# has imported what every run needs and read the sources of its parts, and forks a process for each command line
WARM = """\
import gc, json, os, signal, sys, time
import hydra.main, hydra._internal.hydra, llvmlite.binding, rich.progress, sklearn.datasets
import snnrun.launch, snnrun.run
from hydra.core.hydra_config import HydraConfig
from snnrun.check import composed
from snnrun.cli import main
from snnrun.config import Choices

composed(Choices(), [])
HydraConfig.instance().cfg = None  # as in a process that has composed nothing
gc.freeze()  # or a collection in a child copies all pages

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(order["timeout"])
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["cwd"])
        for number, path in enumerate(("/dev/null", order["out"], order["err"])):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOCTTY
            os.dup2(os.open(path, flags), number)
        exec(order["before"], {})
        main(order["words"])  # raises SystemExit
    if order["kill"] is not None:
        end = time.monotonic() + order["kill"]
        while time.monotonic() < end and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", metavar="DIR", help="folder with golden arrays, one sub-folder a system"
    )


@pytest.fixture
def snnrun(tmp_path: Path) -> Command:
    """Runs `snnrun WORDS...` in a process of its own, in the test's folder."""

    def run(
        *words: str, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "snnrun", *words],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Runs `snnrun WORDS...` in a process of its own in the folder `cwd`, without the seconds that imports take.

    With `out`, a path, what is printed goes there, a terminal for example. `before` is Python that the process runs
    first; `kill` are the seconds after which it gets SIGKILL.
    """
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WARM],  # newer Pythons warn of forks beside threads
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    scratch = tmp_path_factory.mktemp("warm")

    def run(
        *words: str,
        cwd: Path,
        out: str | None = None,
        before: str = "",
        kill: float | None = None,
        timeout: int = 300,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        assert server.stdin and server.stdout
        files = [scratch / "out", scratch / "err"]
        for file in files:
            file.unlink(missing_ok=True)
        order: dict[str, Any] = {
            "words": words,
            "cwd": str(cwd),
            "out": out or str(files[0]),
            "err": out or str(files[1]),
            "timeout": timeout,
            "before": before,
            "kill": kill,
            "environment": {**os.environ, "COLUMNS": "100", **environment},
        }
        print(json.dumps(order), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        texts = [file.read_text() if file.exists() else "" for file in files]
        return subprocess.CompletedProcess(words, code, *texts)

    with server:
        yield run
        server.stdin.close()
        assert server.wait(60) == 0


@pytest.fixture(scope="session")
def trained(warm: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of two epochs, alone in its folder; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("trained")
    done = warm("trainer.max_epochs=2", "hydra.run.dir=run", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder / "run"
