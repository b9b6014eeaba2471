"""The folder of traced and compiled kernels: shared by processes, rebuilt where damaged, never needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snnrun.neuron.kernel import cache

RUN = """
import sys, torch
from unittest.mock import Mock
from snnrun.neuron import LIF, ALIF
from snnrun.neuron.kernel import program
from snnrun.surrogate import ATan
program.trace = Mock(side_effect=program.trace)
x = torch.linspace(-1, 3, 60).view(5, 3, 4).requires_grad_()
for neuron in (LIF(ATan()), ALIF(ATan())):
    (grad,) = torch.autograd.grad((neuron(x) * x.detach()).sum(), x)
    print(float(grad.double().sum()))
assert "torch._dynamo" not in sys.modules, "importing it takes seconds"
print("traced", program.trace.call_count)
"""


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**os.environ, "SNNRUN_CACHE": str(folder), **environment},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_many_processes_on_an_empty_cache_and_damaged_files(count, tmp_path):
    first = [lines(p) for p in [start(tmp_path) for _ in range(count)]]
    assert all(found[:2] == first[0][:2] for found in first)
    files = sorted(tmp_path.iterdir())
    assert {f.suffix for f in files} == {".json", ".o"}, "unfinished files stay behind"
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if number % 2 else b"x" * len(content))
    assert lines(start(tmp_path)) == [*first[0][:2], "traced 2"]
    assert lines(start(tmp_path)) == [*first[0][:2], "traced 0"]


@pytest.fixture
def fresh(monkeypatch):
    cache.folder.cache_clear()
    yield monkeypatch
    cache.folder.cache_clear()


def test_the_folder_is_the_users_cache(fresh, tmp_path):
    fresh.delenv("SNNRUN_CACHE")
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "snnrun"


def test_a_folder_that_cannot_be_made_is_replaced_by_a_temporary_one(fresh, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    fresh.setenv("SNNRUN_CACHE", str(tmp_path / "file" / "below"))
    fresh.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    found = cache.folder()
    assert found is not None and found.parent == tmp_path / "temporary"
    assert found.stat().st_mode & 0o077 == 0


def test_no_folder_at_all(fresh, tmp_path):
    (tmp_path / "file").touch()
    fresh.setenv("SNNRUN_CACHE", str(tmp_path / "file" / "below"))
    fresh.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert cache.folder() is None
    cache.write("name", b"content")
    assert cache.read("name") is None


def test_what_is_read_is_what_was_written(fresh, tmp_path):
    fresh.setenv("SNNRUN_CACHE", str(tmp_path))
    assert cache.read("name") is None
    cache.write("name", b"content")
    assert cache.read("name") == b"content"
    (tmp_path / "name").write_bytes((tmp_path / "name").read_bytes()[:-1])
    assert cache.read("name") is None
    assert [f.name for f in tmp_path.iterdir()] == ["name"]


def test_digests_tell_where_parts_end():
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert cache.digest("ab") == cache.digest(b"ab")
