"""A rule's own step back, printed in place of the vector-Jacobian product."""

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer
from snnrun.neuron import PSCLIF, Neuron, OwnBackward, State, carry
from snnrun.neuron.kernel import Fused, choose
from snnrun.rule.tssl import Dense, EarlyTiming, Timing
from snnrun.surrogate import ATan

STEPS = [Timing(), Timing(warmup=False), Dense(), EarlyTiming()]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(kernel, chunks: list[int], recurrent: bool) -> list[Tensor]:
    neuron = PSCLIF(ATan())
    neuron.kernel = kernel
    torch.manual_seed(0)
    layer = Layer(nn.Linear(6, 5), None, neuron, nn.Linear(5, 5) if recurrent else None).double()
    x = (2 * draw(0, 9, 4, 6)).requires_grad_()
    with carry(layer):
        out = torch.cat([layer(chunk) for chunk in x.split(chunks)])
    return [out, *torch.autograd.grad((out * draw(1, 9, 4, 5)).sum(), (x, *layer.parameters()))]


@pytest.mark.parametrize("recurrent", [False, True], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize("chunks", [[9], [4, 1, 4], [1] * 9], ids=str)
@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_equals_the_reference(step, chunks, recurrent):
    own = OwnBackward(step)
    expected = gradients(own, [9], recurrent)
    for one, other in zip(gradients(choose(own, "auto"), chunks, recurrent), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * other.abs().max().item())


def test_choice_of_a_kernel():
    own = OwnBackward(Timing())
    assert choose(own, "numba") == Fused("numba", own)
    assert choose(own, "scan") is own
    assert choose(Fused("auto", own), "scan") is own
    with pytest.raises(ValueError, match="kernel must be one of auto, numba, triton, scan"):
        choose(own, "cuda")  # pyright: ignore[reportArgumentType]


def flip(
    neuron: Neuron, x: Tensor, state: State, out: Tensor, grad_out: Tensor, grad_state: State
) -> tuple[Tensor, State]:
    return grad_out.flip(0), grad_state


def test_a_step_across_elements_falls_back_and_says_so():
    neuron = PSCLIF(ATan())
    neuron.kernel = choose(OwnBackward(flip), "auto")
    x = torch.randn(3, 2, 4, requires_grad=True)
    with pytest.warns(UserWarning, match="PSCLIF runs step by step.* flip"):
        out = neuron(x)
    (grad,) = torch.autograd.grad(out, x, torch.arange(24.0).view(3, 2, 4))
    assert torch.equal(grad, torch.arange(24.0).view(3, 2, 4).flip(1))
