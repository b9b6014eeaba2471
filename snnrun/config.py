"""Where configurations are, how one is composed, and how its parts are built."""

import ast
import difflib
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from snnrun.source import Argument, conforms, definition, expected

PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

# the groups that make a run, in the order of the defaults list of train.yaml
GROUPS = (
    *("surrogate", "neuron", "encoder", "norm", "loss", "readout", "task", "optimizer"),
    *("scheduler", "trainer", "callbacks", "model", "dataset", "rule"),
)
# the groups of Hydra's that say how the jobs of a sweep are run
RUNNERS = ("hydra/launcher", "hydra/sweeper")

# settings of the run itself, which no constructor takes
SETTINGS = {
    "seed": "int",
    "start": "str | None",
    "ema": "float",
    "decay_weights_only": "bool",
    "test": "bool",
    "test_every_epoch": "bool",
    "keep_memory": "bool",
    "channels_last": "bool",
    "event_inputs": "bool",
    "fold_norm": "bool",
    "recompute": "bool",
    "compile": "bool",
    "kernel": "Literal['auto', 'numba', 'triton', 'scan']",
}

# settings of schedulers that mean the length of the run where they are null
FILLED = ("total_steps", "T_max")


# what Hydra raises on files that are no YAML, or that do not fit together
UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError)


class BadRequest(Exception):
    """The request was wrong: the message says what, and what would be right. Exit code 2."""


