"""Triton kernels: their source as stored, and what they compute, on a GPU or in Triton's interpreter.

`python tests/neuron/kernel/test_triton.py` stores the sources afresh, after a change that is meant.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from snnrun.config import Choices, instantiate
from snnrun.neuron import LIF, PSCLIF, Neuron, OwnBackward
from snnrun.neuron.kernel import Fused, choose
from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.cuda import BLOCK, _load
from snnrun.neuron.kernel.graph import ROUGH, Graph
from snnrun.neuron.kernel.plan import backward_outputs, constants, forward_outputs
from snnrun.neuron.kernel.triton import Form, arguments, check, chunk, source
from snnrun.rule.tssl import Timing
from snnrun.surrogate import ATan

STORED = Path(__file__).parent / "printed"
CHOICES = Choices()

RUN = """
import sys, warnings, torch
from snnrun.neuron import ALIF, IF, LI, LIF, MSAT, PLIF, PSCLIF, CubaLIF, OwnBackward, scan
from snnrun.neuron.base import wide
from snnrun.neuron.kernel import Fused, choose
from snnrun.neuron.kernel.operator import sequence
from snnrun.rule.tssl import Timing
from snnrun.surrogate import ATan, Dspike, Sigmoid, Triangle

device = sys.argv[1]
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "divide by zero")  # the interpreter is made of numpy
neurons = [
    LIF(ATan()), LIF(Triangle(), reset="none", learnable=True), IF(ATan(), reset="soft"), LI(), CubaLIF(Sigmoid()),
    PLIF(Dspike(), per_channel=True, channels=3, detach_reset=False), ALIF(Triangle(), learnable=True), MSAT(ATan()),
]
pairs = [(n, Fused(), scan) for n in neurons]
pairs.append((PSCLIF(ATan()), choose(OwnBackward(Timing()), "auto"), OwnBackward(Timing())))
for dtype, loose in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
    for neuron, *kernels in pairs:
        neuron = neuron.to(device, dtype)
        assert Fused().program(neuron, torch.zeros(1, 1, 3, 1, dtype=dtype, device=device)) is not None
        torch.manual_seed(0)
        inputs = [torch.randn(5, 2, 3, 70), torch.randn(1, 1, 3, 1), torch.randn(3, 4, 3).transpose(0, 1)]
        # one chunk or more, the last full or not
        inputs += [torch.randn(steps, 1, 3, 2) for steps in ((16, 21) if dtype == torch.float64 else (21,))]
        for x in inputs:
            found = []
            for kernel in kernels:
                leaf = (2 * x).to(device, dtype).requires_grad_()
                out, state = kernel(neuron, leaf, neuron.init_state(wide(leaf[0])))
                loss = (out * torch.cos(out.detach() + leaf.detach())).sum() + sum(s.sin().sum() for s in state)
                found.append([out, *state, *torch.autograd.grad(loss, [leaf, *neuron.parameters()])])
            narrow = dtype == torch.float32 and len(x) > 5  # rounding adds up on the way back
            for i, (one, other) in enumerate(zip(*found, strict=True)):
                if narrow and i > len(state):
                    break
                exact = i <= len(state) and not isinstance(neuron, MSAT)  # its thresholds are made by exp and log1p
                bound = 0 if exact else loose * other.abs().max().item()
                assert (one - other).abs().max() <= bound, (neuron, i)
            alone = Fused().from_rest(neuron, leaf)
            assert torch.equal(alone, found[0][0])
            if dtype == torch.float32 or not isinstance(kernels[0], Fused) or kernels[0].own:
                continue
            again = [k(neuron, leaf, neuron.init_state(wide(leaf[0])))[0] for k in kernels[1:]]
            again = [torch.autograd.grad(out.square().sum(), leaf)[0] for out in again + [alone]]
            assert (again[0] - again[1]).abs().max() <= loose * again[0].abs().max()
