"""Reading weights from a file: snnrun's own checkpoints, and published ones under their authors' names."""

import argparse
import logging
import struct
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from snnrun.model.keymap import NAMINGS, Naming, from_published, keymap

log = logging.getLogger("snnrun")

Format = Literal["auto", "snnrun", "original", "spikingjelly"]
FORMATS: tuple[str, ...] = get_args(Format)
# of a run: after every epoch, the one before that, and the best by the monitored metric
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
DIRECTORY = 0x10  # attribute of a zip entry: torch then reads nothing, and a tensor holds whatever was in memory
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error)


class WrongCheckpoint(ValueError):
    """A file that is no checkpoint, or weights that do not fit the network."""


class DamagedCheckpoint(ValueError):
    """A checkpoint of which something is missing, or is not what was written."""


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Nothing in it is executed: only tensors, containers and numbers are read.

    Published files also hold their command line, an `argparse.Namespace`, which is a container of such.
    Raises `WrongCheckpoint` for what is no checkpoint or wants to run something, `DamagedCheckpoint` for a file that
    is torn or has a wrong bit.
    """
    try:
        if not intact(path):
            raise DamagedCheckpoint(f"{path} is truncated or damaged. It was left as it is.")
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WrongCheckpoint(f"There is no checkpoint {path}.") from error
    except UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise WrongCheckpoint(f"{path} is no file of tensors and numbers: {reason}") from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is truncated or damaged. It was left as it is.") from error
    if not isinstance(content, dict):
        raise WrongCheckpoint(f"{path} holds a {type(content).__name__}, not a dict of weights.")
    return content


def intact(path: Path) -> bool:
    """Whether a file is what was written, by the checksums that torch stores for every entry and does not look at.

    A file of a format without them passes.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4" and not zipfile.is_zipfile(file):
            return True
        try:
            with zipfile.ZipFile(file) as archive:
                misread = any(entry.external_attr & DIRECTORY for entry in archive.infolist())
                return not misread and archive.testzip() is None
        except (OSError, EOFError, ValueError, RuntimeError, struct.error, *ZIP_ERRORS):
            return False


def recover(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint that a run goes on from, and its step; None where there is none.

    If the last one is damaged, it is the one before; the damaged one is moved aside and told of.
    Raises `DamagedCheckpoint` if none is whole, `WrongCheckpoint`.
    """
    last, problem = folder / LAST, None
    for path in (last, folder / PREVIOUS):
        try:
            step = read(path)["global_step"] if path.exists() else None
        except DamagedCheckpoint as error:
            problem = problem or error
            continue
        if step is None:
            continue
        if problem:
            aside = folder / "damaged.ckpt"
            with suppress(FileNotFoundError):  # another process of this run was faster
                last.replace(aside)
            log.warning(
                f"{last} is truncated or damaged. It is kept as {aside.name}; going on from {path.name}, step {step}."
            )
        return path, step
    if problem:
        raise problem
    return None


def weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in the content of a checkpoint. Raises `WrongCheckpoint`.

    They are the whole content, or its entry `state_dict` (Lightning), `model` or `net` (published files); of a
    `state_dict` those of the network, and without the prefix that data parallelism leaves.
    """
    inner = next(
        (content[k] for k in ("state_dict", "model", "net") if isinstance(content.get(k), Mapping)),
        content,
    )
    if any(str(key).startswith("net.") for key in inner):
        inner = {k.removeprefix("net."): v for k, v in inner.items() if k.startswith("net.")}
    if inner and all(str(key).startswith("module.") for key in inner):
        inner = {key.removeprefix("module."): value for key, value in inner.items()}
    if not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise WrongCheckpoint(
            f"{path} holds no weights: neither are all of its entries tensors, nor has it an entry state_dict, model or"
            f" net of tensors. It has: {', '.join(map(str, list(content)[:5])) or 'nothing'}."
        )
    return dict(inner)


def load_weights(net: nn.Module, state: dict[str, Tensor], fmt: Format, path: Path) -> str:
    """Put weights into a network and return the format that they were in.

    **Arguments:**

    - `net`: the network.
    - `state`: the weights under the names of the file.
    - `fmt`: whose names they are; `auto` takes the naming that fits most keys.
    - `path`: the file that an error names.

    Raises `WrongCheckpoint` if a key is missing, unexpected or of another shape.
    """
    if fmt not in FORMATS:
        raise WrongCheckpoint(f"ckpt_format must be one of {', '.join(FORMATS)}, got {fmt!r}.")
    known: dict[Naming | Literal["snnrun"], set[str]] = {"snnrun": set(net.state_dict())}
    for naming in NAMINGS:
        try:
            known[naming] = set(keymap(net, naming))
        except ValueError as error:
            if fmt == naming:
                raise WrongCheckpoint(f"ckpt_format={fmt}: {error}") from error
    chosen = max(known, key=lambda name: len(known[name] & set(state))) if fmt == "auto" else fmt
    ours = state if chosen == "snnrun" else from_published(net, state, chosen)
    load_state(net, ours, path, f"read as ckpt_format={chosen}")
    return chosen


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, how: str) -> None:
    """Put a state into a module. Raises `WrongCheckpoint` with all that does not fit.

    **Arguments:**

    - `module`: the module.
    - `state`: its weights and buffers.
    - `path`: the file that an error names.
    - `how`: how the file was read, for the error.
    """
    if problems := misfits(module.state_dict(), state):
        raise WrongCheckpoint(f"{path} is of another architecture ({how}):\n{problems}")
    module.load_state_dict(state, strict=True)


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], most: int = 5) -> str:
    """Which keys are missing, unexpected or of another shape, the first few of each; empty if all fit."""
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    found = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": shapes,
    }
    lines = []
    for what, keys in found.items():
        if keys:
            more = f", and {len(keys) - most} more" if len(keys) > most else ""
            lines.append(f"  {what} ({len(keys)}): {', '.join(keys[:most])}{more}")
    return "\n".join(lines)