class Choices:
    """The configuration files on the search path: snnrun's own, plugins', and the user's.

    **Arguments:**

    - `folders`: more folders, as given by `--config-dir`.
    - `searchpath`: more places, as given by `hydra.searchpath=[...]`.
    """

    def __init__(self, folders: Sequence[str] = (), searchpath: Sequence[str] = ()):
        for folder in folders:
            if not Path(folder).is_dir():
                raise BadRequest(f"--config-dir: there is no folder {folder}.")
        setup_globals()  # the ${hydra:...} and ${now:...} resolvers
        self.path = create_config_search_path(f"file://{CONF}")
        schema = self.path.get_path().pop()
        for place in [*(f"file://{Path(folder).resolve()}" for folder in folders), *searchpath]:
            self.path.append("user", place)
        self.path.append(schema.provider, schema.path or "")
        try:
            self.repository = ConfigRepository(self.path)
        except ValueError as error:  # of a search path
            raise BadRequest(f"hydra.searchpath: {error}") from error

    @classmethod
    def along(cls, path: ConfigSearchPath) -> "Choices":
        """The configuration files on a search path that is complete."""
        choices = cls()
        choices.path, choices.repository = path, ConfigRepository(path)
        return choices

    @cached_property
    def groups(self) -> list[str]:
        """The names of all groups that hold options, nested ones by their path."""
        return [name for name in self._groups("") if not name.startswith("hydra/")]

    def _groups(self, parent: str) -> Iterator[str]:
        names = {
            name
            for source in self.repository.get_sources()
            if source.available()
            for name in self._list(source, parent)
        }
        for name in sorted(names):
            path = f"{parent}/{name}" if parent else name
            yield path
            yield from self._groups(path)

    def _list(self, source: Any, parent: str) -> list[str]:
        from hydra.core.object_type import ObjectType

        if (
            source.scheme() == "structured"
            or (parent and not source.is_group(parent))
            or source.provider == "hydra"
        ):
            return []
        return [
            name
            for name in source.list(parent, ObjectType.GROUP)
            if not name.startswith((".", "__"))
        ]

    def options(self, group: str) -> list[str]:
        """The names of the options of a group; those in its sub-folders by their path."""
        below = [name for name in self.groups if name.startswith(f"{group}/")]
        return sorted(
            f"{place}/{option}".removeprefix(f"{group}/")
            for place in (group, *below)
            for option in self.repository.get_group_options(place)
        )

    def load(self, group: str, option: str) -> dict[str, Any]:
        """An option's own YAML as plain data, under its package (not composed, not resolved)."""
        found = self._read(group, option)
        if found is None:
            return {}
        content = OmegaConf.to_container(found.config, resolve=False)
        if not isinstance(content, dict):
            raise BadRequest(f"{group}/{option}.yaml holds a list, not keys and values.")
        whole = (found.header or {}).get("package") == "_global_"
        return content.get(group, {}) if whole and group in GROUPS else content  # pyright: ignore[reportReturnType]

    def brings(self, group: str, option: str) -> frozenset[str]:
        """The keys of other groups that an option sets: `neuron.reset`, say, of a rule."""
        found = self._read(group, option)
        content = {} if found is None else OmegaConf.to_container(found.config, resolve=False)
        assert isinstance(content, dict)
        nodes = {name: content[name] for name in GROUPS if isinstance(content.get(name), dict)}
        return frozenset(f"{name}.{key}" for name in nodes if name != group for key in nodes[name])

    def _read(self, group: str, option: str) -> Any:
        """An option as Hydra reads it; None if there is none. Raises `BadRequest` for a file that is no YAML."""
        try:
            return self.repository.load_config(f"{group}/{option}")
        except UNREADABLE as error:
            raise BadRequest(f"{group}/{option}.yaml cannot be read: {_plain(error)}") from error

    def chooses_nothing(self, group: str, option: str) -> bool:
        """Whether an option is just values of its group: neither choices of others nor keys outside it."""
        found = self._read(group, option)
        return (
            found is not None
            and not found.defaults_list
            and not (found.header or {}).get("package")
        )

    def file(self, group: str, option: str) -> Path | None:
        """The file of an option."""
        for source in self.repository.get_sources():
            if source.scheme() == "file":
                path = Path(source.path) / group / f"{option}.yaml"
                if path.is_file():
                    return path
        return None

    def targets(self) -> frozenset[str]:
        """Every `_target_` named on the search path: what a run directory is allowed to build."""
        names = [
            name
            for group in self.groups
            if "/" not in group
            for option in self.options(group)
            if self._may_name_targets(group, option)
            for name in _targets(self.load(group, option))
        ]
        return frozenset(names)

    def _may_name_targets(self, group: str, option: str) -> bool:
        """Whether an option is worth parsing: most experiments and tables only choose and set values."""
        file = self.file(group, option)
        return file is None or "_target_" in file.read_text(encoding="utf-8")

    def compose(self, overrides: Sequence[str], *, multirun: bool = False) -> DictConfig:
        """The configuration of a request. Raises `BadRequest` with all that is wrong with its words."""
        self._check_words(overrides)
        return self._composed(overrides, RunMode.MULTIRUN if multirun else RunMode.RUN)

    def _composed(self, words: Sequence[str], mode: RunMode) -> DictConfig:
        try:
            return ConfigLoaderImpl(self.path).load_configuration("train", list(words), mode)
        except UNREADABLE as error:
            raise BadRequest(_plain(error)) from error

    def _check_words(self, overrides: Sequence[str]) -> None:
        parsed = parse(overrides, self)
        problems = [p for o in parsed if (p := self._check_group(o))]
        if problems:
            raise BadRequest("\n".join(problems))
        chosen = [o for o in parsed if self.is_group(o)]
        keys = [
            o
            for o in parsed
            if not self.is_group(o)
            and not o.is_add()
            and not o.is_force_add()
            and (
                not o.is_hydra_override()
                or o.key_or_group.startswith(("hydra.launcher.", "hydra.sweeper."))
            )
        ]
        if not keys:
            return
        cfg = self._composed([str(o.input_line) for o in chosen], RunMode.MULTIRUN)
        problems = [p for o in keys if (p := self._check_key(o, cfg))]
        if problems:
            raise BadRequest("\n".join(problems))

    def is_group(self, override: Override) -> bool:
        """Whether an override chooses an option of a group (rather than setting a key)."""
        return override.key_or_group in self.groups or override.key_or_group.startswith("hydra/")

    def _check_group(self, override: Override) -> str | None:
        group = override.key_or_group
        if override.is_delete() or group not in (*self.groups, *RUNNERS):
            return None
        if group == "paper":
            return f"{override.input_line}: a published table is no part of a run; see snnrun paper list."
        options = self.options(group)
        several = not override.is_sweep_override() and isinstance(override.value(), list)
        if several and group not in ("logger", "callbacks"):
            return f"{override.input_line}: {group} takes one option, not a list."
        for wanted in chosen_options(override):
            if wanted is None or wanted == "null":
                if group in ("logger", "callbacks"):
                    return f"{group}=null is not possible; write '{group}=[]' for none."
                return f"{group}=null is not possible.\n  {group}: {', '.join(options)}"
            if str(wanted) in options:
                self.load(group, str(wanted))  # names the file, if it is no YAML
            else:
                near = closest(str(wanted), options)
                listing = f"\n  {group}: {', '.join(options)}"
                return f"{group}={wanted}: there is no such {group}.{near}{listing}"
        return None

    def _check_key(self, override: Override, cfg: DictConfig) -> str | None:
        node: Any = cfg
        done: list[str] = []
        for word in override.key_or_group.split("."):
            if isinstance(node, ListConfig):
                return None
            if not isinstance(node, DictConfig) or word not in node:
                known = (
                    [str(k) for k in node if k != "hydra"] if isinstance(node, DictConfig) else []
                )
                place = ".".join(done)
                where = (
                    f"{place} has no key {word!r}" if done else f"there is no group or key {word!r}"
                )
                names = known if done else sorted({*known, *self.groups})
                listing = (
                    f"\n  {place}: {', '.join(k for k in known if k != '_target_')}"
                    if done and known
                    else ""
                )
                return (
                    f"{override.input_line}: {where}.{closest(word, names, prefix=place)}{listing}"
                )
            node = node._get_node(word) if OmegaConf.is_interpolation(node, word) else node[word]  # pyright: ignore[reportCallIssue, reportArgumentType]
            done.append(word)
        return None


