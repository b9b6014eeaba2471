"""A run that was never stopped, and whether another one ends as it does, bit for bit."""

import csv
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# everything that has a state of its own: dropout, augmentation by the encoder, schedule, accumulation,
# average of the weights, a loader process, batch statistics
CONFIGURATION = (
    *("model.spec=48-48", "model.dropout=0.2", "encoder=poisson", "neuron=plif"),
    *("scheduler=one_cycle", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"),
    *("ema=0.9", "dataset.num_workers=1", "dataset.batch_size=100", "trainer.max_epochs=3"),
)
SAME = ("status", "metrics", "selection", "epochs", "steps", "spikes", "ops", "data")


def rows(folder: Path) -> list[dict[str, str]]:
    """The metrics file without the one column that time decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def assert_same_end(one: Path, two: Path) -> None:
    assert rows(one) == rows(two)
    for name in ("best", "last"):
        a, b = checkpoint(one, name), checkpoint(two, name)
        assert list(a["state_dict"]) == list(b["state_dict"])
        for key, value in a["state_dict"].items():
            assert torch.equal(value, b["state_dict"][key]), (name, key)
        assert a["global_step"] == b["global_step"]
    first, second = result(one), result(two)
    for key in SAME:
        assert first[key] == second[key], key
    left = {str(path.relative_to(two)) for path in two.rglob("*") if path.is_file()}
    expected = {str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()}
    assert left == expected


# something happens when a method is called for the n-th time
CALL = """\
import glob, multiprocessing, os, signal, torch
from snnrun import result
from snnrun.callback import AtomicCheckpointIO
from snnrun.learner import Learner
from snnrun.logger import CSV

method, left = {owner}.{name}, [{n}]

def counted(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        {what}
    return method(*args, **kwargs)

{owner}.{name} = counted
"""


@pytest.fixture(scope="session")
def at_call() -> Callable[..., str]:
    """Code that a process runs first: the n-th training step, or call of another method, does something before."""

    def code(n: int, what: str, name: str = "training_step", owner: str = "Learner") -> str:
        return CALL.format(n=n, what=what, name=name, owner=owner)

    return code


@pytest.fixture(scope="session")
def words() -> tuple[str, ...]:
    """What is run: a network in which everything has a state, three epochs."""
    return CONFIGURATION


@pytest.fixture(scope="session")
def undisturbed(warm, words, tmp_path_factory) -> tuple[Path, float]:
    """The directory of the run that was never stopped, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    warm("--version", cwd=folder)  # what is forked from must be there before time is taken
    start = time.monotonic()
    done = warm(*words, "hydra.run.dir=run", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder / "run", time.monotonic() - start


@pytest.fixture(scope="session")
def whole(undisturbed) -> Path:
    """The directory of the run that was never stopped."""
    return undisturbed[0]


@pytest.fixture(scope="session")
def duration(undisturbed) -> float:
    """How long a run takes from its first line to its end."""
    return undisturbed[1]


@pytest.fixture(scope="session")
def same_end(whole) -> Callable[..., None]:
    """Asserts that a run has ended as another one that was never stopped; by default as the one above."""
    return lambda folder, other=whole: assert_same_end(other, folder)


Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path) -> Iterator[Mount]:
    """Mounts a small file system in memory, or changes its options."""
    place = tmp_path / "mounted"
    place.mkdir()

    def act(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"mounting is not permitted here: {error}")
        return place

    yield act
    subprocess.run(["umount", str(place)], check=False, capture_output=True)
