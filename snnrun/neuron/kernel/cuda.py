"""Runs printed Triton kernels on CUDA tensors (or on CPU tensors in Triton's interpreter)."""

import importlib.util
import sys
from functools import cache, lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from snnrun.neuron.kernel import cpu, plan, triton
from snnrun.neuron.kernel.cache import digest, folder
from snnrun.neuron.kernel.graph import Graph
from snnrun.neuron.kernel.layout import Layout, layout
from snnrun.neuron.kernel.program import Program
from snnrun.neuron.kernel.trace import gather

BLOCK = 256  # elements a program


def forward(
    program: Program,
    x: Tensor,
    state: list[Tensor],
    leaves: list[Tensor],
    finals: bool,
    keeps: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """As `cpu.forward`; of a sequence longer than a chunk `keeps` also gives the states before each chunk."""
    call = _Call(program, x, state, leaves, backward=False)
    out = call.place.like(x, len(x))
    call.over_time("x", x)
    call.over_time("out", out)
    after = call.each("after", call.count) if finals else []
    marks = call.marks() if keeps and call.many else None
    call.run(ends=finals, marks=marks is not None)
    return out, after, marks


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
    """As `cpu.backward`."""
    call = _Call(program, x, state, leaves, backward=True)
    if call.many:
        if marks is None:
            *_, marks = forward(program, x, state, leaves, False, keeps=True)
        call.given["marks"] = marks
    grad_x = call.place.like(x, len(x))
    call.over_time("x", x)
    call.over_time("grad_out", x.new_zeros(()).expand(x.shape) if grad_out is None else grad_out)
    call.over_time("grad_x", grad_x)
    ends = any(g is not None for g in grad_finals)
    for i, given in enumerate(grad_finals if ends else []):
        call.step(f"grad_after_{i}", x.new_zeros(()) if given is None else given)
    before = call.each("grad_before", call.count) if grad_starts else []
    names = [name.removeprefix("grad.leaf.") for name in plan.of_leaves(program.graph)]
    of_leaves = dict(zip(names, call.each("grad_leaf", len(names)), strict=True))
    call.run(ends=ends, grad_starts=grad_starts)
    shapes = dict(zip(program.leaves, leaves, strict=True))
    found = {n: gather(g, shapes[n].shape).to(shapes[n].dtype) for n, g in of_leaves.items()}
    return grad_x, before, found


class _Call:
    """The arguments of one launch."""

    def __init__(
        self,
        program: Program,
        x: Tensor,
        state: list[Tensor],
        leaves: list[Tensor],
        *,
        backward: bool,
    ):
        self.place = _as_row(layout(x))  # a step is one row, copied if it is not
        self.graph, self.backward, self.x = program.graph, backward, x
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.count, self.chunk = plan.states(self.graph), triton.chunk(self.graph, len(x))
        self.many, self.starts = len(x) > self.chunk, bool(state)
        self.given: dict[str, Any] = {}
        for i, value in enumerate(state):
            self.step(f"before_{i}", value)
        rows = []
        for i, value in enumerate(
            cpu.constant_values(program, leaves, x.dim() - 1, backward=backward)
        ):
            rows.append(value.numel() > 1)
            if rows[-1]:
                self.step(f"constant_{i}", value)
            else:
                self.given[f"constant_{i}"] = value.to(self.wide).reshape(1)
        self.rows = tuple(rows)

    def over_time(self, name: str, tensor: Tensor) -> None:
        rows = self.place.rows(tensor)
        self.given[name], self.given[f"{name}_time"] = rows.tensor, rows.time

    def step(self, name: str, step: Tensor) -> None:
        self.given[name] = self.place.dense(step.to(self.wide))

    def each(self, name: str, count: int) -> list[Tensor]:
        """Empty steps for results."""
        steps = [self.place.step(self.x, self.wide) for _ in range(count)]
        for i, step in enumerate(steps):
            self.step(f"{name}_{i}", step)
        return steps

    def marks(self) -> Tensor:
        """Room for the states before each chunk."""
        chunks = -(-len(self.x) // self.chunk)
        size = self.place.outer * self.place.inner
        self.given["marks"] = self.x.new_empty((chunks, self.count, size), dtype=self.wide)
        return self.given["marks"]

    def run(self, **wanted: bool) -> None:
        steps, size = len(self.x), self.place.outer * self.place.inner
        if not steps or not size:
            return
        form = triton.Form(
            dtype=str(self.x.dtype).removeprefix("torch."),
            rows=self.rows,
            chunk=self.chunk,
            many=self.many,
            full=steps % self.chunk == 0,
            starts=self.starts,
            **wanted,
        )
        kernel, names = _kernel(self.graph, form, self.backward)
        arguments = [self.given[name] for name in names]
        with torch.cuda.device_of(self.x):
            kernel[(-(-size // BLOCK),)](
                *arguments, steps, size, BLOCK=BLOCK, enable_fp_fusion=False
            )


@lru_cache(1024)
def _as_row(place: Layout) -> Layout:
    return Layout(place.shape, place.order, 0)


@cache
def _kernel(graph: Graph, form: triton.Form, backward: bool) -> tuple[Any, list[str]]:
    """A kernel, and the names of its arguments."""
    kernel = _load(triton.source(graph, form, backward=backward)).run
    return kernel, triton.arguments(graph, form, backward=backward)


@cache
def _load(text: str) -> Any:
    """The module of a printed text. Triton reads a kernel's source from its file and compiles and caches by itself."""
    place = (folder() or Path(mkdtemp())) / f"triton_{digest(text)}.py"
    if not place.is_file() or place.read_text() != text:
        part = place.with_suffix(f".{digest(text, str(id(text)))}.part")
        part.write_text(text)
        part.replace(place)
    spec = importlib.util.spec_from_file_location(f"snnrun_{place.stem}", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