leaf = torch.randn(37, 1, 3, 2, device=device, requires_grad=True)
name = Fused().program(neurons[0], leaf).name
(out,) = sequence(leaf, [], [], name, False)  # as torch.compile calls it
outs = [out, neurons[0](leaf)]
assert torch.equal(*outs) and torch.equal(*[torch.autograd.grad(o.square().sum(), leaf)[0] for o in outs])
print("equal")
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_equal_to_the_reference(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    interpreter = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    done = subprocess.run(
        [sys.executable, "-c", RUN, device],
        env={**os.environ, **interpreter},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "equal\n", done.stderr


OPTIONS = [o for o in CHOICES.options("neuron") if o != "rel_psp"]  # which has no step


def graph_of(option: str, surrogate: str = "atan", dtype: torch.dtype = torch.float32) -> Graph:
    """What the step of a neuron does, as its YAML has it."""
    parts = {
        "surrogate": CHOICES.load("surrogate", surrogate),
        "neuron": CHOICES.load("neuron", option),
    }
    neuron = instantiate(OmegaConf.create(parts).neuron, channels=3)
    assert isinstance(neuron, Neuron)
    found = Fused().program(neuron.to(dtype), torch.zeros(1, 1, 3, dtype=dtype))
    assert found is not None
    return found.graph


def form_of(graph: Graph, dtype: str, steps: int, *, backward: bool, rows: bool = False) -> Form:
    """Of a kernel for a sequence of so many steps, whose constants differ between elements (`rows`) or do not."""
    outputs = backward_outputs(graph) if backward else forward_outputs(graph)
    length = chunk(graph, steps)
    return Form(
        dtype=dtype,
        rows=(rows,) * len(constants(graph, outputs)),
        chunk=length,
        many=steps > length,
        full=steps % length == 0,
        marks=steps > length,
    )


def printed(option: str) -> str:
    """Both kernels of a neuron, for a chunk of two steps and a rest of one."""
    graph, texts = graph_of(option), []
    for backward in (False, True):
        form = replace(
            form_of(graph, "float32", 3, backward=backward),
            **{"chunk": 2, "many": True, "full": False, "marks": True, "ends": True},
        )
        text = source(graph, form, backward=backward)
        texts.append(text[text.rindex("@triton.jit") :])
    return "\n".join(texts)


@pytest.mark.parametrize("option", OPTIONS)
def test_source_is_the_stored_one(option):
    assert printed(option) == (STORED / f"{option}.txt").read_text()


def compiled(
    graph: Graph, dtype: str, generation: int, steps: int, *, backward: bool, rows: bool
) -> str:
    """The assembly of a kernel for a generation of NVIDIA's GPUs, of which none is needed."""
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends")
    if "nvidia" not in backends.backends:
        pytest.skip("this Triton does not compile for NVIDIA's GPUs")
    from triton.backends.compiler import GPUTarget

    form = form_of(graph, dtype, steps, backward=backward, rows=rows)
    kernel = _load(source(graph, form, backward=backward)).run
    own = {"float32": "*fp32", "bfloat16": "*bf16", "float64": "*fp64"}
    wide = own["float64" if dtype == "float64" else "float32"]
    # as Triton has it: a number is a constant if it is 1, and may be known to be a multiple of 16
    kinds = {"steps": "constexpr" if steps == 1 else "i32", "size": "i32", "BLOCK": "constexpr"}
    for name in arguments(graph, form, backward=backward):
        narrow = name in ("x", "out", "grad_out", "grad_x")
        kinds[name] = "i32" if name.endswith("_time") else own[dtype] if narrow else wide
    places = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    made = compiler.compile(
        compiler.ASTSource(
            fn=kernel,
            signature={name: kinds[name] for name in kernel.arg_names},
            constexprs={
                places[n]: BLOCK if n == "BLOCK" else 1
                for n, kind in kinds.items()
                if kind == "constexpr"
            },
            attrs={
                places[n]: [["tt.divisibility", 16]]
                for n, kind in kinds.items()
                if kind != "constexpr" and n != "steps"
            },
        ),
        target=GPUTarget("cuda", generation, 32),
        options={"enable_fp_fusion": False},
    )
    assert made.asm["cubin"]
    return made.asm["ptx"]


@pytest.mark.parametrize("option", OPTIONS)
def test_kernels_compile_for_a_gpu(option, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    graph = graph_of(option)
    for dtype, steps in (("bfloat16", 4), ("float32", 21)):
        for backward in (False, True):
            code = compiled(graph, dtype, 90, steps, backward=backward, rows=backward)
            rough = any(node.op in ROUGH for node in graph.nodes)
            assert rough or "fma.rn" not in code  # contraction would round otherwise than torch


@pytest.mark.parametrize("surrogate", CHOICES.options("surrogate"))
def test_surrogates_compile_for_a_gpu(surrogate, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for dtype, generation, steps in (("float32", 80, 1), ("float64", 90, 4)):
        graph = graph_of("lif", surrogate, getattr(torch, dtype))
        assert compiled(graph, dtype, generation, steps, backward=True, rows=False)


def test_a_backward_pass_of_its_own_compiles_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = choose(OwnBackward(Timing()), "auto")
    assert isinstance(kernel, Fused)
    found = kernel.program(PSCLIF(ATan()), torch.zeros(1, 1, 3))
    assert found is not None and compiled(
        found.graph, "bfloat16", 90, 30, backward=True, rows=False
    )


def test_a_gpu_without_triton_runs_step_by_step(monkeypatch):
    monkeypatch.setattr("snnrun.neuron.kernel.dispatch._triton", lambda: False)
    with pytest.warns(UserWarning, match="LIF runs step by step.* a GPU where Triton is not"):
        assert Fused()._program(LIF(ATan()), torch.float32, 3, "cuda") is None


def test_an_operation_that_triton_lacks():
    graph = Graph()
    graph.add("expm1", graph.input("x"))
    with pytest.raises(Unprintable, match="expm1 in a Triton kernel"):
        check(graph)


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for name in OPTIONS:
        (STORED / f"{name}.txt").write_text(printed(name))
