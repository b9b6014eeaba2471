"""Output folders that refuse: below a file, read-only, full; and runs that were moved."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

ELSEWHERE = "Choose another place with paths.outputs=DIR or hydra.run.dir=DIR."


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("word", ["hydra.run.dir=file/run", "paths.outputs=file"])
def test_below_a_file(word, warm, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = warm(word, cwd=tmp_path)
    place = r"file/run" if "run.dir" in word else r"file/[\d_-]+_mlp_bptt_digits"
    assert re.fullmatch(
        rf"Cannot write to {place}: Not a directory\. {re.escape(ELSEWHERE)}\n", done.stderr
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_read_only_place_takes_no_new_run(mount, warm, tmp_path):
    mount("ro")
    done = warm("hydra.run.dir=mounted/run", cwd=tmp_path)
    assert done.stderr == (f"Cannot write to mounted/run: Read-only file system. {ELSEWHERE}\n")
    assert (done.returncode, done.stdout) == (2, "")
    done = warm("paths.outputs=mounted", cwd=tmp_path)
    assert re.fullmatch(
        r"Cannot write to mounted/[\d_-]+_mlp_bptt_digits: Read-only file system\. .+\n",
        done.stderr,
    )
    assert done.returncode == 2


def test_a_read_only_run_is_tested_but_neither_resumed_nor_drawn(mount, warm, trained, tmp_path):
    place = mount("size=4M")
    for name in ("done", "stopped"):
        shutil.copytree(trained, place / name)
    (place / "stopped" / "result.json").unlink()
    mount("remount,ro")
    done = warm("eval", "mounted/done", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)
    assert outcome["metrics"]["test/acc"] == result(trained)["metrics"]["test/acc"]
    done = warm("resume", "mounted/stopped", cwd=tmp_path)
    assert done.stderr == f"Cannot write to {place}/stopped: Read-only file system. {ELSEWHERE}\n"
    assert (done.returncode, done.stdout) == (2, "")
    done = warm("plot", "mounted/done", cwd=tmp_path)
    assert done.stderr == f"Cannot write to {place}/done/plots: Read-only file system.\n"
    assert (done.returncode, done.stdout) == (2, "")


def test_a_disk_that_is_full_takes_no_new_run(mount, warm, tmp_path):
    place = mount("size=16k")
    done = warm("hydra.run.dir=mounted/run", cwd=tmp_path)
    assert done.stderr == f"Cannot write to mounted/run: No space left on device. {ELSEWHERE}\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert list(place.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_was_finished_and_resume_goes_on(
    mount, warm, trained, same_end, tmp_path
):
    checkpoint = (trained / "checkpoints" / "last.ckpt").stat().st_size
    place = mount(f"size={2 * checkpoint + 150_000}")  # the second epoch's does not fit in
    folder = place / "run"
    done = warm("trainer.max_epochs=2", "hydra.run.dir=mounted/run", cwd=tmp_path)
    message = (
        f"Cannot write to {folder}: No space left on device. {ELSEWHERE}"
        f"\nWhat was finished is kept. Go on with: snnrun resume {folder}"
    )
    assert done.stdout.endswith(f"\n{message}\n")
    assert (done.returncode, done.stderr) == (1, "")
    failed = result(folder)
    assert (failed["status"], failed["error"], failed["metrics"]) == ("failed", message, {})
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 0
    assert not list(folder.rglob(".*.part"))

    mount("remount,size=8M")
    done = warm("resume", "mounted/run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(folder, trained)


def test_a_run_that_was_moved_resumes_with_the_best_score_it_had(warm, same_end, tmp_path):
    """The rate explodes after the first epoch, whose checkpoint stays the best."""
    words = (
        *("trainer.max_epochs=3", "scheduler=multi_step", "scheduler.milestones=[1]"),
        *("scheduler.gamma=300", "optimizer.lr=0.002", "trainer.limit_train_batches=8"),
    )
    done = warm(*words, "hydra.run.dir=whole", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    with (tmp_path / "whole" / "metrics.csv").open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file)]
    assert min(losses) == losses[0]
    done = warm(*words, "hydra.run.dir=before", "trainer.max_epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    (tmp_path / "before").rename(tmp_path / "after")
    (tmp_path / "after" / "result.json").unlink()
    done = warm("resume", "after", "trainer.max_epochs=3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(tmp_path / "after", tmp_path / "whole")
    assert not (tmp_path / "before").exists()