def parse(overrides: Sequence[str], choices: "Choices | None" = None) -> list[Override]:
    """Read overrides in Hydra's grammar. Raises `BadRequest`.

    **Arguments:**

    - `overrides`: what was typed.
    - `choices`: where the names are that `glob(*)` stands for.
    """
    loader = ConfigLoaderImpl(choices.path) if choices else None
    parser, parsed = OverridesParser.create(config_loader=loader), []
    for word in overrides:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException as error:
            key, equals, value = word.partition("=")
            hint = "Settings are written key=value; `snnrun --help` shows examples."
            if equals and not re.search(r"['\"]", value):
                hint += f" A value with special characters needs quotes: \"{key}='{value}'\"."
            raise BadRequest(f"{_plain(error)}\n{hint}") from error
    return parsed


def chosen_options(override: Override) -> list[Any]:
    """The options that an override chooses: several in a sweep or a list."""
    if override.is_sweep_override():
        try:
            return list(override.sweep_string_iterator())
        except HydraException as error:  # an interval
            raise BadRequest(f"{override.input_line}: {error}") from error
    value = override.value()
    return list(value) if isinstance(value, list) else [value]


def closest(word: str, names: Iterable[str], prefix: str = "") -> str:
    """` Did you mean a or b?`, or nothing if no name is near."""
    near = difflib.get_close_matches(word, list(names), n=3, cutoff=0.6)
    near.sort(key=lambda name: sorted(name) != sorted(word))  # letters swapped: the likeliest slip
    return (
        f" Did you mean {' or '.join(f'{prefix}.{n}' if prefix else n for n in near)}?"
        if near
        else ""
    )


def _plain(error: Exception) -> str:
    cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return f"{error}{cause}".strip()


