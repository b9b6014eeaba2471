"""The CPU printer: a graph as LLVM assembly, which llvmlite (numba's back end) compiles. It needs no compiler.

A program walks blocks of elements. For a block it runs all steps, a vector of elements an instruction, with the state
in a scratch buffer that stays in the caches. The backward program first runs the block forward again, keeping what the
gradients need (`cut`) of every step in the scratch buffer, and then walks back: only the input is saved between the
passes. While it works on a row of one step it fetches that of the next (`_ahead`), because rows are too short for the
processor to see them coming; large results go past the caches (`Signature.past`). Nothing is reassociated or
contracted, so results equal torch's bit for bit but for `graph.ROUGH`.
"""

from collections.abc import Callable

from snnrun.neuron.kernel.assembly import Numbers, Text
from snnrun.neuron.kernel.cut import cut
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

BYTES = 64  # of a vector: two registers of AVX2, one of AVX-512, four of NEON
# how a tensor's elements are stored, and in what they are computed
STORED = {"float32": "float", "float64": "double", "bfloat16": "i16", "float16": "half"}
COMPUTED = {"float32": "float", "float64": "double", "bfloat16": "float", "float16": "float"}


def slots(graph: Graph, signature: Signature, *, backward: bool) -> list[str]:
    """The names of the 64-bit words that a program is called with, in order: sizes, addresses, strides in bytes.

    A state, `before`, `after` or a gradient of one, may have address 0: a constant start, or not wanted. A value made
    of parameters is an address where it differs between elements (`rows`), else the bits of a double.
    """
    names = ["steps", "outer.low", "outer.high", "low", "high", "block", "scratch", "dense.outer"]
    for tensor in ("x", "grad.out", "grad.x") if backward else ("x", "out"):
        names += [tensor, f"{tensor}.time", f"{tensor}.outer"]
    for i in range(states(graph)):
        names += [f"before.{i}"]
        names += [f"grad.after.{i}", f"grad.before.{i}"] if backward else [f"after.{i}"]
    names += [f"constant.{i}" for i in range(len(signature.rows))]
    return names + (of_leaves(graph) if backward else [])


def scratch_rows(graph: Graph, *, backward: bool) -> tuple[int, int]:
    """How many rows of a block the scratch buffer must hold, for each step and besides."""
    count = states(graph)
    return (len(kept(graph)), 2 * count + len(of_leaves(graph))) if backward else (0, count)


