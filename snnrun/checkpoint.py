"""Reading weights from a file: snnrun's own checkpoints, and published ones under their authors' names."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from snnrun.model.keymap import NAMINGS, Naming, from_published, keymap

Format = Literal["auto", "snnrun", "original", "spikingjelly"]
FORMATS: tuple[str, ...] = get_args(Format)


class WrongCheckpoint(ValueError):
    """A file that is no checkpoint, or weights that do not fit the network."""


class DamagedCheckpoint(ValueError):
    """A checkpoint of which something is missing."""


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Nothing in it is executed: only tensors, containers and numbers are read.

    Published files also hold their command line, an `argparse.Namespace`, which is a container of such.
    Raises `WrongCheckpoint` for what is no checkpoint or wants to run something, `DamagedCheckpoint` for a torn file.
    """
    try:
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
