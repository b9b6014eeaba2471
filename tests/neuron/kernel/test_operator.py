"""The run of a sequence as one operation: under torch.compile, with gradients, without."""

import pytest
import torch
from torch import nn

from snnrun.model import Layer
from snnrun.neuron import ALIF, LIF, PLIF, Neuron, carry
from snnrun.neuron.kernel import Fused, cpu
from snnrun.surrogate import ATan, Rectangle

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # torch.compile reads it
]


def net() -> nn.Module:
    torch.manual_seed(0)
    first = Layer(nn.Linear(6, 5), None, PLIF(ATan(), per_channel=True, channels=5))
    return nn.Sequential(first, Layer(nn.Linear(5, 4), None, ALIF(ATan())))


def test_compiled_networks_have_no_break():
    eager, compiled = net(), net()
    compiled.compile(fullgraph=True, backend="aot_eager")
    for steps, batch in ((5, 3), (7, 4), (1, 2)):  # sizes change
        x = torch.randn(steps, batch, 6) * 2
        outs = [n(x.clone().requires_grad_()) for n in (eager, compiled)]
        assert torch.equal(*outs)
        grads = [
            torch.autograd.grad((o * torch.cos(o.detach() + 1)).sum(), [*n.parameters()])
            for o, n in zip(outs, (eager, compiled), strict=True)
        ]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other)


def test_streaming_compiles():
    neuron, x = LIF(ATan()), torch.randn(6, 2, 3)
    run = torch.compile(lambda y, v: Fused()(neuron, y, (v,)), fullgraph=True, backend="aot_eager")
    v = torch.zeros(2, 3, requires_grad=True)
    first, (middle,) = run(x[:2], v)
    second, _ = run(x[2:], middle)
    assert torch.equal(torch.cat([first, second]), neuron(x))
    (grad,) = torch.autograd.grad(second.sum() + first.sum(), v)
    again = torch.zeros(2, 3, requires_grad=True)
    out, _ = Fused()(neuron, x, (again,))
    torch.testing.assert_close(grad, torch.autograd.grad(out.sum(), again)[0])


@pytest.mark.parametrize("level", [0.1, 5.0], ids=["silent", "firing"])
@pytest.mark.parametrize(
    "neuron",
    [LIF(Rectangle(0.02)), PLIF(Rectangle(0.02)), ALIF(Rectangle(0.02), learnable=True)],
    ids=lambda n: type(n).__name__,
)
def test_gradients_by_finite_differences(neuron, level):
    """Where no potential is near the threshold, spikes are constant and all else is smooth."""
    neuron = neuron.double()
    x = level + 0.01 * torch.arange(12, dtype=torch.float64).view(4, 1, 3).requires_grad_()
    state = tuple((s + 0.1).requires_grad_() for s in neuron.init_state(x[0].detach()))

    def run(x, *rest):
        out, final = Fused()(neuron, x, rest[: len(state)])
        return (out, *final)

    assert run(x, *state)[0].eq(level > 1).all()
    assert torch.autograd.gradcheck(run, (x, *state, *neuron.parameters()))


def test_a_second_derivative_is_refused():
    x = torch.randn(3, 2, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(LIF(ATan())(x).sum(), x, create_graph=True)


def test_no_gradient_keeps_nothing():
    neuron = LIF(ATan())
    with torch.no_grad():
        assert neuron(torch.randn(3, 2, 2, requires_grad=True)).grad_fn is None
    with torch.inference_mode():
        neuron(torch.randn(3, 2, 2))


def test_input_is_all_that_is_saved():
    saved = []
    x = torch.randn(3, 2, 2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ALIF(ATan())(x)
    assert [t.shape for t in saved] == [x.shape]


def test_unused_outputs_have_no_gradient():
    neuron: Neuron = ALIF(ATan())
    x = torch.randn(3, 2, 2, requires_grad=True)
    with carry(neuron):
        neuron(x)
        last = neuron(torch.zeros(1, 2, 2))
    (grad,) = torch.autograd.grad(last.sum(), x)
    assert grad.isfinite().all() and grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "aligned"), [((3, 2, 96), True), ((4, 64, 2, 80), True), ((3, 2, 5), False)], ids=str
)
def test_results_past_the_caches_are_the_same(monkeypatch, dtype, shape, aligned):
    x = (torch.randn(shape, dtype=dtype) * 2).transpose(1, -1)
    weights = torch.randn_like(x)
    found, past = [], []
    function = cpu._function
    monkeypatch.setattr(cpu, "_function", lambda *key: past.append(key[1].past) or function(*key))
    for least in (1 << 40, 0):
        monkeypatch.setattr(cpu, "PAST", least)
        leaf = x.clone().requires_grad_()
        out = LIF(ATan())(leaf)
        out.backward(weights)
        found.append((out, leaf.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert past == [False, False, aligned, aligned]