class _Program:
    """Prints one function, `run(words)`."""

    def __init__(self, graph: Graph, signature: Signature, *, backward: bool):
        self.graph, self.backward = graph, backward
        self.outputs = backward_outputs(graph) if backward else forward_outputs(graph)
        self.constants = constants(graph, self.outputs)
        self.rows, self.states, self.past = signature.rows, states(graph), signature.past
        self.kept = kept(graph)
        self.stored, self.kind = STORED[signature.dtype], COMPUTED[signature.dtype]
        self.size = 4 if self.kind == "float" else 8
        self.stored_size = {"i16": 2, "half": 2, "float": 4, "double": 8}[self.stored]
        self.text = Text()
        self.width = BYTES // self.size
        self.vector = Numbers(self.text, self.kind, self.width)
        self.single = Numbers(self.text, self.kind, 0)
        self.names = slots(graph, signature, backward=backward)

    def __str__(self) -> str:
        text = self.text
        entry = [
            f"  %slot.{i} = getelementptr i64, ptr %words, i64 {i}\n  %word.{i} = load i64, ptr %slot.{i}"
            for i in range(len(self.names))
        ]
        self.word = {name: f"%word.{i}" for i, name in enumerate(self.names)}
        self.scalars: dict[tuple[int, int], str] = {}
        for i, row in enumerate(self.rows):
            if not row:
                value = text.let(f"bitcast i64 {self.word[f'constant.{i}']} to double")
                if self.kind == "float":
                    value = text.let(f"fptrunc double {value} to float")
                for numbers in (self.vector, self.single):
                    self.scalars[i, numbers.width] = numbers.broadcast(value)
        text.loop(
            self.word["outer.low"],
            self.word["outer.high"],
            "1",
            lambda outer: text.loop(
                self.word["low"],
                self.word["high"],
                self.word["block"],
                lambda place: self._block(outer, place),
            ),
        )
        if self.past:
            text.do("fence seq_cst")  # such stores are in no order with others
        text.do("ret void")
        head = "define void @run(ptr noalias %words) {\nentry:"
        return "\n".join(
            [*text.declared, head, *text.top, *entry, *text.lines, "}", "!0 = !{i32 1}", ""]
        )

    # --- one block of elements

    def _block(self, outer: str, place: str) -> None:
        text = self.text
        left = text.let(f"sub i64 {self.word['high']}, {place}")
        fits = text.let(f"icmp slt i64 {left}, {self.word['block']}")
        self.count = text.let(f"select i1 {fits}, i64 {left}, i64 {self.word['block']}")
        self.whole = text.let(f"and i64 {self.count}, {-self.width}")
        self.outer, self.place = outer, place
        self.pitch = text.let(f"mul i64 {self.word['block']}, {self.size}")  # of the scratch buffer
        for i in range(self.states):
            self._start(i)
        constant = [self._dense(f"constant.{i}") if row else "" for i, row in enumerate(self.rows)]
        steps = self.word["steps"]
        if not self.backward:
            text.loop("0", steps, "1", lambda t: self._forward(t, constant))
            for i in range(self.states):
                self._finish(self._scratch(str(i)), f"after.{i}")
            return
        # the scratch buffer: states, their gradients, gradients of leaves, then what each step keeps
        gradients = [
            self._scratch(str(self.states + i))
            for i in range(self.states + len(of_leaves(self.graph)))
        ]
        for i in range(self.states):
            self._fill(gradients[i], f"grad.after.{i}", 0.0)
        for row in gradients[self.states :]:
            self._constant_row(row, 0.0)
        if self.kept:
            text.loop("0", steps, "1", lambda t: self._again(t, constant))
        text.loop("0", steps, "1", lambda t: self._back(t, constant, gradients))
        for i in range(self.states):
            self._finish(gradients[i], f"grad.before.{i}")
        for row, name in zip(gradients[self.states :], of_leaves(self.graph), strict=True):
            self._finish(row, name)

    def _start(self, i: int) -> None:
        start = self.graph.nodes[self.graph.outputs[f"start.{i}"]]
        value = float(start.value) if start.op == "const" and start.value is not None else 0.0
        self._fill(self._scratch(str(i)), f"before.{i}", value)

    def _forward(self, t: str, constant: list[str]) -> None:
        x, out, ahead = self._row("x", t), self._row("out", t), self._ahead("x", t, 1)
        rows = [self._scratch(str(i)) for i in range(self.states)]
        places = [self.graph.outputs[name] for name in self.outputs]

        def body(n: Numbers, i: str) -> None:
            ahead(n, i)
            given = {"x": self._read(n, x, i)}
            given |= {f"state.{j}": self._get(n, row, i) for j, row in enumerate(rows)}
            of_out, *after = self._evaluate(n, places, given, {}, constant, i)
            self._write(n, out, i, of_out)
            for row, value in zip(rows, after, strict=True):
                self._put(n, row, i, value)

        self._each(body)

    def _again(self, t: str, constant: list[str]) -> None:
        """A step forward once more, keeping what its gradients need."""
        x, ahead = self._row("x", t), self._ahead("x", t, 1)
        rows = [self._scratch(str(i)) for i in range(self.states)]
        rows += self._kept_rows(t)
        places = [self.graph.outputs[f"state.{j}"] for j in range(self.states)] + self.kept

        def body(n: Numbers, i: str) -> None:
            ahead(n, i)
            given = {"x": self._read(n, x, i)}
            given |= {f"state.{j}": self._get(n, rows[j], i) for j in range(self.states)}
            found = self._evaluate(n, places, given, {}, constant, i)
            for row, value in zip(rows, found, strict=True):
                self._put(n, row, i, value)

        self._each(body)

    def _back(self, done: str, constant: list[str], gradients: list[str]) -> None:
        """A step backward."""
        last = self.text.let(f"sub i64 {self.word['steps']}, 1")
        t = self.text.let(f"sub i64 {last}, {done}")
        reads = any(self.graph.nodes[place].value == "x" for place in cut(self.graph))
        x = self._row("x", t) if reads else ""
        grad_out, grad_x = self._row("grad.out", t), self._row("grad.x", t)
        ahead = self._ahead("grad.out", t, -1)
        rows = self._kept_rows(t)
        places = [self.graph.outputs[name] for name in self.outputs[self.states :]]

        def body(n: Numbers, i: str) -> None:
            ahead(n, i)
            given = {"grad.out": self._read(n, grad_out, i)}
            if reads:
                given["x"] = self._read(n, x, i)
            given |= {f"grad.state.{j}": self._get(n, gradients[j], i) for j in range(self.states)}
            held = {place: self._get(n, row, i) for place, row in zip(self.kept, rows, strict=True)}
            of_x, *others = self._evaluate(n, places, given, held, constant, i)
            self._write(n, grad_x, i, of_x)
            for j, (row, value) in enumerate(zip(gradients, others, strict=True)):
                if j >= self.states:
                    value = n.op("fadd", self._get(n, row, i), value)
                self._put(n, row, i, value)

        self._each(body)

    def _kept_rows(self, t: str) -> list[str]:
        let = self.text.let
        first = 2 * self.states + len(of_leaves(self.graph))
        before = let(f"add i64 {let(f'mul i64 {t}, {len(self.kept)}')}, {first}")
        return [self._scratch(let(f"add i64 {before}, {k}")) for k in range(len(self.kept))]

    # --- arithmetic

    def _evaluate(
        self,
        n: Numbers,
        places: list[int],
        given: dict[str, str],
        held: dict[int, str],
        constant: list[str],
        i: str,
    ) -> list[str]:
        """Print the computation of some places from inputs by name and from values that are held already."""
        values = dict(held)
        known = {place: k for k, place in enumerate(self.constants)}
        for place in until(self.graph, places, {*known, *held}):
            node = self.graph.nodes[place]
            if place in held:
                continue
            if place in known:
                k = known[place]
                row = self.rows[k]
                value = self._get(n, constant[k], i) if row else self.scalars[k, n.width]
                values[place] = n.compare("une", value, n.const(0)) if node.is_bool else value
            elif node.op == "input":
                values[place] = given[str(node.value)]
            elif node.op == "const":
                assert node.value is not None
                values[place] = n.const(float(node.value))
            else:
                values[place] = n.node(node.op, [values[a] for a in node.args])
        return [values[place] for place in places]

    # --- memory

    def _each(self, body: Callable[[Numbers, str], None]) -> None:
        self.text.loop("0", self.whole, str(self.width), lambda i: body(self.vector, i))
        self.text.loop(self.whole, self.count, "1", lambda i: body(self.single, i))

    def _row(self, tensor: str, t: str) -> str:
        """Where the block's first element lies in a tensor over time."""
        let, word = self.text.let, self.word
        over = let(f"mul i64 {self.outer}, {word[f'{tensor}.outer']}")
        time = let(f"mul i64 {t}, {word[f'{tensor}.time']}")
        within = let(f"mul i64 {self.place}, {self.stored_size}")
        offset = let(f"add i64 {let(f'add i64 {over}, {time}')}, {within}")
        return let(f"inttoptr i64 {let(f'add i64 {word[tensor]}, {offset}')} to ptr")

    def _ahead(self, tensor: str, t: str, by: int) -> Callable[[Numbers, str], None]:
        """What fetches a tensor's row of another step into the second-level cache; past its ends, that is no error."""
        row = self._row(tensor, self.text.let(f"add i64 {t}, {by}"))
        self.text.declare("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")

        def fetch(n: Numbers, i: str) -> None:
            if n.width:
                place = self.text.let(f"getelementptr {self.stored}, ptr {row}, i64 {i}")
                self.text.do(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 2, i32 1)")

        return fetch

    def _dense(self, name: str) -> str:
        """Where the block's first element lies in a tensor of the size of a step."""
        let, word = self.text.let, self.word
        over = let(f"mul i64 {self.outer}, {word['dense.outer']}")
        within = let(f"mul i64 {self.place}, {self.size}")
        offset = let(f"add i64 {over}, {within}")
        return let(f"inttoptr i64 {let(f'add i64 {word[name]}, {offset}')} to ptr")

    def _scratch(self, row: str) -> str:
        let, start = self.text.let, self.word["scratch"]
        offset = let(f"mul i64 {row}, {self.pitch}")
        return let(f"inttoptr i64 {let(f'add i64 {start}, {offset}')} to ptr")

    def _fill(self, row: str, source: str, value: float) -> None:
        self.text.when(
            self.text.let(f"icmp eq i64 {self.word[source]}, 0"),
            lambda: self._constant_row(row, value),
            lambda: self._copy(row, self._dense(source)),
        )

    def _constant_row(self, row: str, value: float) -> None:
        """Fill a row of the scratch buffer, which has room for whole vectors."""
        n, width = self.vector, str(self.width)
        self.text.loop("0", self.count, width, lambda i: self._put(n, row, i, n.const(value)))

    def _finish(self, row: str, target: str) -> None:
        wanted = self.text.let(f"icmp ne i64 {self.word[target]}, 0")
        self.text.when(wanted, lambda: self._copy(self._dense(target), row), lambda: None)

    def _copy(self, to: str, of: str) -> None:
        self.text.declare("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        length = self.text.let(f"mul i64 {self.count}, {self.size}")
        arguments = f"ptr {to}, ptr {of}, i64 {length}, i1 false"
        self.text.do(f"call void @llvm.memcpy.p0.p0.i64({arguments})")

    def _get(self, n: Numbers, row: str, i: str) -> str:
        place = self.text.let(f"getelementptr {n.kind}, ptr {row}, i64 {i}")
        return self.text.let(f"load {n.type}, ptr {place}, align {self.size}")

    def _put(self, n: Numbers, row: str, i: str, value: str) -> None:
        place = self.text.let(f"getelementptr {n.kind}, ptr {row}, i64 {i}")
        self.text.do(f"store {n.type} {value}, ptr {place}, align {self.size}")

    def _read(self, n: Numbers, row: str, i: str) -> str:
        """An element of a tensor over time, widened."""
        let, kind = self.text.let, self.stored
        place = let(f"getelementptr {kind}, ptr {row}, i64 {i}")
        stored = f"<{n.width} x {kind}>" if n.width else kind
        value = let(f"load {stored}, ptr {place}, align {self.stored_size}")
        if kind == "i16":
            wide = let(f"zext {stored} {value} to {n.int}")
            return let(f"bitcast {n.int} {let(f'shl {n.int} {wide}, {n.integer(16)}')} to {n.type}")
        return let(f"fpext {stored} {value} to {n.type}") if kind == "half" else value

    def _write(self, n: Numbers, row: str, i: str, value: str) -> None:
        """Store an element of a tensor over time, rounded to nearest even."""
        let, kind = self.text.let, self.stored
        place = let(f"getelementptr {kind}, ptr {row}, i64 {i}")
        stored = f"<{n.width} x {kind}>" if n.width else kind
        if kind == "i16":
            bits = let(f"bitcast {n.type} {value} to {n.int}")
            odd = let(f"and {n.int} {let(f'lshr {n.int} {bits}, {n.integer(16)}')}, {n.integer(1)}")
            up = let(f"add {n.int} {let(f'add {n.int} {bits}, {odd}')}, {n.integer(0x7FFF)}")
            short = let(f"lshr {n.int} {up}, {n.integer(16)}")
            nan = n.compare("uno", value, value)
            short = let(f"select {n.bool} {nan}, {n.int} {n.integer(0x7FC0)}, {n.int} {short}")
            value = let(f"trunc {n.int} {short} to {stored}")
        elif kind == "half":
            value = let(f"fptrunc {n.type} {value} to {stored}")
        align = f"align {self.stored_size}"
        if n.width and self.past:
            align = f"align {n.width * self.stored_size}, !nontemporal !0"
        self.text.do(f"store {stored} {value}, ptr {place}, {align}")


def source(graph: Graph, signature: Signature, *, backward: bool) -> str:
    """The assembly of a program."""
    return str(_Program(graph, signature, backward=backward))
