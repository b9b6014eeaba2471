"""LLVM assembly under construction: control flow, and arithmetic on vectors or single numbers."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

LIBM = {"expm1", "erf", "sin", "cos", "pow"}  # one call of the C library an element


@dataclass
class Text:
    """Assembly under construction."""

    lines: list[str] = field(default_factory=list)
    top: list[str] = field(default_factory=list)  # of the entry block
    declared: dict[str, None] = field(default_factory=dict)
    count: int = 0

    def name(self, stem: str = "v") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def let(self, expression: str) -> str:
        name = f"%{self.name()}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def do(self, instruction: str) -> None:
        self.lines.append(f"  {instruction}")

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def declare(self, line: str) -> None:
        self.declared[line] = None

    def loop(self, low: str, high: str, step: str, body: Callable[[str], None]) -> None:
        """`for (i = low; i < high; i += step)`."""
        counter, stem = f"%{self.name('i')}", self.name("loop")
        self.top.append(f"  {counter} = alloca i64")
        self.do(f"store i64 {low}, ptr {counter}")
        self.do(f"br label %{stem}.test")
        self.label(f"{stem}.test")
        i = self.let(f"load i64, ptr {counter}")
        more = self.let(f"icmp slt i64 {i}, {high}")
        self.do(f"br i1 {more}, label %{stem}.body, label %{stem}.end")
        self.label(f"{stem}.body")
        body(i)
        after = self.let(f"add i64 {i}, {step}")
        self.do(f"store i64 {after}, ptr {counter}")
        self.do(f"br label %{stem}.test")
        self.label(f"{stem}.end")

    def when(self, condition: str, then: Callable[[], None], other: Callable[[], None]) -> None:
        stem = self.name("if")
        self.do(f"br i1 {condition}, label %{stem}.then, label %{stem}.else")
        self.label(f"{stem}.then")
        then()
        self.do(f"br label %{stem}.end")
        self.label(f"{stem}.else")
        other()
        self.do(f"br label %{stem}.end")
        self.label(f"{stem}.end")


class Numbers:
    """Arithmetic on one vector, or on one number (`width` 0), as instructions."""

    def __init__(self, text: Text, kind: str, width: int):
        self.text, self.kind, self.width = text, kind, width
        self.bits = {"float": 32, "double": 64}[kind]
        self.type, self.int, self.bool = self._of(kind), self._of(f"i{self.bits}"), self._of("i1")
        self.suffix = f".v{width}f{self.bits}" if width else f".f{self.bits}"

    def _of(self, scalar: str) -> str:
        return f"<{self.width} x {scalar}>" if self.width else scalar

    def splat(self, kind: str, value: str) -> str:
        return f"<{', '.join([f'{kind} {value}'] * self.width)}>" if self.width else value

    def const(self, value: float) -> str:
        if self.kind == "float":
            try:
                value = struct.unpack("<f", struct.pack("<f", value))[0]
            except OverflowError:
                value = float("inf") if value > 0 else float("-inf")
        return self.splat(self.kind, f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}")

    def integer(self, value: int) -> str:
        return self.splat(f"i{self.bits}", str(value))

    def op(self, op: str, a: str, b: str) -> str:
        return self.text.let(f"{op} {self.type} {a}, {b}")

    def compare(self, op: str, a: str, b: str) -> str:
        return self.text.let(f"fcmp {op} {self.type} {a}, {b}")

    def select(self, c: str, a: str, b: str) -> str:
        return self.text.let(f"select {self.bool} {c}, {self.type} {a}, {self.type} {b}")

    def intrinsic(self, name: str, a: str) -> str:
        full = f"@llvm.{name}{self.suffix}"
        self.text.declare(f"declare {self.type} {full}({self.type})")
        return self.text.let(f"call {self.type} {full}({self.type} {a})")

    def broadcast(self, scalar: str) -> str:
        if not self.width:
            return scalar
        one = self.text.let(f"insertelement {self.type} poison, {self.kind} {scalar}, i32 0")
        mask = f"<{self.width} x i32> zeroinitializer"
        return self.text.let(f"shufflevector {self.type} {one}, {self.type} poison, {mask}")

    # --- functions

    def polynomial(self, x: str, coefficients: list[float]) -> str:
        value = self.const(coefficients[0])
        for c in coefficients[1:]:
            value = self.op("fadd", self.op("fmul", value, x), self.const(c))
        return value

    def exp(self, x: str) -> str:
        """e^x by reduction to |r| < ln(2)/2 and a Taylor polynomial; within 1 ulp."""
        single = self.bits == 32
        low, high = (-104.0, 89.0) if single else (-746.0, 710.0)
        y = self.select(self.compare("ogt", x, self.const(high)), self.const(high), x)
        y = self.select(self.compare("olt", y, self.const(low)), self.const(low), y)
        n = self.intrinsic("rint", self.op("fmul", y, self.const(1.4426950408889634)))
        parts = (
            (0.693359375, -2.12194440054690583e-4)
            if single
            else (6.93145751953125e-1, 1.42860682030941723212e-6)
        )
        r = y
        for part in parts:
            r = self.op("fsub", r, self.op("fmul", n, self.const(part)))
        factorial, inverse = 1.0, []
        for k in range(2, 9 if single else 15):
            factorial *= k
            inverse.append(1 / factorial)
        tail = self.op("fmul", self.op("fmul", r, r), self.polynomial(r, inverse[::-1]))
        value = self.op("fadd", self.const(1), self.op("fadd", r, tail))
        let, bits, mantissa = self.text.let, self.bits, 23 if single else 52
        whole = let(f"fptosi {self.type} {n} to {self.int}")
        half = let(f"ashr {self.int} {whole}, {self.integer(1)}")
        rest = let(f"sub {self.int} {whole}, {half}")
        for power in (half, rest):  # in two halves: 2^n itself may be no normal number
            biased = let(f"add {self.int} {power}, {self.integer(127 if bits == 32 else 1023)}")
            shifted = let(f"shl {self.int} {biased}, {self.integer(mantissa)}")
            value = self.op("fmul", value, let(f"bitcast {self.int} {shifted} to {self.type}"))
        return self.select(self.compare("uno", x, x), x, value)

    def sigmoid(self, x: str) -> str:
        e = self.exp(self.text.let(f"fneg {self.type} {x}"))
        return self.op("fdiv", self.const(1), self.op("fadd", self.const(1), e))

    def tanh(self, x: str) -> str:
        """A rational function (Cephes) near 0, 1 - 2 / (e^2|x| + 1) elsewhere."""
        size = self.intrinsic("fabs", x)
        e = self.exp(self.op("fadd", size, size))
        far = self.op("fdiv", self.const(2), self.op("fadd", e, self.const(1)))
        far = self.op("fsub", self.const(1), far)
        z = self.op("fmul", x, x)
        if self.bits == 32:
            near = self.polynomial(
                z,
                [
                    *(-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2),
                    *(1.33314422036e-1, -3.33332819422e-1),
                ],
            )
        else:
            above = [-9.64399179425052238628e-1, -9.92877231001918586564e1]
            below = [1.0, 1.12811678491632931402e2, 2.23548839060100448583e3]
            near = self.op(
                "fdiv",
                self.polynomial(z, [*above, -1.61468768441708447952e3]),
                self.polynomial(z, [*below, 4.84406305325125486048e3]),
            )
        near = self.op("fadd", x, self.op("fmul", x, self.op("fmul", z, near)))
        signed = self.select(
            self.compare("olt", x, self.const(0)), self.text.let(f"fneg {self.type} {far}"), far
        )
        small = self.compare("olt", size, self.const(0.625))
        return self.select(small, near, self.select(self.compare("uno", x, x), x, signed))

    def log(self, x: str) -> str:
        """ln x as k ln(2) + ln(1 + f), with |f| below sqrt(2) - 1 and a polynomial (fdlibm); within 1 ulp."""
        let, single = self.text.let, self.bits == 32
        one, root, mantissa = (
            (0x3F800000, 0x3F3504F3, 23) if single else (0x3FF << 52, 0x3FE6A09E << 32, 52)
        )
        tiny = self.compare("olt", x, self.const(2.0**-126 if single else 2.0**-1022))
        normal = self.select(tiny, self.op("fmul", x, self.const(2.0**54)), x)
        bits = let(f"bitcast {self.type} {normal} to {self.int}")
        moved = let(f"add {self.int} {bits}, {self.integer(one - root)}")
        exponent = let(f"ashr {self.int} {moved}, {self.integer(mantissa)}")
        k = let(f"sitofp {self.int} {exponent} to {self.type}")
        bias = 127.0 if single else 1023.0
        k = self.op("fsub", k, self.select(tiny, self.const(bias + 54), self.const(bias)))
        rest = let(f"and {self.int} {moved}, {self.integer((1 << mantissa) - 1)}")
        rest = let(f"add {self.int} {rest}, {self.integer(root)}")
        z = let(f"bitcast {self.int} {rest} to {self.type}")
        f = self.op("fsub", z, self.const(1))
        s = self.op("fdiv", f, self.op("fadd", f, self.const(2)))
        square = self.op("fmul", s, s)
        series = (
            (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693)
            if single
            else (
                *(1.479819860511658591e-1, 1.531383769920937332e-1, 1.818357216161805012e-1),
                *(2.222219843214978396e-1, 2.857142874366239149e-1, 3.999999999940941908e-1),
                6.666666666666735130e-1,
            )
        )
        high, low = (
            (6.9313812256e-1, 9.0580006145e-6)
            if single
            else (6.93147180369123816490e-1, 1.90821492927058770002e-10)
        )
        half = self.op("fmul", self.const(0.5), self.op("fmul", f, f))
        tail = self.op("fmul", square, self.polynomial(square, [*series]))
        small = self.op("fmul", s, self.op("fadd", half, tail))
        small = self.op("fadd", small, self.op("fmul", k, self.const(low)))
        value = self.op("fsub", self.op("fsub", half, small), f)
        value = self.op("fsub", self.op("fmul", k, self.const(high)), value)
        inf = self.const(float("inf"))
        value = self.select(self.compare("ult", x, inf), value, x)
        value = self.select(self.compare("oeq", x, self.const(0)), self.const(float("-inf")), value)
        value = self.select(self.compare("uno", x, x), x, value)
        return self.select(self.compare("olt", x, self.const(0)), self.const(float("nan")), value)

    def log1p(self, x: str) -> str:
        """ln u, where u is the rounded 1 + x, and what was rounded off, over u; within 2 ulp."""
        u = self.op("fadd", x, self.const(1))
        d = self.op("fsub", u, self.const(1))
        value, lost = self.log(u), self.op("fdiv", self.op("fsub", x, d), u)
        return self.select(self.compare("oeq", d, x), value, self.op("fadd", value, lost))

    def libm(self, op: str, *args: str) -> str:
        """A call of the C library for each element."""
        name = f"@{op}{'f' if self.bits == 32 else ''}"
        kinds = ", ".join([self.kind] * len(args))
        self.text.declare(f"declare {self.kind} {name}({kinds})")
        if not self.width:
            given = ", ".join(f"{self.kind} {a}" for a in args)
            return self.text.let(f"call {self.kind} {name}({given})")
        result = "poison"
        for i in range(self.width):
            lanes = [self.text.let(f"extractelement {self.type} {a}, i32 {i}") for a in args]
            given = ", ".join(f"{self.kind} {lane}" for lane in lanes)
            one = self.text.let(f"call {self.kind} {name}({given})")
            result = self.text.let(
                f"insertelement {self.type} {result}, {self.kind} {one}, i32 {i}"
            )
        return result

    def node(self, op: str, args: list[str]) -> str:
        """One operation of the table."""
        let = self.text.let
        match op:
            case "add" | "sub" | "mul" | "div":
                return self.op(f"f{op}", *args)
            case "neg":
                return let(f"fneg {self.type} {args[0]}")
            case "abs":
                return self.intrinsic("fabs", args[0])
            case "sqrt" | "floor" | "ceil" | "trunc":
                return self.intrinsic(op, args[0])
            case "round":
                return self.intrinsic("rint", args[0])
            case "lt" | "le" | "gt" | "ge":
                return self.compare(f"o{op}", *args)
            case "eq":
                return self.compare("oeq", *args)
            case "ne":
                return self.compare("une", *args)
            case "and" | "or" | "xor":
                return let(f"{op} {self.bool} {args[0]}, {args[1]}")
            case "not":
                return let(f"xor {self.bool} {args[0]}, {self.splat('i1', 'true')}")
            case "where":
                return self.select(*args)
            case "float":
                return self.select(args[0], self.const(1), self.const(0))
            case "sign":
                zero = self.const(0)
                below = self.select(self.compare("olt", args[0], zero), self.const(-1), zero)
                return self.select(self.compare("ogt", args[0], zero), self.const(1), below)
            case "maximum" | "minimum":
                a, b = args
                better = self.compare("ogt" if op == "maximum" else "olt", a, b)
                return self.select(
                    self.compare("uno", a, a),
                    a,
                    self.select(better, a, b),
                )
            case "exp" | "sigmoid" | "tanh" | "log" | "log1p":
                return getattr(self, op)(args[0])
            case _:
                assert op in LIBM, op
                return self.libm(op, *args)
