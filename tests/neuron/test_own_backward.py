"""The kernel that takes a rule's own step back: with the vector-Jacobian product of `step` it is automatic."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

from snnrun.model import Layer
from snnrun.neuron import ALIF, IF, LIF, Neuron, OwnBackward, State, carry
from snnrun.surrogate import ATan


def vjp(
    neuron: Neuron, x: Tensor, state: State, out: Tensor, grad_out: Tensor, grad_state: State
) -> tuple[Tensor, State]:
    """What automatic differentiation does in one step; it sees what the contract promises."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        state = tuple(s.detach().requires_grad_() for s in state)
        again, after = neuron.step(x, state)
        assert torch.equal(again, out)
        outputs = [(again, grad_out), *zip(after, grad_state, strict=True)]
        outputs = [(o, g) for o, g in outputs if o.requires_grad]
        found = torch.autograd.grad(
            [o for o, _ in outputs], (x, *state), [g for _, g in outputs], allow_unused=True
        )
    grad_x, *grads = (torch.zeros_like(x) if g is None else g for g in found)
    return grad_x, tuple(grads)


NEURONS = [LIF(ATan(), detach_reset=False), ALIF(ATan(), detach_reset=False), IF(ATan())]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(neuron: Neuron, chunks: list[int]) -> Tensor:
    x = (draw(0, 7, 3, 4) + 0.6).requires_grad_()
    with carry(neuron):
        out = torch.cat([neuron(chunk) for chunk in x.split(chunks)])
    return torch.autograd.grad(out, x, draw(1, 7, 3, 4))[0]


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 4]], ids=str)
def test_equals_scan(neuron, chunks):
    expected = gradient(neuron, [7])
    own = copy.deepcopy(neuron)
    own.kernel = OwnBackward(vjp)
    torch.testing.assert_close(gradient(own, chunks), expected, rtol=1e-12, atol=1e-14)


def test_gradients_reach_the_first_state_and_come_from_the_last():
    neuron = LIF(ATan(), detach_reset=False)
    x, v, above = draw(0, 5, 3, 4) + 0.6, draw(1, 3, 4), draw(2, 3, 4)
    found = []
    for kernel in (LIF.kernel, OwnBackward(vjp)):
        first = v.clone().requires_grad_()
        _, (last,) = kernel(neuron, x, (first,))
        found.append(torch.autograd.grad(last, first, above)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
    assert found[0].any()


def test_in_a_recurrent_layer():
    torch.manual_seed(0)
    neuron = LIF(ATan(), detach_reset=False)
    layer = Layer(torch.nn.Linear(4, 4), None, neuron, torch.nn.Linear(4, 4)).double()
    x, above, found = draw(0, 6, 3, 4) + 1, draw(1, 6, 3, 4), []
    for kernel in (LIF.kernel, OwnBackward(vjp)):
        neuron.kernel = kernel
        found.append(torch.autograd.grad(layer(x), list(layer.parameters()), above))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_half_precision_in_and_out_and_float32_inside():
    seen = set()

    def look(neuron, x, state, out, grad_out, grad_state):
        seen.update(t.dtype for t in (x, *state, out, grad_out, *grad_state))
        return vjp(neuron, x, state, out, grad_out, grad_state)

    neuron = LIF(ATan())
    neuron.kernel = OwnBackward(look)
    x = draw(0, 5, 3, 4).bfloat16().requires_grad_()
    out = neuron(x)
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.bfloat16
    assert seen == {torch.float32}


def test_pickle_and_equality():
    kernel = OwnBackward(vjp)
    assert pickle.loads(pickle.dumps(kernel)) == kernel == OwnBackward(vjp)
