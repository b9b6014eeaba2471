"""The small graph that a step becomes, and the one table of operations it is made of."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

# every operation with what torch computes for it; the printers know the same names
FLOAT: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "abs": torch.abs,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "sign": torch.sign,
    "sqrt": torch.sqrt,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "pow": torch.pow,
    "where": torch.where,
    "float": lambda b, like: b.to(like.dtype),
}
BOOL: dict[str, Callable[..., Tensor]] = {
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
    "not": torch.logical_not,
}
# equal to torch within 2 ulp only; all others bit for bit
ROUGH = {"exp", "sigmoid", "tanh", "log", "log1p", "expm1", "erf", "sin", "cos", "pow"}


@dataclass(frozen=True)
class Node:
    """One operation: its name, the places of its arguments, and a constant's value or an input's name."""

    op: str
    args: tuple[int, ...] = ()
    value: float | str | None = None

    @property
    def is_bool(self) -> bool:
        """Whether the value is true or false rather than a number."""
        return self.op in BOOL


@dataclass(eq=False)
class Graph:
    """Nodes in order of evaluation; an equal node is never added twice. A graph equals itself only."""

    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    _known: dict[object, int] = field(default_factory=dict, repr=False)

    def add(self, op: str, *args: int, value: float | str | None = None) -> int:
        """The place of a node, which is appended if there is none like it."""
        key = (op, args, repr(value))  # repr: 0.0 and -0.0 differ, nan equals nan
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(Node(op, args, value))
        return self._known[key]

    def input(self, name: str) -> int:
        """The place of an input."""
        return self.add("input", value=name)

    def const(self, value: float) -> int:
        """The place of a constant."""
        return self.add("const", value=float(value))

    def needed(self, outputs: Iterable[int]) -> list[int]:
        """The places that these outputs depend on, in order."""
        seen: set[int] = set()
        waiting = list(outputs)
        while waiting:
            place = waiting.pop()
            if place not in seen:
                seen.add(place)
                waiting.extend(self.nodes[place].args)
        return sorted(seen)

    def inputs(self, outputs: Iterable[int]) -> set[str]:
        """The names of the inputs that these outputs depend on."""
        found = (self.nodes[place] for place in self.needed(outputs))
        return {str(node.value) for node in found if node.op == "input"}

    def evaluate(self, places: Iterable[int], given: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute nodes with torch. `given` must hold at least one tensor, of the dtype of all constants."""
        places = list(places)
        like = next(iter(given.values()))
        values: dict[int, Tensor] = {}
        for place in self.needed(places):
            node = self.nodes[place]
            args = [values[a] for a in node.args]
            if node.op == "input":
                values[place] = given[str(node.value)]
            elif node.op == "const":
                values[place] = torch.tensor(node.value, dtype=like.dtype, device=like.device)
            elif node.op == "float":
                values[place] = FLOAT["float"](args[0], like)
            else:
                values[place] = (BOOL if node.is_bool else FLOAT)[node.op](*args)
        return [values[place] for place in places]

    def dump(self) -> str:
        """As text, from which `load` makes the same graph."""
        nodes = [[n.op, list(n.args), n.value] for n in self.nodes]
        return json.dumps({"nodes": nodes, "outputs": self.outputs})

    @classmethod
    def load(cls, text: str) -> "Graph":
        """The graph that `dump` wrote."""
        content = json.loads(text)
        graph = cls()
        for op, args, value in content["nodes"]:
            graph.add(op, *args, value=value)
        graph.outputs = content["outputs"]
        return graph
