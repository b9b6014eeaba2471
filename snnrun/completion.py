"""What a shell offers at <tab>: verbs, groups, options and keys, the user's own too."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from snnrun.check import searchpath, without_hydra
from snnrun.config import BadRequest, Choices

# what stands behind a verb, where it is neither settings nor a folder
WORDS = {
    "paper": ("list", "run", "compare"),
    "new": ("neuron", "rule", "model"),
    "report": ("out=", "format=", "baseline=", "score=", "sort="),
    "plot": ("neurons=",),
}
SETTINGS = ("check", "show", "eval", "rerun", "doctor")  # verbs that take settings
FLAGS = ("--config-dir", "--help", "--version", "--multirun", "--cfg", "--info")


def query(line: str, verbs: Sequence[str]) -> list[str]:
    """The words that may stand in the place of the last one of a line; none leave it to the names of files.

    **Arguments:**

    - `line`: what was typed, from `snnrun` to the cursor.
    - `verbs`: the verbs that there are.
    """
    words = line.split()[1:]
    current = "" if line.endswith((" ", "\t")) or not words else words.pop()
    verb = words[0] if words and words[0] in verbs else ""
    if words and words[-1] in ("--config-dir", "-cd"):
        return []
    if current.startswith("-"):
        found: Iterable[str] = FLAGS
    elif verb in WORDS and (len(words) == 1 or verb in ("report", "plot")):
        found = WORDS[verb]
    elif verb == "list" and len(words) == 1:
        found = [group for group in choices_of(words).groups if "/" not in group]
    elif verb and verb not in (*SETTINGS, "list", "paper"):
        return []
    else:
        found = settings(choices_of(words), words[1:] if verb else words, current)
        if not words and "=" not in current:
            found = [*verbs, *found]
    return sorted({word for word in found if word.startswith(current)})


def choices_of(words: Sequence[str]) -> Choices:
    """The configurations that a line names; a folder that is not there counts for nothing."""
    spread = [
        part for word in words for part in word.replace("--config-dir=", "--config-dir ").split()
    ]
    folders = [folder for flag, folder in pairwise(spread) if flag in ("--config-dir", "-cd")]
    places = []
    with suppress(BadRequest):
        places = searchpath([w for w in words if "=" in w and not w.startswith("-")])
    return Choices([f for f in folders if Path(f).is_dir()], places)


def settings(choices: Choices, words: Sequence[str], current: str) -> Iterator[str]:
    """Groups, options and keys that a word may become, a level of keys at a time."""
    sign = current[:1] if current[:1] in ("+", "~") else ""
    key, equals, value = current[len(sign) :].partition("=")
    if equals:
        head = value[: max(value.rfind(","), value.rfind("[")) + 1]  # of several values
        options = choices.options(key) if key in choices.groups else known(key)
        yield from (f"{sign}{key}={head}{option}" for option in options)
        return
    if "." not in key:
        groups = [g for g in choices.groups if "/" not in g and g not in ("hydra", "paper")]
        yield from (f"{sign}{group}=" for group in groups if choices.options(group))
    above, _, _ = key.rpartition(".")
    node = below(composed(choices, words), above)
    for name, content in node.items() if isinstance(node, Mapping) else ():
        place = f"{sign}{above}.{name}" if above else f"{sign}{name}"
        if not str(name).startswith("_"):
            yield f"{place}." if isinstance(content, Mapping) and content else f"{place}="


def known(key: str) -> Sequence[str]:
    """The values of a few keys that are words."""
    return {"kernel": ("auto", "numba", "triton", "scan"), "ckpt": ("best", "last")}.get(key, ())


def composed(choices: Choices, words: Sequence[str]) -> Mapping[str, Any]:
    """The configuration of a line as far as it is right, as plain data."""
    from omegaconf import OmegaConf

    overrides = [w for w in words if "=" in w and not w.startswith("-")]
    for kept in (overrides, []):
        with suppress(BadRequest):
            cfg = choices.compose([o.split(",")[0] for o in kept])  # of a sweep, the first values
            return OmegaConf.to_container(without_hydra(cfg), resolve=False)  # pyright: ignore[reportReturnType]
    return {}


def below(content: Any, place: str) -> Any:
    """The node at a dotted key."""
    for name in filter(None, place.split(".")):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def answer(verbs: Sequence[str]) -> int:
    """Print what fits the line in the shell's environment."""
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    print("\n".join(query(line[: int(point)] if point.isdigit() else line, verbs)))
    return 0
