"""Data that are missing, truncated or damaged, as the command line tells of them."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

MNIST = """\
dataset=mnist: {count} missing in {root}/MNIST/raw:
{files}
Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds MNIST;\
 or fetch them with dataset.download=true.
"""
PUBLISHED = {
    "train-images-idx3-ubyte": "47,040,016 bytes, MD5 6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "60,008 bytes, MD5 a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "7,840,016 bytes, MD5 2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "10,008 bytes, MD5 27ae3e4e09519cfbb04c329615203637",
}
NMNIST = """\
dataset=nmnist: 2 files are missing in {root}/NMNIST:
  Train/*/*.bin  60,000 recordings of 5 bytes an event, published in train.zip, MD5 20959b8e626244a1b502305a9e6e2031
  Test/*/*.bin   10,000 recordings of 5 bytes an event, published in test.zip, MD5 69ca8762b2fe404d9b9bad1103e97832
Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds NMNIST;\
 or fetch them with dataset.download=true.
"""
HEADER = ["parts", "parameters", "input", "device", "directory", "seed"]
LEFT = " It was left as it is: put a good copy in its place."


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def mnist(root: Path) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((20, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(20, np.uint8)))
    return raw


def told(out: str) -> str:
    """What follows the header."""
    lines = out.splitlines(keepends=True)
    assert [line.split()[0] for line in lines[:6]] == HEADER
    return "".join(lines[6:])


def content(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("how", ["paths.data", "SNNRUN_DATA", "nothing"])
def test_missing_files_are_named_with_size_and_checksum(how, warm, tmp_path):
    root = tmp_path / ("data" if how == "nothing" else "my data")
    words = ["paths.data='my data'"] if how == "paths.data" else []
    environment = {"SNNRUN_DATA": "my data" if how == "SNNRUN_DATA" else "data"}
    done = warm("dataset=mnist", "hydra.run.dir=run", *words, cwd=tmp_path, **environment)
    files = [
        f"  {name:23}  {text} (unpacked; {name}.gz will do)" for name, text in PUBLISHED.items()
    ]
    message = MNIST.format(root=root, count="4 files are", files="\n".join(files))
    assert told(done.stdout) == message
    assert (done.returncode, done.stderr) == (2, "")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["error"] + "\n") == ("failed", message)
    assert not root.exists()


def test_one_missing_file_and_missing_recordings(warm, tmp_path):
    name = "t10k-labels-idx1-ubyte"
    (mnist(tmp_path) / name).unlink()
    done = warm("dataset=mnist", "paths.data=.", cwd=tmp_path)
    assert told(done.stdout) == MNIST.format(
        root=tmp_path,
        count="1 file is",
        files=f"  {name}  {PUBLISHED[name]} (unpacked; {name}.gz will do)",
    )
    assert (done.returncode, done.stderr) == (2, "")
    done = warm("dataset=nmnist", "paths.data=.", cwd=tmp_path)
    assert told(done.stdout) == NMNIST.format(root=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")


def truncated_images(root: Path) -> tuple[Path, str]:
    path = mnist(root) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    return (
        path,
        "is truncated or damaged (ValueError: 15,580 bytes after the header, which announces 15,680).",
    )


def something_else(root: Path) -> tuple[Path, str]:
    path = mnist(root) / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"<html>not found</html>")
    return path, "is truncated or damaged (ValueError: not an idx file of bytes)."


def half_a_pickle(root: Path) -> tuple[Path, str]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batch = pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 4})
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(batch)
    path = folder / "data_batch_3"
    path.write_bytes(batch[:7000])
    return path, "is truncated or damaged (UnpicklingError: pickle data was truncated)."


def cut_recording(root: Path) -> tuple[Path, str]:
    for part in ("Train", "Test"):
        for label in range(10):
            path = root / "NMNIST" / part / str(label) / "00001.bin"
            path.parent.mkdir(parents=True)
            path.write_bytes(bytes([5, 5, 128, 0, 100]) * 3)
    path = root / "NMNIST" / "Train" / "7" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    return (
        path,
        "is truncated or damaged (ValueError: 3 bytes are left over after the last event of 5 bytes).",
    )


@pytest.mark.parametrize(
    ("dataset", "damage"),
    [
        ("mnist", truncated_images),
        ("mnist", something_else),
        ("cifar10", half_a_pickle),
        ("nmnist", cut_recording),
    ],
)
def test_a_damaged_file_is_named_and_left(dataset, damage, warm, tmp_path):
    root = tmp_path / "data"
    path, reason = damage(root)
    before = content(root)
    done = warm(f"dataset={dataset}", f"paths.data={root}", "hydra.run.dir=run", cwd=tmp_path)
    message = f"{path} {reason}{LEFT}"
    assert told(done.stdout).splitlines()[-1] == message
    assert (done.returncode, done.stderr) == (1, "")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["error"]) == ("failed", message)
    assert content(root) == before
