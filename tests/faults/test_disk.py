"""A disk that is full when metrics, a checkpoint, the result or the log are written: make room, and go on."""

import json
from pathlib import Path

import pytest

# leaves nothing free on the run's disk
FILL = """\
def fill():
    with open("mounted/ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

"""


@pytest.mark.parametrize(
    ("owner", "name", "n"),
    [
        pytest.param("CSV", "log_metrics", 1, marks=pytest.mark.slow),
        pytest.param("CSV", "log_metrics", 3, marks=pytest.mark.slow),
        pytest.param("AtomicCheckpointIO", "save_checkpoint", 1, marks=pytest.mark.slow),
        pytest.param("AtomicCheckpointIO", "save_checkpoint", 4, marks=pytest.mark.slow),
        ("result", "write", 1),
    ],
)
def test_full_while_writing(owner, name, n, words, mount, at_call, warm, same_end, tmp_path):
    place = mount("size=8M")
    folder = place / "run"
    before = FILL + at_call(n, "fill()", name, owner)
    done = warm(*words, "hydra.run.dir=mounted/run", cwd=tmp_path, before=before)
    told = done.stdout + done.stderr
    assert f"Cannot write to {folder}: No space left on device." in told
    assert (done.returncode, "Traceback" in told) == (1, False), told
    assert not (folder / "result.json").exists() or status(folder) == "failed"
    assert not list(folder.rglob(".*.part"))

    (place / "ballast").unlink()
    done = warm("resume", "mounted/run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(folder)


def status(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["status"]
