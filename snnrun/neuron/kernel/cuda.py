"""Runs printed Triton kernels on CUDA tensors (or on CPU tensors in Triton's interpreter)."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from snnrun.neuron.kernel import cpu, plan, triton
from snnrun.neuron.kernel.cache import digest, folder
from snnrun.neuron.kernel.layout import Layout, layout
from snnrun.neuron.kernel.program import Program
from snnrun.neuron.kernel.trace import gather

BLOCK = 256  # elements a program


def forward(
    program: Program, x: Tensor, state: list[Tensor], leaves: list[Tensor], finals: bool
) -> tuple[Tensor, list[Tensor]]:
    """As `cpu.forward`."""
    call = _Call(program, x, leaves, backward=False)
    out = call.place.like(x, len(x))
    after = [call.place.step(x, call.wide) for _ in range(plan.states(program.graph))]
    call.over_time("x", x)
    call.over_time("out", out)
    call.starts(state)
    for i, s in enumerate(after):
        call.step(f"after_{i}", s)
    call.run(len(x))
    return out, after if finals else []


def backward(
    program: Program,
    x: Tensor,
    state: list[Tensor],
    leaves: list[Tensor],
    grad_out: Tensor | None,
    grad_finals: list[Tensor | None],
    grad_starts: bool,
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """As `cpu.backward`."""
    graph = program.graph
    call = _Call(program, x, leaves, backward=True)
    count, shared = plan.states(graph), plan.of_leaves(graph)
    grad_x = call.place.like(x, len(x))
    before = [call.place.step(x, call.wide) for _ in range(count)]
    of_leaves = {name.removeprefix("grad.leaf."): call.place.step(x, call.wide) for name in shared}
    call.over_time("x", x)
    call.over_time("grad_out", x.new_zeros(()).expand(x.shape) if grad_out is None else grad_out)
    call.over_time("grad_x", grad_x)
    call.starts(state)
    zero = x.new_zeros((), dtype=call.wide)
    for i in range(count):
        given = grad_finals[i] if i < len(grad_finals) else None
        call.step(f"grad_after_{i}", zero if given is None else given)
        call.step(f"grad_before_{i}", before[i])
    for i, g in enumerate(of_leaves.values()):
        call.step(f"grad_leaf_{i}", g)
    size = len(x) * len(plan.kept(graph)) * call.place.outer * call.place.inner
    call.given["kept"] = torch.empty(size, dtype=call.wide, device=x.device)
    call.run(len(x))
    shapes = dict(zip(program.leaves, leaves, strict=True))
    found = {n: gather(g, shapes[n].shape).to(shapes[n].dtype) for n, g in of_leaves.items()}
    return grad_x, before if grad_starts else [], found


class _Call:
    """The arguments of one launch."""

    def __init__(self, program: Program, x: Tensor, leaves: list[Tensor], *, backward: bool):
        found = layout(x)
        self.place = Layout(found.shape, found.order, 0)  # a step is one row, copied if it is not
        self.program, self.backward, self.x = program, backward, x
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.given: dict[str, Any] = {}
        rows = []
        for i, value in enumerate(
            cpu.constant_values(program, leaves, x.dim() - 1, backward=backward)
        ):
            rows.append(value.numel() > 1)
            if rows[-1]:
                self.step(f"constant_{i}", value)
            else:
                self.given[f"constant_{i}"] = value.to(self.wide).reshape(1)
        self.signature = plan.Signature(str(x.dtype).removeprefix("torch."), tuple(rows))

    def over_time(self, name: str, tensor: Tensor) -> None:
        rows = self.place.rows(tensor)
        self.given[name], self.given[f"{name}_time"] = rows.tensor, rows.time

    def step(self, name: str, step: Tensor) -> None:
        self.given[name] = self.place.dense(step.to(self.wide))

    def starts(self, state: list[Tensor]) -> None:
        graph = self.program.graph
        for i in range(plan.states(graph)):
            if state:
                self.step(f"before_{i}", state[i])
            else:
                value = graph.nodes[graph.outputs[f"start.{i}"]].value
                self.step(f"before_{i}", self.x.new_full((), float(value or 0), dtype=self.wide))

    def run(self, steps: int) -> None:
        size = self.place.outer * self.place.inner
        if not size:
            return
        graph, signature = self.program.graph, self.signature
        text = triton.source(graph, signature, backward=self.backward)
        names = triton.arguments(graph, signature, backward=self.backward)
        arguments = [self.given[name] for name in names]
        kernel = _load(text).run
        kernel[(-(-size // BLOCK),)](*arguments, steps, size, BLOCK=BLOCK, enable_fp_fusion=False)


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
