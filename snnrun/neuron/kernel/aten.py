"""torch's operations, written down as nodes of the graph while they run."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snnrun.neuron.kernel.graph import Graph


class Unprintable(Exception):
    """The step contains something that no kernel can be printed for; the message names it."""


class Recorder(TorchDispatchMode):
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


def _same(r: Recorder, result: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> int:
    return r.place(x)


def _constant(r: Recorder, result: Tensor, *args: Any, **kwargs: Any) -> int:
    return r.graph.const(result.item())


def _fresh(r: Recorder, result: Tensor, x: Tensor) -> int:
    return r.places[id(x)] if id(x) in r.places else r.graph.const(x.item())


def _cast(r: Recorder, result: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> int:
    return r.as_bool(r.place(x)) if result.dtype == torch.bool else r.as_float(r.place(x))


def _add(r: Recorder, result: Tensor, x: Any, y: Any, alpha: int = 1) -> int:
    return r.number({1: "add", -1: "sub"}[alpha], x, y)


def _sub(r: Recorder, result: Tensor, x: Any, y: Any, alpha: int = 1) -> int:
    return r.number({1: "sub", -1: "add"}[alpha], x, y)


def _div(r: Recorder, result: Tensor, x: Any, y: Any, rounding_mode: str | None = None) -> int:
    if rounding_mode is not None:
        raise ValueError
    return r.number("div", x, y)


def _pow(r: Recorder, result: Tensor, x: Any, y: Any) -> int:
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
    r: Recorder, result: Tensor, x: Any, low: Any = None, high: Any = None, **kw: Any
) -> int:
    low, high = kw.get("min", low), kw.get("max", high)
    place = r.as_float(r.place(x))
    if low is not None:
        place = r.graph.add("maximum", place, r.as_float(r.place(low)))
    if high is not None:
        place = r.graph.add("minimum", place, r.as_float(r.place(high)))
    return place


def _where(r: Recorder, result: Tensor, condition: Any, x: Any, y: Any) -> int:
    c = r.as_bool(r.place(condition))
    if result.dtype == torch.bool:
        x, y, add = r.as_bool(r.place(x)), r.as_bool(r.place(y)), r.graph.add
        return add("or", add("and", c, x), add("and", add("not", c), y))
    return r.graph.add("where", c, r.as_float(r.place(x)), r.as_float(r.place(y)))


def _masked_fill(r: Recorder, result: Tensor, x: Any, mask: Any, value: Any) -> int:
    return _where(r, result, mask, value, x)


def _logic(op: str, count: int) -> Lower:
    def lower(r: Recorder, result: Tensor, *args: Any) -> int:
        if result.dtype != torch.bool:
            raise ValueError
        return r.truth(op, *_exactly(args, count))

    return lower


def _product(r: Recorder, result: Tensor, x: Any, y: Any) -> int:
    return r.truth("and", x, y) if result.dtype == torch.bool else r.number("mul", x, y)


def _threshold_backward(r: Recorder, result: Tensor, grad: Any, x: Any, threshold: float) -> int:
    kept = r.as_float(r.place(grad))
    return r.graph.add("where", r.number("le", x, threshold), r.graph.const(0), kept)


def _sigmoid_backward(r: Recorder, result: Tensor, grad: Any, y: Any) -> int:
    rest = r.graph.add("sub", r.graph.const(1), r.place(y))
    return r.graph.add("mul", r.graph.add("mul", r.place(grad), rest), r.place(y))


def _tanh_backward(r: Recorder, result: Tensor, grad: Any, y: Any) -> int:
    square = r.graph.add("mul", r.place(y), r.place(y))
    return r.graph.add("mul", r.place(grad), r.graph.add("sub", r.graph.const(1), square))


def _lerp(r: Recorder, result: Tensor, start: Any, end: Any, weight: Any) -> int:
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
