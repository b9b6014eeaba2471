"""Long runs, and many runs in one process, do not grow."""

import gc
import logging
import os
from pathlib import Path

import pytest

from snnrun import result
from snnrun.check import composed, without_hydra
from snnrun.config import Choices, group_defaults
from snnrun.learner import Learner
from snnrun.run import Run, quiet, train

CHOICES = Choices()
SMALL = (
    *("model.spec=8", "dataset.steps=2", "dataset.batch_size=100", "trainer.limit_train_batches=2"),
    *("trainer.accelerator=cpu", "trainer.deterministic=false"),
)


def memory() -> float:
    """What this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def small(folder: Path, *words: str) -> Run:
    cfg = composed(CHOICES, (*SMALL, *words))
    parts, cfg = group_defaults(cfg), without_hydra(cfg)
    cfg.logger.csv.save_dir = str(folder)
    folder.mkdir(exist_ok=True)
    return Run(cfg, folder, parts, [])


@pytest.fixture(autouse=True)
def silence():
    quiet()
    logging.getLogger("snnrun").setLevel(logging.ERROR)
    yield
    logging.getLogger("snnrun").setLevel(logging.DEBUG)


@pytest.mark.slow
def test_two_hundred_epochs(tmp_path, monkeypatch):
    held, end = [], Learner.on_train_epoch_end

    def watched(self):
        end(self)
        held.append((memory(), len(os.listdir("/proc/self/fd"))))

    monkeypatch.setattr(Learner, "on_train_epoch_end", watched)
    train(small(tmp_path, "trainer.max_epochs=200"), bar=False)
    assert len(held) == 200
    assert held[-1][0] - held[19][0] < 5, "MiB in 180 epochs"
    assert held[-1][1] == held[19][1], "open files"


@pytest.mark.slow
def test_a_hundred_runs_in_one_process(tmp_path):
    held = []
    for number in range(100):
        run = small(tmp_path / str(number), "trainer.max_epochs=1", f"seed={number}")
        result.write(train(run, bar=False), run.folder)
        gc.collect()
        held.append((memory(), len(gc.get_objects()), len(os.listdir("/proc/self/fd"))))
    assert held[-1][0] - held[39][0] < 10, "MiB in 60 runs"
    assert held[-1][1] - held[39][1] < 500, "objects"
    assert held[-1][2] == held[39][2], "open files"
