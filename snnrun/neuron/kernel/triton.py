"""The CUDA printer: a graph as a Triton kernel. A program runs all steps of a block of elements, state in registers.

Steps are taken in chunks, unrolled: what a chunk reads is read at once, then its steps run. The backward kernel runs
a chunk forward again and keeps what the gradients need (`cut`) in registers. Of a sequence longer than a chunk the
forward pass writes down the states before each; nothing else is saved but the input. So two numbers are moved forward
and three back for an element and step, the fewest there can be. Launched without contraction, so that results equal
torch's bit for bit but for `graph.ROUGH`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.graph import Graph
from snnrun.neuron.kernel.plan import (
    backward_outputs,
    constants,
    forward_outputs,
    kept,
    of_leaves,
    states,
    until,
)

WHOLE = 16  # steps of a sequence that may be one chunk
CHUNK = 8  # steps of a chunk of a longer one: fewer registers a program, so more programs at a time
HELD = 48  # numbers of an element that a chunk may hold: input, gradient, and what is kept of each step

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


@dataclass(frozen=True)
class Form:
    """What a kernel is printed for besides its graph.

    **Arguments:**

    - `dtype`: of input and output; the state is wider if that is half.
    - `rows`: of each value made of parameters: whether it differs between elements.
    - `chunk`: steps of a chunk.
    - `many`: whether there are several chunks.
    - `full`: whether the last one is as long as the others.
    - `starts`: whether the states before the first step are given; else they are constants.
    - `ends`: whether the states behind the last step are wanted; in the backward kernel, whether they have gradients.
    - `marks`: whether the states before each chunk are written down; in the backward kernel, they are read if `many`.
    - `grad_starts`: whether the gradients of the first states are wanted.
    """

    dtype: str
    rows: tuple[bool, ...]
    chunk: int
    many: bool = False
    full: bool = True
    starts: bool = False
    ends: bool = False
    marks: bool = False
    grad_starts: bool = False


@cache
def chunk(graph: Graph, steps: int) -> int:
    """How many steps to hold at once: a power of two, enough for all steps if registers are."""
    fit = HELD // (2 + len(kept(graph)))
    most = min(WHOLE, 1 << max(fit.bit_length() - 1, 0))
    whole = 1 << (steps - 1).bit_length()
    return whole if whole <= most else min(most, CHUNK)


def arguments(graph: Graph, form: Form, *, backward: bool) -> list[str]:
    """The names of the tensors, and of their strides over time, that a kernel is called with, in order.

    A value made of parameters is a tensor of one element, or where it differs between elements (`rows`) of one step.
    """
    names = []
    for tensor in ("x", "grad_out", "grad_x") if backward else ("x", "out"):
        names += [tensor, f"{tensor}_time"]
    each = [
        *(["before"] if form.starts and not (backward and form.many) else []),
        *(["grad_after" if backward else "after"] if form.ends else []),
        *(["grad_before"] if backward and form.grad_starts else []),
    ]
    names += [f"{name}_{i}" for name in each for i in range(states(graph))]
    names += [f"constant_{i}" for i in range(len(form.rows))]
    if backward:
        names += [f"grad_leaf_{i}" for i in range(len(of_leaves(graph)))]
    return [*names, "marks"] if (form.many if backward else form.marks) else names


@cache
def check(graph: Graph) -> None:
    """Raise `Unprintable` if an operation of the table has no place in a Triton kernel."""
    for node in graph.nodes:
        if node.op not in {*_SYMBOLS, "input", "const", "div", "sqrt"}:
            raise Unprintable(f"{node.op} in a Triton kernel")


def source(graph: Graph, form: Form, *, backward: bool) -> str:
    """The module that defines the kernel `run`. Raises `Unprintable`."""
    check(graph)
    printer = _Printer(graph, form, backward)
    body = [*printer.head(), *(printer.back() if backward else printer.there())]
    names = ", ".join(arguments(graph, form, backward=backward))
    lines = ["@triton.jit", f"def run({names}, steps, size, BLOCK: tl.constexpr):"]
    return _HEAD + "\n".join([*lines, *_deeper(body), ""])


class _Printer:
    """The lines of one kernel; `names` holds what the places that are computed before all steps are called."""

    def __init__(self, graph: Graph, form: Form, backward: bool):
        self.graph, self.form, self.backward = graph, form, backward
        self.kind = "tl.float64" if form.dtype == "float64" else "tl.float32"
        self.count = states(graph)
        self.outputs = backward_outputs(graph) if backward else forward_outputs(graph)
        self.names: dict[int, str] = {}
        self.state = [f"s{i}" for i in range(self.count)]

    def head(self) -> list[str]:
        """Where the program is, and what does not change from step to step."""
        graph = self.graph
        times = ("x", "grad_out", "grad_x") if self.backward else ("x", "out")
        lines = [
            *(f"{name} = tl.cast({name}, tl.int64)" for name in [f"{t}_time" for t in times]),
            "size = tl.cast(size, tl.int64)",
            "n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
            "inside = n < size",
            f"zero = tl.full((), 0.0, {self.kind})",
            f"one = tl.full((), 1.0, {self.kind})",
        ]
        for place in graph.needed(graph.outputs[name] for name in self.outputs):
            node = graph.nodes[place]
            if node.op == "const" and node.value is not None:
                self.names[place] = f"k{place}"
                lines.append(f"k{place} = {self.constant(float(node.value))}")
        for k, place in enumerate(constants(graph, self.outputs)):
            at = " + n, mask=inside, other=0.0" if self.form.rows[k] else ""
            ended = " != zero" if graph.nodes[place].is_bool else ""
            self.names[place] = f"c{k}"
            lines.append(f"c{k} = tl.load(constant_{k}{at}).to({self.kind}){ended}")
        return lines

    def constant(self, value: float, shape: str = "()") -> str:
        text = repr(value)
        text = f'float("{text}")' if "n" in text else text  # inf and nan
        return f"tl.full({shape}, {text}, {self.kind})"

    def first(self) -> list[str]:
        """The states before the first step."""
        if self.form.starts:
            return [
                f"s{i} = tl.load(before_{i} + n, mask=inside, other=0.0)" for i in range(self.count)
            ]
        values = [
            self.graph.nodes[self.graph.outputs[f"start.{i}"]].value for i in range(self.count)
        ]
        return [f"s{i} = {self.constant(float(v or 0), '(BLOCK,)')}" for i, v in enumerate(values)]

    def exists(self, step: int) -> str:
        """Whether a chunk has a step; empty if that is known."""
        if self.form.full or step == 0:
            return ""
        return f"first + {step} < steps" if self.form.many else f"{step} < steps"

    def mask(self, step: int) -> str:
        return f"inside & ({there})" if (there := self.exists(step)) else "inside"

    def take(self, tensor: str) -> list[str]:
        """Read all steps of a chunk."""
        return [
            f"{tensor}{j} = tl.load({tensor}_at + {j} * {tensor}_time, mask={self.mask(j)}, other=0.0).to({self.kind})"
            for j in range(self.form.chunk)
        ]

    def give(self, tensor: str, step: int, value: str) -> str:
        at = f"{tensor}_at + {step} * {tensor}_time"
        return f"tl.store({at}, {value}.to({tensor}.dtype.element_ty), mask={self.mask(step)})"

    def compute(
        self, places: list[int], step: int, known: dict[int, str]
    ) -> tuple[list[str], list[str]]:
        """What computes some places at a step, and what they are called."""
        lines, values = [], {**self.names, **known}
        for place in until(self.graph, places, set(values)):
            node = self.graph.nodes[place]
            if place in values:
                continue
            if node.op == "input":
                kind, _, number = str(node.value).rpartition(".")
                values[place] = {
                    "": f"x{step}",
                    "state": f"s{number}",
                    "grad.state": f"g{number}",
                }.get(kind, f"grad_out{step}")
                continue
            args = [values[a] for a in node.args]
            if node.op == "div":
                text = "tl.div_rn({}, {})" if self.kind == "tl.float32" else "{} / {}"
            elif node.op == "sqrt":
                text = "tl.sqrt_rn({})" if self.kind == "tl.float32" else "tl.sqrt({})"
            else:
                text = _SYMBOLS[node.op]
            values[place] = f"v{place}"
            lines.append(f"v{place} = {text.format(*args)}")
        return lines, [values[place] for place in places]

    def carry(self, step: int, names: Iterable[str], values: list[str]) -> list[str]:
        """Take all values on at once, if there is such a step; a constant becomes a block, which a loop may carry."""
        names = list(names)
        if not names:
            return []
        there = self.exists(step)
        blocks = [
            f"tl.where({there}, {v}, {name})"
            if there
            else f"{v} + tl.zeros((BLOCK,), zero.dtype)"
            if v[0] in "kc"
            else v
            for name, v in zip(names, values, strict=True)
        ]
        return [f"{', '.join(names)} = {', '.join(blocks)}"]

    def there(self) -> list[str]:
        """The way through all steps."""
        form, count = self.form, self.count
        lines = self.take("x")
        for j in range(form.chunk):
            computed, found = self.compute([self.graph.outputs[o] for o in self.outputs], j, {})
            lines += [*computed, self.give("out", j, found[0])]
            lines += self.carry(j, self.state, found[1:])
        if form.marks:
            lines = [
                *(f"tl.store(marks_at + {i} * size, s{i}, mask=inside)" for i in range(count)),
                f"marks_at += {count} * size",
                *lines,
            ]
        body = [*self.first(), "x_at = x + n", "out_at = out + n"]
        body += ["marks_at = marks + n"] if form.marks else []
        if form.many:
            on = [f"{t}_at += {form.chunk} * {t}_time" for t in ("x", "out")]
            body += [f"for first in range(0, steps, {form.chunk}):", *_deeper([*lines, *on])]
        else:
            body += lines
        ends = (f"tl.store(after_{i} + n, s{i}, mask=inside)" for i in range(count))
        return [*body, *(ends if form.ends else [])]

    def back(self) -> list[str]:
        """The way back, chunk by chunk: there again, then back through its steps."""
        form, count, graph = self.form, self.count, self.graph
        keep, leaves = kept(graph), len(of_leaves(graph))
        lines = self.take("x")
        for j in range(form.chunk):
            last = j == form.chunk - 1  # behind which no state is needed
            ahead = [] if last else [graph.outputs[f"state.{i}"] for i in range(count)]
            computed, found = self.compute([*keep, *ahead], j, {})
            lines += computed
            lines += [f"h{j}_{k} = {v}" for k, v in enumerate(found[: len(keep)])]
            lines += self.carry(0, [] if last else self.state, found[len(keep) :])
        lines += self.take("grad_out")
        wanted = [graph.outputs[name] for name in self.outputs[count:]]
        for j in reversed(range(form.chunk)):
            known = {place: f"h{j}_{k}" for k, place in enumerate(keep)}
            computed, found = self.compute(wanted, j, known)
            lines += [*computed, self.give("grad_x", j, found[0])]
            there = self.exists(j)
            for i, value in enumerate(found[1 + count :]):
                lines.append(
                    f"w{i} += tl.where({there}, {value}, zero)" if there else f"w{i} += {value}"
                )
            lines += self.carry(j, [f"g{i}" for i in range(count)], found[1 : 1 + count])
        if form.ends:
            body = [
                f"g{i} = tl.load(grad_after_{i} + n, mask=inside, other=0.0)" for i in range(count)
            ]
        else:
            body = [f"g{i} = tl.zeros((BLOCK,), {self.kind})" for i in range(count)]
        body += [f"w{i} = tl.zeros((BLOCK,), {self.kind})" for i in range(leaves)]
        tensors = ("x", "grad_out", "grad_x")
        if form.many:
            body += [
                f"first = (steps - 1) // {form.chunk} * {form.chunk}",
                *(f"{t}_at = {t} + n + first * {t}_time" for t in tensors),
                f"marks_at = marks + n + first // {form.chunk} * {count} * size",
            ]
            marks = [
                f"s{i} = tl.load(marks_at + {i} * size, mask=inside, other=0.0)"
                for i in range(count)
            ]
            on = [
                f"first -= {form.chunk}",
                *(f"{t}_at -= {form.chunk} * {t}_time" for t in tensors),
            ]
            on += [f"marks_at -= {count} * size"]
            body += [f"for _ in range(0, steps, {form.chunk}):", *_deeper([*marks, *lines, *on])]
        else:
            body += [*self.first(), *(f"{t}_at = {t} + n" for t in tensors), *lines]
        if form.grad_starts:
            body += [f"tl.store(grad_before_{i} + n, g{i}, mask=inside)" for i in range(count)]
        return [*body, *(f"tl.store(grad_leaf_{i} + n, w{i}, mask=inside)" for i in range(leaves))]


def _deeper(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