def _targets(content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == "_target_" and isinstance(value, str):
                yield value
            else:
                yield from _targets(value)
    elif isinstance(content, list):
        for item in content:
            yield from _targets(item)


def foreign(cfg: DictConfig, allowed: frozenset[str]) -> list[str]:
    """The `_target_`s of a configuration that are not allowed, as written and as interpolations make them.

    What cannot be resolved is told of by `check_types`.
    """
    found = set(_targets(OmegaConf.to_container(cfg, resolve=False)))
    with suppress(OmegaConfBaseException):
        found |= set(_targets(OmegaConf.to_container(cfg, resolve=True)))
    return sorted(found - allowed)


def check_types(cfg: DictConfig) -> list[str]:
    """Everything in a configuration that its targets would not take: unknown keys, missing ones, wrong types."""
    problems: list[str] = []
    derived: list[str] = []  # of values that stand elsewhere, where they are told of already

    def visit(node: Any, raw: Any, place: str) -> None:
        if not isinstance(node, Mapping):
            return
        raw = raw if isinstance(raw, Mapping) else {}
        target = node.get("_target_")
        known = definition(target) if isinstance(target, str) else None
        if isinstance(target, str) and known is None:
            problems.append(f"{place}._target_={target}: there is no such class or function.")
        for key, value in node.items():
            here = f"{place}.{key}" if place else str(key)
            if (
                known
                and not str(key).startswith("_")
                and not (place == "scheduler" and key == "interval")
            ):
                argument = known.arguments.get(str(key))
                if argument is None and not known.keywords:
                    problems.append(
                        f"{here}: {target} takes no {key}.{closest(str(key), known.arguments)}"
                    )
                elif key in FILLED and value is None:
                    pass
                elif (
                    argument
                    and not isinstance(value, Mapping)
                    and not conforms(value, argument, known.module)
                ):
                    told = derived if "${" in str(raw.get(key)) else problems
                    told.append(
                        f"{here} must be {expected(argument, known.module)}, got {value!r}."
                    )
            visit(value, raw.get(key), here)

    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return [_plain(error)]
    assert isinstance(content, Mapping)
    for group in GROUPS:
        if group in content and group != "callbacks":
            node = content[group]
            if not isinstance(node, Mapping):
                problems.append(f"{group} must be keys and values, got {node!r}.")
            elif "_target_" not in node:
                problems.append(f"{group} has no _target_, which says what it is.")
    for key, annotation in SETTINGS.items():
        argument = Argument(ast.parse(annotation, mode="eval").body, None)
        if key in cfg and not conforms(cfg[key], argument, None):
            problems.append(f"{key} must be {expected(argument, None)}, got {cfg[key]!r}.")
    visit(content, OmegaConf.to_container(cfg, resolve=False), "")
    return problems or derived


def instantiate(cfg: Any, **runtime: Any) -> Any:
    """Build a part. Everything is built through here.

    **Arguments:**

    - `cfg`: a node with a `_target_`; None, or a node whose `_target_` is null, gives None.
    - `runtime`: arguments that the YAML cannot know; those that the target does not take are left out.

    Raises `BadRequest` if the part refuses its arguments.
    """
    if cfg is not None and not isinstance(cfg, Mapping):
        raise BadRequest(f"{cfg!r} is no part: keys and values with a _target_ are.")
    if cfg is None or cfg.get("_target_") is None:
        return None
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as build

    known = definition(cfg["_target_"])
    taken = {
        k: v for k, v in runtime.items() if known is None or known.keywords or k in known.arguments
    }
    name = cfg["_target_"].rpartition(".")[2]
    own = cfg
    if (
        taken.keys() & cfg.keys()
    ):  # what the YAML has in their place is not built: it may lack arguments
        own = OmegaConf.masked_copy(cfg, [key for key in cfg if key not in taken])  # pyright: ignore[reportArgumentType]
        own._set_parent(cfg._get_parent())  # where its interpolations look  # pyright: ignore[reportAttributeAccessIssue]
    try:
        part = build(
            own, _partial_=True
        )  # run-time objects do not pass through OmegaConf, which copies them
    except InstantiationException as error:
        raise BadRequest(f"{name}: {error.__cause__ or error}") from error
    try:
        return part(**taken)
    except (ValueError, TypeError, ImportError) as error:
        raise BadRequest(f"{name}: {error}") from error


@dataclass(frozen=True)
class Factory:
    """Builds the same part afresh for every layer; picklable. (Hydra's `_partial_` would share nested parts.)

    **Arguments:**

    - `cfg`: a node with a `_target_`.
    - `names`: what the positional arguments of a call are called.
    """

    cfg: Any
    names: tuple[str, ...] = ("channels",)

    def __call__(self, *args: Any) -> Any:
        """Build one."""
        return instantiate(self.cfg, **dict(zip(self.names, args, strict=True)))


def factory(cfg: Any) -> Callable[[int], Any] | None:
    """A factory of parts that are told their number of channels; None for no part."""
    return None if cfg is None else Factory(cfg)


def claim(folder: Path) -> Path:
    """Create a fresh directory of this name, numbered if it exists. Raises `BadRequest` if it cannot be written."""
    for number in range(1, 10_000):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            continue
        except OSError as error:
            raise BadRequest(cannot_write(candidate, error)) from error
    raise BadRequest(f"There are 10,000 directories named {folder}-N. Move some away.")


def file_name(text: str, longest: int = 200) -> str:
    """A text as the name of a file: of letters, digits and `.=,+~-`, others become `_`; a long one ends in its hash."""
    name = re.sub(r"[^\w.=,+~-]", "_", text, flags=re.ASCII)
    if len(name) <= longest:
        return name
    return f"{name[: longest - 9]}~{zlib.crc32(text.encode()):08x}"


def quoted(folder: Path) -> str:
    """A path as a value in Hydra's grammar."""
    text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def cannot_write(folder: Path, error: OSError) -> str:
    """What to say of an output folder that refuses."""
    reason = os.strerror(error.errno or 0)
    return (
        f"Cannot write to {folder}: {reason}."
        " Choose another place with paths.outputs=DIR or hydra.run.dir=DIR."
    )


def group_defaults(cfg: DictConfig) -> dict[str, Any]:
    """The chosen option of every group of a composed configuration."""
    choices = cfg.hydra.runtime.choices
    return {str(k): v for k, v in choices.items() if not str(k).startswith("hydra/")}
