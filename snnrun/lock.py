"""One process a run directory: a lock that dies with its process."""

import errno
import fcntl
import os
import platform
from contextlib import suppress
from pathlib import Path

NAME = ".lock"
held: dict[Path, int] = {}  # file descriptors


class Locked(Exception):
    """Another process runs in the directory; the message says which."""


def lock(folder: Path) -> None:
    """Keep other processes out of a directory until `unlock` or the end of this one, however it ends.

    The lock is a record lock: processes that are forked do not inherit it, other hosts of a network file system see
    it. Where the file system knows no locks nothing is kept out.

    **Arguments:**

    - `folder`: the directory; one that this process has locked already stays so.

    Raises `Locked`, and `OSError` if nothing can be written there.
    """
    folder = folder.resolve()
    while folder not in held:
        path = folder / NAME
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise Locked(
                    f"{folder} is in use by {owner or 'another process'}. Wait until that has ended, or stop it."
                ) from error
            path.unlink(missing_ok=True)
            return
        if not _same(path, file):
            os.close(file)  # its owner has just taken it away: locked, it would keep nobody out
            continue
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
        held[folder] = file


def unlock(folder: Path) -> None:
    """Let others in again."""
    file = held.pop(folder.resolve(), None)
    if file is None:
        return
    with suppress(OSError):  # a file that nobody has locked keeps nobody out
        (folder / NAME).unlink(missing_ok=True)
    os.close(file)


def free(folder: Path) -> bool:
    """Whether a directory, if there is one, is not locked by another process."""
    try:
        lock(folder)
    except Locked:
        return False
    except OSError:  # nothing can be locked there: whoever is to run there will tell
        return True
    unlock(folder)
    return True


def unlock_all() -> None:
    """Let others into every directory."""
    for folder in list(held):
        unlock(folder)


def _same(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
