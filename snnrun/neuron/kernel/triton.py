"""The CUDA printer: a graph as a Triton kernel. A program runs all steps of a block of elements, state in registers.

The backward kernel first runs forward again and keeps what the gradients need (`cut`) in a buffer of its own, which
lives as long as the call; only the input is saved between the passes. Launched without contraction, so that results
equal torch's bit for bit but for `graph.ROUGH`.
"""

from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.graph import Graph
from snnrun.neuron.kernel.plan import (
    Signature,
    backward_outputs,
    constants,
    forward_outputs,
    kept,
    of_leaves,
    states,
    until,
)

_SYMBOLS = {
    **{"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "neg": "-{}", "abs": "tl.abs({})"},
    **{"lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}"},
    **{"ne": "{} != {}", "and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}", "not": "~{}"},
    **{"where": "tl.where({}, {}, {})", "floor": "tl.floor({})", "ceil": "tl.ceil({})"},
    **{"exp": "tl.exp({})", "log": "tl.log({})", "erf": "tl.erf({})"},
    **{"sin": "tl.sin({})", "cos": "tl.cos({})", "sigmoid": "one / (one + tl.exp(-{}))"},
    "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "float": "tl.where({}, one, zero)",
    "sign": "tl.where({0} > zero, one, tl.where({0} < zero, -one, zero))",
    **{"tanh": "hyperbolic({})", "log1p": "log_of_one_and({})"},
}
_HEAD = '''import triton
import triton.language as tl


@triton.jit
def hyperbolic(x):
    """tanh: a rational function (Cephes) near 0, 1 - 2 / (e^2|x| + 1) elsewhere."""
    z = x * x
    above = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
    below = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
    near = x + x * z * (above / below)
    far = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def log_of_one_and(x):
    """ln u, where u is the rounded 1 + x, and what was rounded off, over u."""
    u = 1 + x
    d = u - 1
    return tl.where(d == x, tl.log(u), tl.log(u) + (x - d) / u)


'''


def arguments(graph: Graph, signature: Signature, *, backward: bool) -> list[str]:
    """The names of the tensors, and of their strides over time, that a kernel is called with, in order.

    A state before the first step, or a gradient of the last, is always a tensor; so are all results. A value made of
    parameters is a tensor of one element, or where it differs between elements (`rows`) of one step.
    """
    names = []
    for tensor in ("x", "grad_out", "grad_x") if backward else ("x", "out"):
        names += [tensor, f"{tensor}_time"]
    for i in range(states(graph)):
        names += [f"before_{i}"]
        names += [f"grad_after_{i}", f"grad_before_{i}"] if backward else [f"after_{i}"]
    names += [f"constant_{i}" for i in range(len(signature.rows))]
    if backward:
        names += [f"grad_leaf_{i}" for i in range(len(of_leaves(graph)))]
        names += ["kept"] if kept(graph) else []
    return names


def check(graph: Graph) -> None:
    """Raise `Unprintable` if an operation of the table has no place in a Triton kernel."""
    for node in graph.nodes:
        if node.op not in {*_SYMBOLS, "input", "const", "div", "sqrt"}:
            raise Unprintable(f"{node.op} in a Triton kernel")


def source(graph: Graph, signature: Signature, *, backward: bool) -> str:
    """The module that defines the kernel `run`. Raises `Unprintable`."""
    check(graph)
    kind = "tl.float64" if signature.dtype == "float64" else "tl.float32"
    outputs = backward_outputs(graph) if backward else forward_outputs(graph)
    held = {place: f"c{k}" for k, place in enumerate(constants(graph, outputs))}
    count, leaves, keep = states(graph), of_leaves(graph), kept(graph)
    names = arguments(graph, signature, backward=backward)
    body = [
        "n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        "inside = n < size",
        f"zero = tl.full((), 0.0, {kind})",
        f"one = tl.full((), 1.0, {kind})",
    ]
    used = graph.needed(graph.outputs[name] for name in outputs)
    for place in used:
        node = graph.nodes[place]
        if node.op == "const" and node.value is not None:
            text = repr(float(node.value))
            text = f'float("{text}")' if "n" in text else text  # inf and nan
            body.append(f"k{place} = tl.full((), {text}, {kind})")
    for k, (place, row) in enumerate(zip(held, signature.rows, strict=True)):
        at = " + n, mask=inside, other=0.0" if row else ""
        ended = " != zero" if graph.nodes[place].is_bool else ""
        body.append(f"c{k} = tl.load(constant_{k}{at}).to({kind}){ended}")
    body += [f"s{i} = tl.load(before_{i} + n, mask=inside, other=0.0)" for i in range(count)]
    body += ["x_at = x + n"]

    def compute(places: list[int], known: dict[int, str]) -> list[str]:
        lines, values = [], {**known, **held}
        for place in until(graph, places, set(values)):
            node = graph.nodes[place]
            if place in values:
                continue
            if node.op == "const":
                values[place] = f"k{place}"
                continue
            if node.op == "input":
                values[place] = (
                    _INPUTS[str(node.value)]
                    if str(node.value) in _INPUTS
                    else (
                        f"{'g' if str(node.value).startswith('grad') else 's'}{str(node.value).rpartition('.')[2]}"
                    )
                )
                continue
            args = [values[a] for a in node.args]
            if node.op == "div":
                text = f"tl.div_rn({args[0]}, {args[1]})" if kind == "tl.float32" else "{} / {}"
            elif node.op == "sqrt":
                text = f"tl.sqrt_rn({args[0]})" if kind == "tl.float32" else "tl.sqrt({})"
            else:
                text = _SYMBOLS[node.op]
            values[place] = f"v{place}"
            lines.append(f"v{place} = {text.format(*args)}")
        found.clear()
        found.extend(values[place] for place in places)
        return lines

    found: list[str] = []
    take = [f"x_t = tl.load(x_at, mask=inside, other=0.0).to({kind})"]
    if not backward:
        lines = compute([graph.outputs[name] for name in outputs], {})
        body += ["out_at = out + n", "for _ in range(steps):"]
        body += _deeper([*take, *lines])
        body += _deeper(
            [
                f"tl.store(out_at, {found[0]}.to(out.dtype.element_ty), mask=inside)",
                *_together([f"s{i}" for i in range(count)], found[1:]),
                "x_at += x_time",
                "out_at += out_time",
            ]
        )
        body += [f"tl.store(after_{i} + n, s{i}, mask=inside)" for i in range(count)]
        return _module(names, body)
    if keep:
        places = [*(graph.outputs[f"state.{i}"] for i in range(count)), *keep]
        lines = compute(places, {})
        body += ["kept_at = kept + n", "for _ in range(steps):"]
        body += _deeper([*take, *lines])
        body += _deeper(
            [
                *(
                    f"tl.store(kept_at + {k} * size, {v}, mask=inside)"
                    for k, v in enumerate(found[count:])
                ),
                *_together([f"s{i}" for i in range(count)], found[:count]),
                "x_at += x_time",
                f"kept_at += {len(keep)} * size",
            ]
        )
    else:
        body += ["x_at += x_time * steps"]
    body += [f"g{i} = tl.load(grad_after_{i} + n, mask=inside, other=0.0)" for i in range(count)]
    body += [f"w{i} = tl.zeros((BLOCK,), {kind})" for i in range(len(leaves))]
    body += ["grad_out_at = grad_out + n + grad_out_time * steps"]
    body += ["grad_x_at = grad_x + n + grad_x_time * steps", "for _ in range(steps):"]
    lines = compute(
        [graph.outputs[name] for name in outputs[count:]],
        {place: f"h{k}" for k, place in enumerate(keep)},
    )
    body += _deeper(
        [
            *(f"{t}_at -= {t}_time" for t in ("x", "grad_out", "grad_x")),
            *([f"kept_at -= {len(keep)} * size"] if keep else []),
            *take,
            f"grad_out_t = tl.load(grad_out_at, mask=inside, other=0.0).to({kind})",
            *(
                f"h{k} = tl.load(kept_at + {k} * size, mask=inside, other=0.0)"
                for k in range(len(keep))
            ),
            *lines,
            f"tl.store(grad_x_at, {found[0]}.to(grad_x.dtype.element_ty), mask=inside)",
            *(f"w{i} += {value}" for i, value in enumerate(found[1 + count :])),
            *_together([f"g{i}" for i in range(count)], found[1 : 1 + count]),
        ]
    )
    body += [f"tl.store(grad_before_{i} + n, g{i}, mask=inside)" for i in range(count)]
    body += [f"tl.store(grad_leaf_{i} + n, w{i}, mask=inside)" for i in range(len(leaves))]
    return _module(names, body)


_INPUTS = {"x": "x_t", "grad.out": "grad_out_t"}


def _together(names: list[str], values: list[str]) -> list[str]:
    """Assign all at once; a constant becomes a block, which a loop may carry."""
    if not names:
        return []
    blocks = [f"{v} + tl.zeros((BLOCK,), zero.dtype)" if v[0] in "kc" else v for v in values]
    return [f"{', '.join(names)} = {', '.join(blocks)}"]


def _deeper(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _module(names: list[str], body: list[str]) -> str:
    head = ["@triton.jit", f"def run({', '.join(names)}, steps, size, BLOCK: tl.constexpr):"]
    return _HEAD + "\n".join([*head, *_deeper(body), ""])
