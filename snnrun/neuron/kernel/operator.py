"""The fused run of a sequence as one differentiable operation.

Eager code goes through an `autograd.Function`; code under `torch.compile` through operators of the library `snnrun`,
each of which is one node of its graph. Both run the same functions.
"""

import os
from types import ModuleType

import torch
from torch import Tensor

from snnrun.neuron.kernel import cpu
from snnrun.neuron.kernel.layout import layout
from snnrun.neuron.kernel.plan import states
from snnrun.neuron.kernel.program import Program, named


def backend(x: Tensor) -> ModuleType:
    """The module that runs programs where `x` is; Triton's interpreter takes the place of a GPU, if it is asked for."""
    if x.device.type == "cpu" and "TRITON_INTERPRET" not in os.environ:
        return cpu
    from snnrun.neuron.kernel import cuda

    return cuda


class Sequence(torch.autograd.Function):
    """`(program, finals, gradients, number of states, x, *state, *leaves)` to `(out, *final state)`.

    `gradients` tells whether some may be wanted: in here, torch says that none are.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx,
        program: Program,
        finals: bool,
        gradients: bool,
        count: int,
        x: Tensor,
        *tensors: Tensor,
    ):
        state, leaves = list(tensors[:count]), list(tensors[count:])
        keeps = gradients and any(ctx.needs_input_grad)
        out, after, marks = backend(x).forward(program, x, state, leaves, finals, keeps)
        ctx.program, ctx.count = program, count
        ctx.save_for_backward(x, marks, *tensors)
        ctx.set_materialize_grads(False)
        return (out, *after)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError("A printed kernel has no second derivative; use kernel=scan.")
        x, marks, *tensors = ctx.saved_tensors
        state, leaves = tensors[: ctx.count], tensors[ctx.count :]
        wanted = any(ctx.needs_input_grad[5 : 5 + ctx.count])
        grad_x, before, named_grads = backend(x).backward(
            ctx.program, x, state, leaves, marks, grads[0], list(grads[1:]), wanted
        )
        of_leaves = [named_grads.get(name) for name in ctx.program.leaves]
        before = before or [None] * ctx.count
        return (None, None, None, None, grad_x, *before, *of_leaves)


@torch.library.custom_op("snnrun::sequence", mutates_args=())
def sequence(
    x: Tensor, state: list[Tensor], leaves: list[Tensor], name: str, finals: bool
) -> list[Tensor]:
    """`Sequence` as an operator; `name` is the program's."""
    out, after, _ = backend(x).forward(named(name), x, state, leaves, finals)
    return [out, *after]


@sequence.register_fake
def _(x: Tensor, state: list[Tensor], leaves: list[Tensor], name: str, finals: bool):
    place = layout(x)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    count = states(named(name).graph) if finals else 0
    return [place.like(x, x.shape[0]), *(place.step(x, wide) for _ in range(count))]


@torch.library.custom_op("snnrun::sequence_backward", mutates_args=())
def sequence_backward(
    x: Tensor,
    state: list[Tensor],
    leaves: list[Tensor],
    grads: list[Tensor | None],
    name: str,
    starts: bool,
) -> list[Tensor]:
    """Gradients of x, with `starts` of the states, and of the program's learnable leaves."""
    grad_x, before, of_leaves = backend(x).backward(
        named(name), x, state, leaves, None, grads[0], grads[1:], starts
    )
    return [grad_x, *before, *of_leaves.values()]


@sequence_backward.register_fake
def _(
    x: Tensor,
    state: list[Tensor],
    leaves: list[Tensor],
    grads: list[Tensor | None],
    name: str,
    starts: bool,
):
    place, program = layout(x), named(name)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    before = [place.step(x, wide) for _ in range(states(program.graph))] if starts else []
    by_name = dict(zip(program.leaves, leaves, strict=True))
    of_leaves = [torch.empty_like(by_name[n]) for n in _learnable(program)]
    return [place.like(x, x.shape[0]), *before, *of_leaves]


def _learnable(program: Program) -> list[str]:
    found = (n for n in program.graph.outputs if n.startswith("grad.leaf."))
    return [n.removeprefix("grad.leaf.") for n in found]


def _setup(ctx, inputs, output) -> None:
    x, state, leaves, ctx.name, _ = inputs
    ctx.count = len(state)
    ctx.save_for_backward(x, *state, *leaves)
    ctx.set_materialize_grads(False)


def _derive(ctx, grads):
    x, *tensors = ctx.saved_tensors
    state, leaves = tensors[: ctx.count], tensors[ctx.count :]
    program, starts = named(ctx.name), any(s.requires_grad for s in state)
    grad_x, *rest = sequence_backward(x, state, leaves, list(grads), ctx.name, starts)
    before = rest[: ctx.count] if starts else [None] * ctx.count
    by_name = dict(zip(_learnable(program), rest[ctx.count if starts else 0 :], strict=True))
    return grad_x, before, [by_name.get(n) for n in program.leaves], None, None


sequence.register_autograd(_derive, setup_context=_setup)
