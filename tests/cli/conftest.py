"""A command line without a process of its own."""

from collections.abc import Callable

import pytest

from snnrun.cli import _dispatch


@pytest.fixture
def in_process(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, list[str], str]]:
    """Runs a command line in the test's folder; returns the exit code, the lines on stdout, and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*words: str) -> tuple[int, list[str], str]:
        code = _dispatch(list(words))
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run
