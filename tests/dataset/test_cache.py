import logging
import multiprocessing
import os

import numpy as np
import pytest

from snnrun.dataset import cache
from snnrun.dataset.base import CorruptData
from snnrun.dataset.cache import cached_frames

COUNTS = [1, 255, 0, 256, 7, 70_000, 3]


def build(counts=COUNTS):
    return np.arange(len(counts)) % 3, (
        np.full((2, 3), count) + np.eye(2, 3, dtype=int) for count in counts
    )


def forbidden():
    raise AssertionError("the recordings were read again")


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize(
    ("n", "kind"), [(1, np.uint8), (2, np.uint16), (5, np.uint16), (7, np.uint32)]
)
def test_counts_come_back_in_the_smallest_type(tmp_path, on_disk, n, kind):
    path = tmp_path / "made" / "a.npy" if on_disk else None
    frames = cached_frames(path, lambda: build(COUNTS[:n]))
    assert frames.frames.dtype == kind and len(frames) == n
    labels, expected = build(COUNTS[:n])
    x, y = frames[list(range(n))]
    np.testing.assert_array_equal(x.numpy(), np.stack(list(expected)))
    assert y.tolist() == labels.tolist()
    x.add_(1)  # a copy, not the file
    assert frames[[0]][0][0, 0, 0] == COUNTS[0] + 1


def test_the_second_time_nothing_is_built_and_the_file_is_a_plain_npy(tmp_path):
    path = tmp_path / "a.npy"
    cached_frames(path, build)
    again = cached_frames(path, forbidden)
    assert again[[5]][0][0, 0, 1] == 70_000
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), again.frames)
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flip", "zeros", "foreign"])
def test_a_damaged_file_is_built_again(tmp_path, damage, caplog):
    path = tmp_path / "a.npy"
    cached_frames(path, build)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    bad = {
        "empty": b"",
        "cut": good[:-9],
        "flip": flipped,
        "zeros": bytes(len(good)),
        "foreign": b"hello",
    }
    path.write_bytes(bad[damage])
    with caplog.at_level(logging.INFO):
        assert cached_frames(path, build)[[5]][0][0, 0, 1] == 70_000
    assert path.read_bytes() == good
    assert "is damaged" in caplog.text


def test_a_failure_leaves_nothing_behind(tmp_path):
    def broken():
        yield np.ones((2, 3), int)
        raise CorruptData("bad.bin")

    with pytest.raises(CorruptData):
        cached_frames(tmp_path / "a.npy", lambda: (np.zeros(2), broken()))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")]
)
def test_where_nothing_can_be_written_frames_stay_in_memory(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(cache.os, "fsync", refuse)
    path = tmp_path / "a.npy"
    with pytest.warns(UserWarning) as warned:
        frames = cached_frames(path, build)
    assert str(warned[0].message) == (
        f"The frame cache {path} cannot be written ({error.strerror}); the frames are kept in "
        "memory. "
        "Make the folder writable, or set dataset.cache=false."
    )
    assert frames[[5]][0][0, 0, 1] == 70_000
    assert os.listdir(tmp_path) == []


def _race(path, barrier, results):
    barrier.wait()
    results.put(cached_frames(path, lambda: build(COUNTS * 50))[[5]][0][0, 0, 1].item())


def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_race, args=(tmp_path / "a.npy", barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120), results.get(timeout=120)] == [70_000, 70_000]
    for worker in workers:
        worker.join()
    assert os.listdir(tmp_path) == ["a.npy"]
    assert len(cached_frames(tmp_path / "a.npy", forbidden)) == 350
