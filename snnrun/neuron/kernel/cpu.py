"""Runs printed programs on CPU tensors, on as many threads as torch uses."""

import os
import struct
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from snnrun.neuron.kernel import llvm, native, plan
from snnrun.neuron.kernel.graph import Graph
from snnrun.neuron.kernel.layout import Layout, Rows, layout
from snnrun.neuron.kernel.program import Program
from snnrun.neuron.kernel.trace import gather, spread

# measured: short rows cost more than a scratch buffer that leaves the second-level cache
BLOCK = 2048  # elements at most
SCRATCH = 1 << 20  # bytes that a block may take
PAST = (
    1 << 24
)  # bytes of an output from which on it is written past the caches: it would not stay there
LINE = 64  # bytes of a cache line
WORK = 1 << 16  # elements times steps below which one thread is enough
ALIGN = 64  # elements: threads share no cache line


def forward(
    program: Program,
    x: Tensor,
    state: list[Tensor],
    leaves: list[Tensor],
    finals: bool,
    keeps: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Run a sequence: output, and with `finals` the states behind it. No states: the program's own start.

    Third comes what `backward` is given as `marks` if gradients are wanted (`keeps`): nothing here.
    """
    place = layout(x)
    call = _Call(program, x, leaves, place, backward=False)
    out = place.like(x, len(x))
    after = [place.step(x, call.wide) for _ in range(plan.states(program.graph))] if finals else []
    if x.numel():
        call.over_time("x", place.rows(x))
        call.over_time("out", place.rows(out))
        for i, s in enumerate(state):
            call.step(f"before.{i}", s)
        for i, s in enumerate(after):
            call.step(f"after.{i}", s)
        call.run(len(x), out)
    return out, after, None


def backward(
    program: Program,
    x: Tensor,
    state: list[Tensor],
    leaves: list[Tensor],
    marks: Tensor | None,
    grad_out: Tensor | None,
    grad_finals: list[Tensor | None],
    grad_starts: bool,
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """Gradients of the input, with `grad_starts` of the states before it, and of leaves by name."""
    graph, place = program.graph, layout(x)
    call = _Call(program, x, leaves, place, backward=True)
    grad_x = place.like(x, len(x))
    count, shared = plan.states(graph), plan.of_leaves(graph)
    grad_before = [place.step(x, call.wide) for _ in range(count)] if grad_starts else []
    of_leaves = {name.removeprefix("grad.leaf."): place.step(x, call.wide) for name in shared}
    if x.numel():
        if grad_out is None:
            grad_out = x.new_zeros(()).expand(x.shape)
        call.over_time("x", place.rows(x))
        call.over_time("grad.out", place.rows(grad_out.to(x.dtype)))
        call.over_time("grad.x", place.rows(grad_x))
        for i, s in enumerate(state):
            call.step(f"before.{i}", s)
        for i, g in enumerate(grad_finals):
            if g is not None:
                call.step(f"grad.after.{i}", g)
        for i, g in enumerate(grad_before):
            call.step(f"grad.before.{i}", g)
        for name, g in of_leaves.items():
            call.step(f"grad.leaf.{name}", g)
        call.run(len(x), grad_x)
    else:
        for g in (*grad_before, *of_leaves.values()):
            g.zero_()
    shapes = {name: leaf for name, leaf in zip(program.leaves, leaves, strict=True)}
    found = {
        name: gather(g, shapes[name].shape).to(shapes[name].dtype) for name, g in of_leaves.items()
    }
    return grad_x, grad_before, found


class _Call:
    """The words of one call, and what they point at."""

    def __init__(
        self, program: Program, x: Tensor, leaves: list[Tensor], place: Layout, *, backward: bool
    ):
        self.place, self.backward, self.graph = place, backward, program.graph
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.kept: list[Tensor] = []
        self.words: dict[str, int] = {"dense.outer": place.inner * self.wide.itemsize}
        rows = []
        for i, value in enumerate(constant_values(program, leaves, x.dim() - 1, backward=backward)):
            rows.append(value.numel() > 1)
            if rows[-1]:
                self.step(f"constant.{i}", value)
            else:
                bits = struct.pack("<d", value.item())
                self.words[f"constant.{i}"] = struct.unpack("<q", bits)[0]
        self.dtype, self.rows = str(x.dtype).removeprefix("torch."), tuple(rows)

    def over_time(self, name: str, rows: Rows) -> None:
        self.kept.append(rows.tensor)
        size = rows.tensor.element_size()
        self.words[name] = rows.tensor.data_ptr()
        self.words[f"{name}.time"], self.words[f"{name}.outer"] = (
            rows.time * size,
            rows.outer * size,
        )

    def step(self, name: str, step: Tensor) -> None:
        dense = self.place.dense(step.to(self.wide))
        self.kept.append(dense)
        self.words[name] = dense.data_ptr()

    def past(self, result: Tensor) -> bool:
        """Whether a result is too large to stay in the caches, and all its rows begin with a line of them."""
        name = "grad.x" if self.backward else "out"
        starts = [self.words[name], self.words[f"{name}.time"]]
        starts += [self.words[f"{name}.outer"]] if self.place.outer > 1 else []
        return result.nbytes >= PAST and not any(start % LINE for start in starts)

    def run(self, steps: int, result: Tensor) -> None:
        signature = plan.Signature(self.dtype, self.rows, self.past(result))
        function, names, (each, besides) = _function(self.graph, signature, self.backward)
        outer, inner = self.place.outer, self.place.inner
        threads = min(torch.get_num_threads(), max(1, steps * outer * inner // WORK))
        across = outer >= threads and outer > 1
        shares = deal(outer if across else inner, threads, 1 if across else ALIGN)
        row = (steps * each + besides) * self.wide.itemsize
        block = min(max(SCRATCH // max(row, 1) // ALIGN * ALIGN, ALIGN), BLOCK)
        block = min(block, -(-inner // ALIGN) * ALIGN)
        scratch = torch.empty((len(shares), row * block), dtype=torch.uint8)
        calls = []
        for i, share in enumerate(shares):
            rows_of, within = (share, (0, inner)) if across else ((0, outer), share)
            words = {
                **self.words,
                **{"steps": steps, "block": block, "scratch": scratch[i].data_ptr()},
                **{"outer.low": rows_of[0], "outer.high": rows_of[1]},
                **{"low": within[0], "high": within[1]},
            }
            calls.append(array("q", [words.get(name, 0) for name in names]))
        addresses = [call.buffer_info()[0] for call in calls]
        if len(addresses) == 1:
            function(addresses[0])
        else:
            rest = [pool(os.getpid(), threads).submit(function, a) for a in addresses[1:]]
            function(addresses[0])
            for future in rest:
                future.result()


def constant_values(
    program: Program, leaves: list[Tensor], dims: int, *, backward: bool
) -> list[Tensor]:
    """The values of the graph that depend on parameters alone."""
    if not leaves:
        return []
    graph = program.graph
    given = {
        f"leaf.{name}": spread(leaf.detach(), dims)
        for name, leaf in zip(program.leaves, leaves, strict=True)
    }
    return graph.evaluate(_places(graph, backward), given)


@cache
def _places(graph: Graph, backward: bool) -> list[int]:
    names = plan.backward_outputs(graph) if backward else plan.forward_outputs(graph)
    return plan.constants(graph, names)


@cache
def _function(
    graph: Graph, signature: plan.Signature, backward: bool
) -> tuple[native.Function, list[str], tuple[int, int]]:
    """A compiled program, the names of its words, and what its scratch buffer holds."""
    function = native.load(llvm.source(graph, signature, backward=backward))
    names = llvm.slots(graph, signature, backward=backward)
    return function, names, llvm.scratch_rows(graph, backward=backward)


def deal(count: int, threads: int, align: int) -> list[tuple[int, int]]:
    """`count` things dealt out to threads."""
    size = -(-count // threads)
    size = -(-size // align) * align
    return [(low, min(low + size, count)) for low in range(0, count, size)]


@cache
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of a process."""
    return ThreadPoolExecutor(threads, "snnrun-kernel")
