"""Files that are written whole or not at all: a process that is killed, or a full disk, leaves the old one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path, *, keep: Path | None = None, **how: Any) -> Iterator[Any]:
    """A file that takes its place when the block has ended, and is on the disk by then.

    **Arguments:**

    - `path`: its place.
    - `keep`: where what stood there before is kept; None if it is not.
    - `how`: how it is opened, as `Path.open` has it.
    """
    part = part_of(path)
    try:
        with part.open(**{"mode": "w", **how}) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            set_aside(path, keep)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def set_aside(path: Path, place: Path) -> None:
    """Give a file a second name, in the place of what had it; where the file system has no such, its only one."""
    part = part_of(place)
    try:
        os.link(path, part)
    except OSError:
        path.replace(place)
    else:
        part.replace(place)
        part.unlink(missing_ok=True)  # both names were of one file already: nothing was moved


def part_of(path: Path) -> Path:
    """The name of a file that is being written."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")
