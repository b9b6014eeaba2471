"""A neuron's step and its vector-Jacobian product, recorded as one graph.

The step runs once on 0-d tensors, so that what is recorded is the arithmetic of one element: a sum over a parameter's
elements, which autograd adds on larger tensors, never enters the graph. The graph is then compared with the step on
tensors of a few elements; a step that mixes elements does not pass.
"""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from snnrun.neuron.kernel.graph import Graph

BackwardStep = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


class Unprintable(Exception):
    """The step contains something that no kernel can be printed for; the message names it."""


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
        recorder = _Recorder(dtype)
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


# --- aten to the table


class _Recorder(TorchDispatchMode):
    """Runs every operation and writes it down."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype, self.graph = dtype, Graph()
        self.places: dict[int, int] = {}
        self.kept: list[Tensor] = []  # alive, so that no id is used twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch._dynamo is imported, which takes seconds

    def give(self, tensor: Tensor, name: str) -> None:
        self._note(tensor, self.graph.input(name))

    def _note(self, tensor: Tensor, place: int) -> None:
        self.kept.append(tensor)
        self.places[id(tensor)] = place

    def place(self, value: Any) -> int:
        if isinstance(value, Tensor):
            if id(value) not in self.places:
                raise Unprintable("a tensor that is neither parameter nor buffer")
            return self.places[id(value)]
        return self.graph.const(value)

    def as_float(self, place: int) -> int:
        if not self.graph.nodes[place].is_bool:
            return place
        return self.graph.add("float", place)

    def as_bool(self, place: int) -> int:
        if self.graph.nodes[place].is_bool:
            return place
        return self.graph.add("ne", place, self.graph.const(0))

    def number(self, op: str, *args: Any) -> int:
        return self.graph.add(op, *(self.as_float(self.place(a)) for a in args))

    def truth(self, op: str, *args: Any) -> int:
        return self.graph.add(op, *(self.as_bool(self.place(a)) for a in args))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        # autograd adds up in place what nobody else sees; a step that changes its input does not pass compare()
        lower = _ATEN.get(name) or _ATEN.get(name.removesuffix("_"))
        if lower is None:
            with self:
                if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return result
                if torch.Tag.pointwise not in func.tags and name not in _ELEMENTWISE:
                    raise Unprintable(name)
                import_module("torch._refs.nn.functional")  # registers more decompositions
                from torch._decomp import decomposition_table

                if (known := decomposition_table.get(func)) is not None:
                    return known(*args, **kwargs)
            raise Unprintable(name)
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.numel() != 1:
            raise Unprintable(name)
        if result.dtype not in (self.dtype, torch.bool) and name not in _QUIET:
            # a parameter's own dtype is widened on its way into the step
            narrow = result.dtype.is_floating_point and result.dtype.itemsize <= self.dtype.itemsize
            if not narrow or any(
                isinstance(a, Tensor) and a.dtype.itemsize > result.dtype.itemsize for a in args
            ):
                raise Unprintable(f"{name} to {str(result.dtype).removeprefix('torch.')}")
        try:
            place = lower(self, result, *args, **kwargs)
        except (TypeError, ValueError, KeyError) as error:
            raise Unprintable(name) from error
        self._note(result, place)
        return result


Lower = Callable[..., int]


def _numbers(op: str, count: int) -> Lower:
    return lambda r, result, *args: r.number(op, *_exactly(args, count))


def _truths(op: str, count: int) -> Lower:
    return lambda r, result, *args: r.truth(op, *_exactly(args, count))


def _exactly(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(args) != count:
        raise TypeError
    return args


def _same(r: _Recorder, result: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> int:
    return r.place(x)


def _constant(r: _Recorder, result: Tensor, *args: Any, **kwargs: Any) -> int:
    return r.graph.const(result.item())


def _fresh(r: _Recorder, result: Tensor, x: Tensor) -> int:
    return r.places[id(x)] if id(x) in r.places else r.graph.const(x.item())


def _cast(r: _Recorder, result: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> int:
    return r.as_bool(r.place(x)) if result.dtype == torch.bool else r.as_float(r.place(x))


def _add(r: _Recorder, result: Tensor, x: Any, y: Any, alpha: int = 1) -> int:
    return r.number({1: "add", -1: "sub"}[alpha], x, y)


def _sub(r: _Recorder, result: Tensor, x: Any, y: Any, alpha: int = 1) -> int:
    return r.number({1: "sub", -1: "add"}[alpha], x, y)


def _div(r: _Recorder, result: Tensor, x: Any, y: Any, rounding_mode: str | None = None) -> int:
    if rounding_mode is not None:
        raise ValueError
    return r.number("div", x, y)


def _pow(r: _Recorder, result: Tensor, x: Any, y: Any) -> int:
    x, y = r.as_float(r.place(x)), r.as_float(r.place(y))
    power, add = r.graph.nodes[y].value, r.graph.add
    if power == 1:
        return x
    if power == 2:
        return add("mul", x, x)
    if power == 3:
        return add("mul", add("mul", x, x), x)
    if power == 0.5:
        return add("sqrt", x)
    if power == -1:
        return add("div", r.graph.const(1), x)
    return add("pow", x, y)


def _clamp(
    r: _Recorder, result: Tensor, x: Any, low: Any = None, high: Any = None, **kw: Any
) -> int:
    low, high = kw.get("min", low), kw.get("max", high)
    place = r.as_float(r.place(x))
    if low is not None:
        place = r.graph.add("maximum", place, r.as_float(r.place(low)))
    if high is not None:
        place = r.graph.add("minimum", place, r.as_float(r.place(high)))
    return place


def _where(r: _Recorder, result: Tensor, condition: Any, x: Any, y: Any) -> int:
    c = r.as_bool(r.place(condition))
    if result.dtype == torch.bool:
        x, y, add = r.as_bool(r.place(x)), r.as_bool(r.place(y)), r.graph.add
        return add("or", add("and", c, x), add("and", add("not", c), y))
    return r.graph.add("where", c, r.as_float(r.place(x)), r.as_float(r.place(y)))


def _masked_fill(r: _Recorder, result: Tensor, x: Any, mask: Any, value: Any) -> int:
    return _where(r, result, mask, value, x)


def _logic(op: str, count: int) -> Lower:
    def lower(r: _Recorder, result: Tensor, *args: Any) -> int:
        if result.dtype != torch.bool:
            raise ValueError
        return r.truth(op, *_exactly(args, count))

    return lower


def _product(r: _Recorder, result: Tensor, x: Any, y: Any) -> int:
    return r.truth("and", x, y) if result.dtype == torch.bool else r.number("mul", x, y)


def _threshold_backward(r: _Recorder, result: Tensor, grad: Any, x: Any, threshold: float) -> int:
    kept = r.as_float(r.place(grad))
    return r.graph.add("where", r.number("le", x, threshold), r.graph.const(0), kept)


def _sigmoid_backward(r: _Recorder, result: Tensor, grad: Any, y: Any) -> int:
    rest = r.graph.add("sub", r.graph.const(1), r.place(y))
    return r.graph.add("mul", r.graph.add("mul", r.place(grad), rest), r.place(y))


def _tanh_backward(r: _Recorder, result: Tensor, grad: Any, y: Any) -> int:
    square = r.graph.add("mul", r.place(y), r.place(y))
    return r.graph.add("mul", r.place(grad), r.graph.add("sub", r.graph.const(1), square))


def _lerp(r: _Recorder, result: Tensor, start: Any, end: Any, weight: Any) -> int:
    add, s, e, w = r.graph.add, r.place(start), r.place(end), r.as_float(r.place(weight))
    way, rest = add("sub", e, s), add("sub", r.graph.const(1), w)
    near = add("add", s, add("mul", w, way))
    far = add("sub", e, add("mul", way, rest))
    return add("where", add("lt", add("abs", w), r.graph.const(0.5)), near, far)


# of operations without a place in the table, those that are taken apart though torch does not mark them as pointwise
_ELEMENTWISE = {"softplus", "softplus_backward", "hardtanh", "hardtanh_backward", "leaky_relu"} | {
    *("leaky_relu_backward", "elu", "elu_backward", "hardsigmoid", "hardsigmoid_backward"),
    *("gelu", "gelu_backward", "addcmul", "addcdiv", "silu", "silu_backward"),
}
# views: one number stays one number; sums: autograd undoes a broadcast that way (compare() finds all others)
_QUIET = (
    "view",
    "_unsafe_view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "alias",
    "detach",
    "clone",
)
_ATEN: dict[str, Lower] = {
    **dict.fromkeys((*_QUIET, "contiguous", "sum", "broadcast_in_dim", "view_of"), _same),
    **dict.fromkeys(("_to_copy", "to", "convert_element_type"), _cast),
    **dict.fromkeys(("lift_fresh", "lift_fresh_copy"), _fresh),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "scalar_tensor"), _constant),
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), _constant),
    **{op: _numbers(op, 1) for op in ("neg", "abs", "sqrt", "floor", "ceil", "trunc", "round")},
    **{op: _numbers(op, 1) for op in ("exp", "sigmoid", "tanh", "log", "log1p", "expm1", "erf")},
    **{op: _numbers(op, 1) for op in ("sin", "cos", "sign")},
    **{op: _numbers(op, 2) for op in ("maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne")},
    "sgn": _numbers("sign", 1),
    "add": _add,
    "sub": _sub,
    "rsub": lambda r, result, x, y, alpha=1: _sub(r, result, y, x, {1: 1}[alpha]),
    "mul": _product,
    "div": _div,
    "reciprocal": lambda r, result, x: r.number("div", 1, x),
    "rsqrt": lambda r, result, x: r.graph.add("div", r.graph.const(1), r.number("sqrt", x)),
    "square": lambda r, result, x: r.number("mul", x, x),
    "pow": _pow,
    "max": _numbers("maximum", 2),
    "min": _numbers("minimum", 2),
    "clamp": _clamp,
    "clamp_min": lambda r, result, x, low: _clamp(r, result, x, low),
    "clamp_max": lambda r, result, x, high: _clamp(r, result, x, None, high),
    "relu": lambda r, result, x: _clamp(r, result, x, 0),
    "lerp": _lerp,
    "where": _where,
    "masked_fill": _masked_fill,
    "logical_and": _truths("and", 2),
    "logical_or": _truths("or", 2),
    "logical_xor": _truths("xor", 2),
    "logical_not": _truths("not", 1),
    "bitwise_and": _logic("and", 2),
    "bitwise_or": _logic("or", 2),
    "bitwise_xor": _logic("xor", 2),
    "bitwise_not": _logic("not", 1),
    "isnan": lambda r, result, x: r.number("ne", x, x),
    "isinf": lambda r, result, x: r.graph.add("eq", r.number("abs", x), r.graph.const(math.inf)),
    "threshold_backward": _threshold_backward,
    "sigmoid_backward": _sigmoid_backward,
    "tanh_backward": _tanh_backward,
}
