"""What there is to choose from: `list` and `show`. Reads YAML and source text; imports no part."""

import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from snnrun.check import composed, entered, request, without_hydra
from snnrun.config import BadRequest, Choices, check_types, closest, group_defaults, parse
from snnrun.fit import TRAITS, ignored, lacking
from snnrun.source import Definition, definition


def list_parts(words: list[str]) -> int:
    """The verb `list`: all groups, or the options of one with a sentence each."""
    after = words[words.index("--fits") + 1 :] if "--fits" in words else []
    choices, rest = request([word for word in words if word != "--fits"])
    rest = [word for word in rest if not word.startswith("hydra.searchpath=")]
    fits = [word for word in rest if word in after] if "--fits" in words else None
    groups = [word for word in rest if word not in after]
    if len(groups) > 1 or any("=" in word for word in groups):
        raise BadRequest("Usage: snnrun list [GROUP] [--fits group=option ...].")
    if not groups:
        defaults = group_defaults(choices.compose([]))
        for group in choices.groups:
            names = choices.options(group)
            if names and "/" not in group and group != "hydra":
                marked = [f"[{n}]" if n == defaults.get(group) else n for n in names]
                print(
                    f"{group:<11} {textwrap.fill(', '.join(marked), 100, subsequent_indent=' ' * 12)}"
                )
        print(
            "\n[...] is the default. snnrun list GROUP says more; snnrun show GROUP=OPTION says all."
        )
        return 0
    group = groups[0]
    if group not in choices.groups:
        raise BadRequest(f"There is no group {group!r}.{closest(group, choices.groups)}")
    wanted = fits or []
    names = choices.options(group) if fits is None else fitting(choices, group, wanted)
    width = max((len(name) for name in names), default=0)
    for name in names:
        print(f"{name:<{width}}  {sentence(choices, group, name)}")
    if not names:
        print(f"no {group} fits {' '.join(wanted)}")
    return 0


def fitting(choices: Choices, group: str, others: Sequence[str]) -> list[str]:
    """The options of a group that fit with others that are chosen. Raises `BadRequest` for a mistake in those."""
    cfg = entered(choices, others)
    base, chosen = without_hydra(cfg), group_defaults(cfg).get(group)
    own = choices.load(group, chosen) if isinstance(chosen, str) else {}
    content: Any = OmegaConf.to_container(base, resolve=False)
    now = content.get(group) or {}
    more = {k: v for k, v in now.items() if k not in own or own[k] != v}  # which a rule, say, sets
    found = []
    for option in choices.options(group):
        if group in base and choices.chooses_nothing(group, option):  # no need to compose anew
            base[group] = {**choices.load(group, option), **more}
            if not check_types(base) and not lacking(base):
                found.append(option)
            continue
        try:
            composed(choices, [*others, f"{group}={option}"], warn=False)
        except BadRequest:
            continue
        found.append(option)
    return found


def sentence(choices: Choices, group: str, option: str) -> str:
    """What an option is, in its docstring's first sentence or its file's first comment."""
    known = described(choices.load(group, option))
    if known and known.doc:
        return known.doc.splitlines()[0]
    file = choices.file(group, option)
    text = file.read_text() if file else ""
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return next((line for line in comments if line and not line.startswith("@package")), "")


def described(values: dict[str, Any]) -> Definition | None:
    """The definition that a YAML's own target names."""
    target = values.get("_target_")
    return definition(target) if isinstance(target, str) else None


def show(words: list[str]) -> int:
    """The verb `show`: parts with equation, arguments and file; without a group=option, the whole configuration."""
    choices, overrides = request(words)
    chosen = [o for o in parse(overrides) if choices.is_group(o) and not o.is_delete()]
    if not chosen:
        cfg = composed(choices, overrides) if overrides else choices.compose([])
        print(OmegaConf.to_yaml(cfg_without_hydra(cfg)), end="")
        return 0
    cfg = entered(choices, overrides)  # a part may be looked at before others fit it
    for warning in ignored(without_hydra(cfg), group_defaults(cfg), overrides):
        print(warning, file=sys.stderr)
    for override in chosen:
        group, option = str(override.key_or_group), str(override.value())
        file = choices.file(group, option)
        print(f"{group}={option}   {file or ''}\n")
        known = described(choices.load(group, option))
        if known:
            print(textwrap.indent(known.doc, "    "))
            words_of(known, choices.load(group, option))
        print(textwrap.indent(file.read_text() if file else "", "    "))
    return 0


def words_of(known: Definition, values: dict[str, Any]) -> None:
    """Print what a part is and needs."""
    print()
    for kind, title in (("traits", "is"), ("needs", "needs")):
        for word in sorted(known.words(kind, values)):
            print(f"    {title} {word}: {TRAITS.get(word, 'a word of its own')}")
    print()


def cfg_without_hydra(cfg: Any) -> Any:
    """A configuration without Hydra's own node."""
    return OmegaConf.create({str(k): cfg._get_node(k) for k in cfg if k != "hydra"})
