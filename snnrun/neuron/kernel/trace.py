"""A neuron's step and its vector-Jacobian product, recorded as one graph.

The step runs once on 0-d tensors, so that what is recorded is the arithmetic of one element: a sum over a parameter's
elements, which autograd adds on larger tensors, never enters the graph. The graph is then compared with the step on
tensors of a few elements; a step that mixes elements does not pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.neuron.kernel.aten import Recorder, Unprintable
from snnrun.neuron.kernel.graph import Graph

BackwardStep = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


def trace(
    neuron: nn.Module,
    leaves: dict[str, Tensor],
    dtype: torch.dtype,
    backward_step: BackwardStep | None = None,
) -> Graph:
    """Record one step of `neuron` forward and backward.

    Inputs of the graph: `x`, `state.0` ..., `leaf.NAME`, `grad.out`, `grad.state.0` .... Outputs: `out`, `state.0` ...,
    `start.0` ... (the state before the first step), `grad.x`, `grad.state.0` ..., `grad.leaf.NAME`.

    **Arguments:**

    - `neuron`: what is traced; it is not changed.
    - `leaves`: parameters and buffers by name, each traced as one number.
    - `dtype`: of the computation.
    - `backward_step`: takes the place of the vector-Jacobian product.

    Raises `Unprintable`.
    """
    names = {name: f"leaf.{name}" for name in leaves}
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        x = _number(0.3, dtype)
        scalars = {
            name: _number(0.4 + 0.01 * i, leaf.dtype).requires_grad_(leaf.requires_grad)
            for i, (name, leaf) in enumerate(leaves.items())
        }
        recorder = Recorder(dtype)
        for name, scalar in scalars.items():
            recorder.give(scalar, names[name])
        recorder.give(x, "x")
        with recorder:
            start = _call(neuron, "init_state", scalars, x)
        state = tuple(_number(0.2 + 0.01 * i, dtype).requires_grad_() for i in range(len(start)))
        x.requires_grad_()
        for i, s in enumerate(state):
            recorder.give(s, f"state.{i}")
        with recorder:
            out, new = _call(neuron, "step", scalars, x, state)
        grad_out = _number(0.5, dtype)
        grad_new = tuple(_number(0.6 + 0.01 * i, dtype) for i in range(len(new)))
        recorder.give(grad_out, "grad.out")
        for i, g in enumerate(grad_new):
            recorder.give(g, f"grad.state.{i}")
        with recorder:
            if backward_step is None:
                wanted = [name for name, s in scalars.items() if s.requires_grad]
                to = [x, *state, *(scalars[name] for name in wanted)]
                gradients = _vjp([out, *new], to, [grad_out, *grad_new])
            else:
                wanted = []
                with torch.no_grad():
                    values = {name: s.detach() for name, s in scalars.items()}
                    for name, value in values.items():
                        recorder.give(value, names[name])
                    grad_x, grad_state = _call(
                        neuron, backward_step, values, x, state, out.detach(), grad_out, grad_new
                    )
                gradients = [grad_x, *grad_state]
    graph, read = recorder.graph, recorder.place
    if len(new) != len(start) or len(gradients) != 1 + len(start) + len(wanted):
        raise Unprintable("a number of states that changes")
    numbers = lambda tensor: recorder.as_float(read(tensor))  # noqa: E731
    graph.outputs = {
        "out": numbers(out),
        **{f"state.{i}": numbers(s) for i, s in enumerate(new)},
        **{f"start.{i}": numbers(s) for i, s in enumerate(start)},
        "grad.x": numbers(gradients[0]),
        **{f"grad.state.{i}": numbers(g) for i, g in enumerate(gradients[1 : 1 + len(state)])},
        **{
            f"grad.leaf.{name}": numbers(g)
            for name, g in zip(wanted, gradients[1 + len(state) :], strict=True)
        },
    }
    used = graph.inputs(graph.outputs.values())
    for name in wanted:
        if f"leaf.{name}" not in used:
            del graph.outputs[f"grad.leaf.{name}"]
    return graph


def compare(
    graph: Graph,
    neuron: nn.Module,
    leaves: dict[str, Tensor],
    dtype: torch.dtype,
    dims: int,
    backward_step: BackwardStep | None = None,
) -> None:
    """Compute a step of a few elements with torch and from the graph. Raises `Unprintable` if they differ.

    **Arguments:**

    - `graph`, `neuron`, `leaves`, `dtype`, `backward_step`: as in `trace`.
    - `dims`: number of dimensions of a step's input.
    """
    shape: list[int] = [2, 3, 2, 2, 2, 2, 2, 2][:dims]
    used = graph.inputs(graph.outputs.values())
    for name, leaf in leaves.items():
        if f"leaf.{name}" in used and leaf.numel() > 1:
            sizes = [leaf.numel()] if leaf.dim() == 1 else list(leaf.shape)
            first = 1 if leaf.dim() == 1 else dims - leaf.dim()
            if first < 0 or first + len(sizes) > dims:
                raise Unprintable(f"a parameter {name} of shape {tuple(leaf.shape)}")
            shape[first : first + len(sizes)] = [
                size if size > 1 else old
                for size, old in zip(sizes, shape[first : first + len(sizes)], strict=True)
            ]
    random = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(shape, generator=random, dtype=dtype)  # noqa: E731
    count = sum(name.startswith("start.") for name in graph.outputs)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        x, state = draw().requires_grad_(), tuple(draw().requires_grad_() for _ in range(count))
        grads = [draw() for _ in range(1 + count)]
        local = {n: p.detach().cpu().clone() for n, p in leaves.items()}
        wanted = [n for n in local if f"grad.leaf.{n}" in graph.outputs]
        for n in wanted:
            local[n].requires_grad_()
        start = _call(neuron, "init_state", local, x)
        out, new = _call(neuron, "step", local, x, state)
        expected = {"out": out, **{f"state.{i}": s for i, s in enumerate(new)}}
        expected |= {f"start.{i}": s for i, s in enumerate(start)}
        if any(e.shape != x.shape for e in expected.values()):
            raise Unprintable("an output or state of another shape than the input's")
        if backward_step is None:
            found = _vjp([out, *new], [x, *state, *(local[n] for n in wanted)], grads)
        else:
            with torch.no_grad():
                own = _call(neuron, backward_step, local, x, state, out, grads[0], tuple(grads[1:]))
            found = [own[0], *own[1]]
    expected["grad.x"] = found[0]
    expected |= {f"grad.state.{i}": g for i, g in enumerate(found[1 : 1 + count])}
    expected |= {f"grad.leaf.{n}": g for n, g in zip(wanted, found[1 + count :], strict=True)}
    given = {"x": x, "grad.out": grads[0]}
    given |= {f"state.{i}": s for i, s in enumerate(state)}
    given |= {f"grad.state.{i}": g for i, g in enumerate(grads[1:])}
    given = {name: tensor.detach() for name, tensor in given.items()}
    given |= {f"leaf.{n}": spread(p.detach(), dims) for n, p in local.items()}
    values = graph.evaluate(graph.outputs.values(), given)
    for (name, expectation), value in zip(
        expected.items(), map(torch.Tensor.detach, values), strict=True
    ):
        value = value.to(expectation.dtype).expand(shape)
        if name.startswith("grad.leaf."):
            value = gather(value, expectation.shape)
        loose = 1e-3 if dtype == torch.float32 else 1e-9
        if not torch.allclose(value, expectation.detach(), rtol=loose, atol=loose, equal_nan=True):
            raise Unprintable("an operation across the elements of a step")


def spread(leaf: Tensor, dims: int) -> Tensor:
    """A parameter so shaped that it broadcasts against a step: 1-d ones belong to dimension 1."""
    if leaf.numel() == 1:
        return leaf.reshape([1] * dims)
    return leaf.view(-1, *[1] * (dims - 2)) if leaf.dim() == 1 else leaf


def gather(of_step: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a parameter of this shape from the gradient of each element of a step."""
    if shape.numel() == 1:
        return of_step.sum().reshape(shape)
    if len(shape) == 1:
        return of_step.sum([d for d in range(of_step.dim()) if d != 1])
    return of_step.sum_to_size(shape)


class _Method(nn.Module):
    """Lets `functional_call` reach a method other than forward."""

    def __init__(self, neuron: nn.Module, method: str | Callable[..., Any]):
        super().__init__()
        self.neuron, self.method = neuron, method

    def forward(self, *args: Any) -> Any:
        if callable(self.method):
            return self.method(self.neuron, *args)
        return getattr(self.neuron, self.method)(*args)


def _call(
    neuron: nn.Module, method: str | Callable[..., Any], leaves: dict[str, Tensor], *args: Any
) -> Any:
    given = {f"neuron.{name}": leaf for name, leaf in leaves.items()}
    return torch.func.functional_call(_Method(neuron, method), given, args)


def _number(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype, device="cpu")


def _vjp(of: list[Tensor], to: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    pairs = [(o, g) for o, g in zip(of, grads, strict=True) if o.requires_grad]
    found = (
        torch.autograd.grad(
            [o for o, _ in pairs], to, [g.reshape(o.shape) for o, g in pairs], allow_unused=True
        )
        if pairs
        else [None] * len(to)
    )
    return [torch.zeros_like(t) if g is None else g for t, g in zip(to, found, strict=True)]
