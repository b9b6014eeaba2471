"""What all tests share: one thread each, the command line as a subprocess, and where golden arrays are."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: threads of parallel tests would fight
os.environ.setdefault("WANDB_SILENT", "true")
# kernels are shared by all tests, and by the next run; not with the user
os.environ.setdefault("SNNRUN_CACHE", str(Path(tempfile.gettempdir()) / "snnrun-tests"))

Command = Callable[..., subprocess.CompletedProcess[str]]


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
