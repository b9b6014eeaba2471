"""A folder of files that are written whole or not at all, and read back only if nothing changed in them."""

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def folder() -> Path | None:
    """Where kernels are kept: `SNNRUN_CACHE`, else snnrun in the user's cache folder, else one among temporary files.

    None if none of them can be written, or if the temporary one belongs to somebody else.
    """
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    places = [Path(os.environ.get("SNNRUN_CACHE") or Path(user) / "snnrun")]
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    places.append(Path(tempfile.gettempdir()) / f"snnrun-{owner}")
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = not hasattr(os, "getuid") or place.stat().st_uid == os.getuid()
            if ours and os.access(place, os.W_OK | os.X_OK):
                return place
        except OSError:
            continue
    return None


def digest(*parts: str | bytes) -> str:
    """A name for a content."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()[:40]


def read(name: str) -> bytes | None:
    """The content of a file; None if there is none, or if it is damaged."""
    place = folder()
    if place is None:
        return None
    try:
        whole = (place / name).read_bytes()
    except OSError:
        return None
    check, content = whole[:32], whole[32:]
    return content if hashlib.sha256(content).digest() == check else None


def write(name: str, content: bytes) -> None:
    """Keep a content, if that is possible; other processes see all of it or nothing."""
    place = folder()
    if place is None:
        return
    try:
        handle, part = tempfile.mkstemp(dir=place, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(part, place / name)
        except BaseException:
            os.unlink(part)
            raise
    except OSError:
        return
