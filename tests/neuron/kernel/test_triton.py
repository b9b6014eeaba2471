"""Triton kernels: their source as stored, and what they compute in Triton's interpreter, which needs no GPU.

`python tests/neuron/kernel/test_triton.py` stores the sources afresh, after a change that is meant.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from snnrun.config import Choices, instantiate
from snnrun.neuron import PSCLIF, Neuron, OwnBackward
from snnrun.neuron.kernel import Fused, choose
from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.cuda import BLOCK, _load
from snnrun.neuron.kernel.graph import ROUGH, Graph
from snnrun.neuron.kernel.plan import Signature, backward_outputs, constants, forward_outputs
from snnrun.neuron.kernel.triton import arguments, check, source
from snnrun.rule.tssl import Timing
from snnrun.surrogate import ATan

STORED = Path(__file__).parent / "printed"
CHOICES = Choices()

RUN = """
import warnings, torch
from snnrun.neuron import ALIF, IF, LI, LIF, MSAT, PLIF, PSCLIF, CubaLIF, OwnBackward, scan
from snnrun.neuron.base import wide
from snnrun.neuron.kernel import Fused, choose
from snnrun.rule.tssl import Timing
from snnrun.surrogate import ATan, Dspike, Sigmoid, Triangle

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
        neuron = neuron.double() if dtype == torch.float64 else neuron.float()
        assert Fused().program(neuron, torch.zeros(1, 1, 3, 1, dtype=dtype)) is not None
        torch.manual_seed(0)
        for x in (torch.randn(5, 2, 3, 70), torch.randn(1, 1, 3, 1), torch.randn(3, 4, 3).transpose(0, 1)):
            found = []
            for kernel in kernels:
                leaf = (2 * x).to(dtype).requires_grad_()
                out, state = kernel(neuron, leaf, neuron.init_state(wide(leaf[0])))
                loss = (out * torch.cos(out.detach() + leaf.detach())).sum() + sum(s.sin().sum() for s in state)
                found.append([out, *state, *torch.autograd.grad(loss, [leaf, *neuron.parameters()])])
            for i, (one, other) in enumerate(zip(*found, strict=True)):
                exact = i <= len(state) and not isinstance(neuron, MSAT)  # its thresholds are made by exp and log1p
                bound = 0 if exact else loose * other.abs().max().item()
                assert (one - other).abs().max() <= bound, (neuron, i)
            alone = Fused().from_rest(neuron, leaf)
            assert torch.equal(alone, found[0][0])
print("equal")
"""


def test_equal_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**os.environ, "TRITON_INTERPRET": "1"},
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


def signature_of(graph: Graph, dtype: str, *, backward: bool, rows: bool = False) -> Signature:
    """Of a kernel whose constants differ between elements (`rows`) or do not."""
    outputs = backward_outputs(graph) if backward else forward_outputs(graph)
    return Signature(dtype, (rows,) * len(constants(graph, outputs)))


def printed(option: str) -> str:
    """Both kernels of a neuron."""
    graph, texts = graph_of(option), []
    for backward in (False, True):
        signature = signature_of(graph, "float32", backward=backward)
        text = source(graph, signature, backward=backward)
        texts.append(text[text.rindex("@triton.jit") :])
    return "\n".join(texts)


@pytest.mark.parametrize("option", OPTIONS)
def test_source_is_the_stored_one(option):
    assert printed(option) == (STORED / f"{option}.txt").read_text()


def compiled(graph: Graph, dtype: str, generation: int, *, backward: bool, rows: bool) -> str:
    """The assembly of a kernel for a generation of NVIDIA's GPUs, of which none is needed."""
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends")
    if "nvidia" not in backends.backends:
        pytest.skip("this Triton does not compile for NVIDIA's GPUs")
    from triton.backends.compiler import GPUTarget

    signature = signature_of(graph, dtype, backward=backward, rows=rows)
    kernel = _load(source(graph, signature, backward=backward)).run
    own = {"float32": "*fp32", "bfloat16": "*bf16", "float64": "*fp64"}
    wide = own["float64" if dtype == "float64" else "float32"]
    kinds = {"steps": "i32", "size": "i64", "BLOCK": "constexpr"}
    for name in arguments(graph, signature, backward=backward):
        narrow = name in ("x", "out", "grad_out", "grad_x")
        kinds[name] = "i64" if name.endswith("_time") else own[dtype] if narrow else wide
    made = compiler.compile(
        compiler.ASTSource(
            fn=kernel,
            signature={name: kinds[name] for name in kernel.arg_names},
            constexprs={(kernel.arg_names.index("BLOCK"),): BLOCK},
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
    for dtype in ("float32", "bfloat16"):
        for backward in (False, True):
            code = compiled(graph, dtype, 90, backward=backward, rows=backward)
            rough = any(node.op in ROUGH for node in graph.nodes)
            assert rough or "fma.rn" not in code  # contraction would round otherwise than torch


@pytest.mark.parametrize("surrogate", CHOICES.options("surrogate"))
def test_surrogates_compile_for_a_gpu(surrogate, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for dtype, generation in (("float32", 80), ("float64", 90)):
        graph = graph_of("lif", surrogate, getattr(torch, dtype))
        assert compiled(graph, dtype, generation, backward=True, rows=False)


def test_a_backward_pass_of_its_own_compiles_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = choose(OwnBackward(Timing()), "auto")
    assert isinstance(kernel, Fused)
    found = kernel.program(PSCLIF(ATan()), torch.zeros(1, 1, 3))
    assert found is not None and compiled(found.graph, "bfloat16", 90, backward=True, rows=False)


def test_an_operation_that_triton_lacks():
    graph = Graph()
    graph.add("expm1", graph.input("x"))
    with pytest.raises(Unprintable, match="expm1 in a Triton kernel"):
        check(graph)


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for name in OPTIONS:
        (STORED / f"{name}.txt").write_text(printed(name))
