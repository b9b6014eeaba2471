"""What the way back keeps of the way there: the fewest values of a step from which all its gradients follow."""

from collections import deque

from snnrun.neuron.kernel.graph import Graph

_MANY = 1_000_000


def cut(graph: Graph) -> list[int]:
    """The places of the fewest numbers that separate input and state from the gradients, as late as possible.

    The fewest nodes that every path from `x` and `state.*` into a gradient meets: a minimum vertex cut (Menger 1927).
    For a LIF neuron with a reset that lets no gradient through it is one number, its potential before the reset.
    """
    outputs = [place for name, place in graph.outputs.items() if name.startswith("grad.")]
    there: set[int] = set()  # depends on input or state only
    back: set[int] = set()  # depends on a gradient
    sinks: set[int] = set(outputs)
    needed = graph.needed(outputs)
    for place in needed:
        node = graph.nodes[place]
        name = str(node.value) if node.op == "input" else ""
        if name.startswith("grad.") or back & set(node.args):
            back.add(place)
            sinks |= set(node.args)
        elif name == "x" or name.startswith("state.") or there & set(node.args):
            there.add(place)
    sinks &= there
    # a node is an arc from (place, 0) to (place, 1); the source is (-1, 1), the sink (-2, 0)
    source, sink = (-1, 1), (-2, 0)
    left: dict[tuple[int, int], dict[tuple[int, int], int]] = {source: {}, sink: {}}

    def arc(one: tuple[int, int], other: tuple[int, int], capacity: int) -> None:
        left.setdefault(one, {})[other] = capacity
        left.setdefault(other, {}).setdefault(one, 0)

    for place in sorted(there):
        node = graph.nodes[place]
        arc((place, 0), (place, 1), _MANY if node.is_bool else 1)
        if node.op == "input":
            arc(source, (place, 0), _MANY)
        for a in set(node.args) & there:
            arc((a, 1), (place, 0), _MANY)
        if place in sinks:
            arc((place, 1), sink, _MANY)
    while path := _path(left, source, sink):
        for one, other in path:
            left[one][other] -= 1
            left[other][one] += 1
    reach, waiting = {sink}, [sink]  # from where the sink can still be reached
    while waiting:
        here = waiting.pop()
        for before in left[here]:
            if before not in reach and left[before][here] > 0:
                reach.add(before)
                waiting.append(before)
    return [p for p in sorted(there) if (p, 1) in reach and (p, 0) not in reach]


def _path(
    left: dict[tuple[int, int], dict[tuple[int, int], int]],
    source: tuple[int, int],
    sink: tuple[int, int],
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    came: dict[tuple[int, int], tuple[int, int]] = {}
    waiting = deque([source])
    while waiting:
        here = waiting.popleft()
        for there, capacity in left[here].items():
            if capacity > 0 and there not in came and there != source:
                came[there] = here
                if there == sink:
                    path = [(here, there)]
                    while here != source:
                        path.append((came[here], here))
                        here = came[here]
                    return path
                waiting.append(there)
    return []
