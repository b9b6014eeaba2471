"""Which program belongs to a neuron: found by what the neuron is made of, in this process or on disk, else traced."""

import dataclasses
import enum
import json
import sys
import types
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.cache import digest, read, write
from snnrun.neuron.kernel.graph import Graph
from snnrun.neuron.kernel.trace import BackwardStep, compare, trace

# of a module's attributes, those that no step reads
_BLIND = frozenset(nn.Module().__dict__) - {"training"} | {"kernel"}


@dataclass(frozen=True, eq=False)
class Program:
    """A traced neuron.

    **Arguments:**

    - `name`: unique; the same in every process.
    - `graph`: one step forward and backward.
    - `leaves`: the parameters and buffers that it reads.
    - `starts`: whether the state before the first step is made of constants.
    """

    name: str
    graph: Graph
    leaves: tuple[str, ...]
    starts: bool


_programs: dict[Hashable, Program | Unprintable | None] = {}
_named: dict[str, Program] = {}


def named(name: str) -> Program:
    """A program that this process has met."""
    return _named[name]


def program(
    neuron: nn.Module, dtype: torch.dtype, dims: int, backward_step: BackwardStep | None = None
) -> Program | None:
    """The program of a neuron as it is now; None if it has no step, or if somebody watches it through hooks.

    **Arguments:**

    - `neuron`: a neuron.
    - `dtype`: of the computation.
    - `dims`: number of dimensions of a step's input.
    - `backward_step`: takes the place of the vector-Jacobian product.

    Raises `Unprintable`.
    """
    key = fingerprint(neuron, dtype, dims, backward_step)
    if key is None:
        return None
    if key not in _programs:
        found = _programs[key] = _find(neuron, key, dtype, dims, backward_step)
        if isinstance(found, Program):
            _named[found.name] = found
    found = _programs[key]
    if isinstance(found, Unprintable):
        raise found
    return found


def _find(
    neuron: nn.Module,
    key: tuple[Hashable, ...],
    dtype: torch.dtype,
    dims: int,
    backward_step: BackwardStep | None,
) -> Program | Unprintable | None:
    name = _lasting_name(key)
    file = f"{name}.json" if name else None
    if file and (content := read(file)):
        return _program(name or "", Graph.load(content.decode()))
    leaves = {
        n: p
        for n, p in (*neuron.named_parameters(), *neuron.named_buffers())
        if p.is_floating_point()
    }
    try:
        graph = trace(neuron, leaves, dtype, backward_step)
        compare(graph, neuron, leaves, dtype, dims, backward_step)
    except Unprintable as error:
        return error
    except NotImplementedError:  # no step at all: the reference says so
        return None
    except Exception as error:  # whatever a step may raise on numbers without dimensions
        return Unprintable(f"{type(error).__name__}: {error}".splitlines()[0])
    if file:
        write(file, graph.dump().encode())
    return _program(name or f"{type(neuron).__name__}-{len(_named)}", graph)


def _program(name: str, graph: Graph) -> Program:
    used = graph.inputs(graph.outputs.values())
    leaves = [n.removeprefix("leaf.") for n in sorted(used) if n.startswith("leaf.")]
    starts = [place for output, place in graph.outputs.items() if output.startswith("start.")]
    constant = all(graph.nodes[place].op == "const" for place in starts)
    return Program(name, graph, tuple(leaves), constant)


def fingerprint(
    neuron: nn.Module, dtype: torch.dtype, dims: int, backward_step: BackwardStep | None
) -> tuple[Hashable, ...] | None:
    """All that a step may depend on besides input, state and the values of tensors; None if there are hooks."""
    found: list[Hashable] = [dtype, backward_step]
    many = False
    for prefix, module in neuron.named_modules():
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"]:
            return None
        found += [prefix, type(module)]
        for name, value in own.items():
            if name not in _BLIND and not isinstance(value, Tensor):
                found += [name, type(value), _frozen(value)]
        for name, tensor in (*own["_parameters"].items(), *own["_buffers"].items()):
            found.append(name)
            if tensor is not None:
                many = many or tensor.numel() > 1
                found += [tuple(tensor.shape), tensor.dtype, tensor.requires_grad]
    found.append(dims if many else min(dims, 2))
    return tuple(found)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, float):
        return value.hex()  # 0.0 is not -0.0, and nan is nan
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


# --- names that hold in another process


def _lasting_name(key: tuple[Hashable, ...]) -> str | None:
    """A name made of sources and settings; None if some of them have none."""
    try:
        words = [*_words(key)]
        classes = {v for v in key if isinstance(v, type)}
        owners = [v for v in key if isinstance(v, types.FunctionType)]
        owners += [type(v) for v in key if dataclasses.is_dataclass(v) and not isinstance(v, type)]
        text = _sources(frozenset([*classes, *owners]))
    except _Fleeting:
        return None
    return digest(*words, text, torch.__version__, sys.version)


class _Fleeting(Exception):
    """Something that only this process knows."""


def _words(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if value is None or isinstance(value, bool | int | float | str | bytes | enum.Enum):
            yield repr(value)
        elif isinstance(value, torch.dtype):
            yield str(value)
        elif isinstance(value, type | types.FunctionType):
            if "<" in value.__qualname__:  # of a function: it may read that function's variables
                raise _Fleeting
            yield f"{value.__module__}.{value.__qualname__}"
        elif isinstance(value, tuple | list):
            yield "("
            yield from _words(value)
            yield ")"
        elif dataclasses.is_dataclass(value):
            yield f"{type(value).__module__}.{type(value).__qualname__}"
            yield from _words(getattr(value, f.name) for f in dataclasses.fields(value))
        else:
            raise _Fleeting


@cache
def _sources(owners: frozenset[type | types.FunctionType]) -> str:
    """The source of all modules that classes and functions may call into, their numbers included."""
    waiting = {
        base.__module__ for o in owners for base in (o.__mro__ if isinstance(o, type) else (o,))
    }
    seen: set[str] = set()
    words = []
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] in _FOREIGN:
            continue
        seen.add(name)
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if module is None or path is None or not Path(path).is_file():
            raise _Fleeting
        content = dict(vars(module))
        words.append(f"{name}\n{Path(path).read_text(encoding='utf-8')}")
        for key, value in content.items():
            if isinstance(value, type | types.FunctionType):
                waiting.add(value.__module__)
            elif isinstance(value, types.ModuleType):
                if not _installed(value):
                    waiting.add(value.__name__)
            elif isinstance(value, bool | int | float | str) and not key.startswith("__"):
                words.append(f"{name}.{key}={value!r}")
        waiting = {w for w in waiting if w in sys.modules and not _installed(sys.modules[w])}
    return json.dumps(sorted(words))


_FOREIGN = {"torch", "builtins", *sys.stdlib_module_names} - {"__main__"}


def _installed(module: types.ModuleType) -> bool:
    """Whether a module is a package of others, whose source does not change under its version."""
    if module.__name__.partition(".")[0] in ("snnrun", "__main__"):
        return False
    path = getattr(module, "__file__", None) or ""
    return "site-packages" in path or "dist-packages" in path
