"""What happens around a run: a clock that jumps, a loader process that dies, memory that ends, files that go, names."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

# at every look the time of day is another one, years before or after; the clock that only runs forward is let be
CLOCK = """\
import datetime, random, time

true, jumps = time.time, random.Random(0)
time.time = lambda: true() + jumps.uniform(-3e8, 3e8)
time.time_ns = lambda: int(time.time() * 1e9)

class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

datetime.datetime = Jumping
"""
GO_ON = "What was finished is kept. Go on with: snnrun resume {folder}\n"


@pytest.mark.slow
def test_a_clock_that_jumps(words, warm, same_end, tmp_path):
    done = warm(*words, "hydra.run.dir=run", cwd=tmp_path, before=CLOCK)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(tmp_path / "run")
    outcome = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < outcome["seconds"]["fit"] < 300


TROUBLE = {
    "loader": (
        "multiprocessing.active_children()[0].kill(); __import__('time').sleep(2)",
        "A loader process died: DataLoader worker (pid",
    ),
    "memory": ("raise MemoryError", "Out of memory: no more is to be had\nTry a smaller "),
    "torch": (
        "torch.empty(1 << 58, dtype=torch.uint8)",
        "Out of memory: [enforce fail at alloc_cpu.cpp",
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        "torch",
        pytest.param("loader", marks=pytest.mark.slow),
        pytest.param("memory", marks=pytest.mark.slow),
    ],
)
def test_trouble_in_the_second_epoch(name, words, warm, at_call, same_end, tmp_path):
    what, message = TROUBLE[name]
    folder = tmp_path / "run"
    done = warm(*words, "hydra.run.dir=run", cwd=tmp_path, before=at_call(13 + 5, what))
    assert message in done.stdout
    assert done.stdout.endswith(
        f"\nThe traceback is in {folder}/log.txt.\n{GO_ON.format(folder=folder)}"
    )
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (1, False)
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    done = warm("resume", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(folder)


@pytest.mark.slow
def test_memory_runs_out_in_a_job_of_a_sweep(warm, tmp_path):
    words = ("-m", "model.spec=8,10000000000", "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    done = warm(*words, "trainer.accelerator=cpu", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (1, False), done.stdout
    assert "    Out of memory: [enforce fail at alloc_cpu.cpp" in done.stdout
    assert "    Try a smaller dataset.batch_size" in done.stdout
    assert "\n1 of 2 jobs done, 1 failed\n" in done.stdout
    result = json.loads((tmp_path / "sweep" / "model.spec=8" / "result.json").read_text())
    assert result["status"] == "completed"


PICTURES = (
    *("dataset=imagenet", "paths.data=.", "dataset.size=8", "dataset.resize=8"),
    *("dataset.classes=2", "dataset.batch_size=4", "model=mlp", "model.spec=8"),
    *("trainer.max_epochs=2", "dataset.num_workers=1", "dataset.val_size=4"),
)


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("n1", "n2"):
            folder = tmp_path / "ImageNet" / split / name
            folder.mkdir(parents=True)
            for k in range(8):
                image = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
                image.save(folder / f"{k}.JPEG")
    return tmp_path / "ImageNet"


@pytest.mark.slow
def test_a_file_that_goes_in_the_middle_of_an_epoch(pictures, warm, at_call, tmp_path):
    done = warm(*PICTURES, "hydra.run.dir=whole", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    shutil.copytree(pictures, tmp_path / "copy")
    what = "[os.remove(p) for p in glob.glob('ImageNet/train/*/*')]"
    done = warm(*PICTURES, "hydra.run.dir=run", cwd=tmp_path, before=at_call(4, what))
    folder = tmp_path / "run"
    *_, message, advice = done.stdout.splitlines()
    assert message.startswith("ImageNet/train/n")
    assert message.endswith(".JPEG is gone. Put it back in its place.")
    assert f"{advice}\n" == GO_ON.format(folder=folder)
    assert (done.returncode, done.stderr) == (1, "")
    shutil.copytree(tmp_path / "copy", pictures, dirs_exist_ok=True)
    done = warm("resume", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    whole, again = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "run")
    )
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_spaces_and_letters_in_paths_an_ascii_locale_and_a_home_that_cannot_be_written(
    words, mount, same_end, tmp_path
):
    home = mount("ro")
    (tmp_path / "ä 実験").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "XDG_"))}
    environment |= {"HOME": str(home), "LANG": "C", "LC_ALL": "C"}
    del environment["SNNRUN_CACHE"]
    for verb in ((*words, "hydra.run.dir='lauf nr. 1 = ñ'"), ("plot", "lauf nr. 1 = ñ")):
        done = subprocess.run(
            [sys.executable, "-m", "snnrun", *verb],
            cwd=tmp_path / "ä 実験",
            env=environment,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # matplotlib says where it puts its cache
        assert verb[0] == "plot" or not done.stderr, done.stderr
    folder = tmp_path / "ä 実験" / "lauf nr. 1 = ñ"
    shutil.rmtree(folder / "plots")
    same_end(folder)
