"""The frames of a split, binned once and kept in a file, with labels and a checksum behind."""

import io
import logging
import os
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

F = TypeVar("F", bound=BinaryIO)
Build = Callable[[], tuple[np.ndarray, Iterable[np.ndarray]]]


class Frames:
    """Samples held as one array of counts `(N, T, ...)`, in memory or mapped from a file.

    **Arguments:**

    - `frames`: the counts.
    - `targets`: the labels.
    """

    def __init__(self, frames: np.ndarray, targets: np.ndarray):
        self.frames, self.targets = frames, torch.from_numpy(targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        x = self.frames[np.asarray(indices)]
        # torch has few operations on uint16 and uint32
        return torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.int32)), self.targets[
            torch.as_tensor(indices)
        ]


def cached_frames(path: Path | None, build: Build) -> Frames:
    """The frames in the file `path`, which is written first if it is missing or damaged.

    The file is written under a name of its own in the same folder and renamed when complete, so
    that a killed or a
    second process never leaves or sees half a file. Where the folder cannot be written, frames are
    kept in memory.

    **Arguments:**

    - `path`: the file; None keeps the frames in memory.
    - `build`: gives the labels and then the frames `(T, ...)` of one recording after the other.
    """
    if path is None:
        return _read(_in_memory(build))
    try:
        return _read(np.memmap(path, np.uint8, "r"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.info("binning again: the frame cache %s is damaged (%s)", path, error)
    parts: list[BinaryIO] = []

    def new_file() -> BinaryIO:
        parts.append(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part").open("xb+"))
        return parts[-1]

    try:
        path.parent.mkdir(exist_ok=True)
        file = _write(new_file, build)
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)
        return _read(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        warnings.warn(
            f"The frame cache {path} cannot be written ({error.strerror or error}); the frames are "
            "kept in memory. "
            "Make the folder writable, or set dataset.cache=false.",
            stacklevel=2,
        )
        return _read(_in_memory(build))
    finally:
        for part in parts:
            part.close()
            Path(part.name).unlink(missing_ok=True)


def _in_memory(build: Build) -> np.ndarray:
    return np.frombuffer(_write(io.BytesIO, build).getbuffer(), np.uint8)


def _write(new_file: Callable[[], F], build: Build) -> F:
    """Write frames, labels and checksum, one behind the other.

    The type is the smallest unsigned one; a count that does not fit starts a wider file.
    """
    labels, frames = build()
    file, dtype, start = new_file(), np.dtype(np.uint8), 0
    for i, frame in enumerate(frames):
        needed, shape = np.min_scalar_type(int(frame.max())), (len(labels), *frame.shape)
        if i == 0:
            dtype, start = needed, _header(file, needed, shape)
        elif needed.itemsize > dtype.itemsize:
            wider = new_file()
            begin = _header(wider, needed, shape)
            file.seek(start)
            for _ in range(i):
                block = np.frombuffer(file.read(frame.size * dtype.itemsize), dtype)
                wider.write(block.astype(needed).tobytes())
            file.close()
            file, dtype, start = wider, needed, begin
        file.write(frame.astype(dtype).tobytes())
    file.write(labels.astype("<i8").tobytes())
    file.seek(0)
    checksum = 0
    while block := file.read(1 << 24):
        checksum = zlib.crc32(block, checksum)
    file.write(checksum.to_bytes(4, "little"))
    return file


def _header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Write the header of an npy file; where the array begins."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _read(content: np.ndarray) -> Frames:
    if zlib.crc32(content[:-4].data) != int.from_bytes(content[-4:].tobytes(), "little"):
        raise ValueError("wrong checksum")
    content = np.asarray(content)
    head = io.BytesIO(content[:4096].tobytes())
    np.lib.format.read_magic(head)
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    start = head.tell()
    end = start + int(np.prod(shape)) * dtype.itemsize
    labels = np.frombuffer(content[end:-4].tobytes(), "<i8").astype(np.int64)
    return Frames(content[start:end].view(dtype).reshape(shape), labels)
