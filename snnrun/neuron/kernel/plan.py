"""What a program computes, keeps and is given: the same for all printers."""

from dataclasses import dataclass

from snnrun.neuron.kernel.cut import cut
from snnrun.neuron.kernel.graph import Graph


@dataclass(frozen=True)
class Signature:
    """What a program is printed for besides its graph.

    **Arguments:**

    - `dtype`: of input and output; the state is wider if that is half.
    - `rows`: of each value made of parameters: whether it differs between elements.
    - `past`: whether the output is written past the caches (on a CPU).
    """

    dtype: str
    rows: tuple[bool, ...]
    past: bool = False


def constants(graph: Graph, outputs: list[str]) -> list[int]:
    """The places whose value depends on parameters alone and is read by something that depends on more."""
    varies: set[int] = set()
    wanted = graph.needed([graph.outputs[name] for name in outputs])
    for place in wanted:
        node = graph.nodes[place]
        alone = node.op == "input" and str(node.value).startswith("leaf.")
        if (node.op == "input" and not alone) or varies & set(node.args):
            varies.add(place)
    fixed = {p for p in wanted if p not in varies and graph.nodes[p].op != "const"}
    fixed = {p for p in fixed if graph.inputs([p])}
    read = {a for p in varies for a in graph.nodes[p].args if a in fixed}
    return sorted(read | {graph.outputs[n] for n in outputs if graph.outputs[n] in fixed})


def states(graph: Graph) -> int:
    """The number of states."""
    return sum(name.startswith("start.") for name in graph.outputs)


def of_leaves(graph: Graph) -> list[str]:
    """The outputs that are gradients of parameters."""
    return [name for name in graph.outputs if name.startswith("grad.leaf.")]


def forward_outputs(graph: Graph) -> list[str]:
    """What a forward program computes."""
    return ["out", *(f"state.{i}" for i in range(states(graph)))]


def backward_outputs(graph: Graph) -> list[str]:
    """What a backward program computes, the states that it runs through first included."""
    back = ["grad.x", *(f"grad.state.{i}" for i in range(states(graph))), *of_leaves(graph)]
    return [*(f"state.{i}" for i in range(states(graph))), *back]


def kept(graph: Graph) -> list[int]:
    """The places of what a backward program keeps of each step; the input is read again instead."""
    return [place for place in cut(graph) if graph.nodes[place].value != "x"]


def until(graph: Graph, outputs: list[int], known: set[int]) -> list[int]:
    """The places that outputs depend on, in order, nothing below a known one."""
    seen: set[int] = set()
    waiting = list(outputs)
    while waiting:
        place = waiting.pop()
        if place not in seen:
            seen.add(place)
            if place not in known:
                waiting.extend(graph.nodes[place].args)
    return sorted(seen)
