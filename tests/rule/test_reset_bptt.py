"""Reset-aware BPTT: automatic differentiation where it claims to be, for every surrogate; its mode without memory."""

import pickle

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from snnrun.config import Choices, instantiate
from snnrun.neuron import LI, PSCLIF, carry
from snnrun.rule import ResetBPTT
from snnrun.rule.reset_bptt import ResetStep

CHOICES = Choices()
MODES = ("none", "leak", "full")


def neuron(surrogate: str, reset="zero", detach=True, tau_m=5.0) -> PSCLIF:
    made = instantiate(OmegaConf.create(CHOICES.load("surrogate", surrogate)))
    return PSCLIF(made, tau_m, 3.0, 0.8, reset=reset, detach_reset=detach)


def draw(seed: int) -> Tensor:
    return torch.randn(9, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(made: PSCLIF, chunks: list[int]) -> Tensor:
    x = (draw(0) + 0.3).requires_grad_()
    with carry(made):
        out = torch.cat([made(chunk) for chunk in x.split(chunks)])
    return torch.autograd.grad(out, x, draw(1))[0]


@pytest.mark.parametrize("surrogate", CHOICES.options("surrogate"))
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("mode", ["leak", "full"])
def test_equals_automatic_differentiation(surrogate, reset, mode):
    expected = gradient(neuron(surrogate, reset, detach=mode == "leak"), [9])
    made = neuron(surrogate, reset)
    made.kernel = ResetBPTT(mode).kernel(made)
    torch.testing.assert_close(gradient(made, [9]), expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradient(made, [1] * 9), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_without_a_path_through_the_membrane(reset):
    """With tau_m = 1 there is no such path in any mode."""
    found = {}
    for mode in MODES:
        made = neuron("atan", reset, tau_m=1.0)
        made.kernel = ResetBPTT(mode).kernel(made)
        found[mode] = gradient(made, [9])
    assert all(torch.equal(found["none"], found[mode]) for mode in MODES)
    made = neuron("atan", reset)
    made.kernel = ResetBPTT("none").kernel(made)
    x, above = (draw(0) + 0.3), draw(1)
    state, error, expected = made.init_state(x[0]), torch.zeros_like(x), torch.zeros_like(x)
    for t in range(8, -1, -1):
        error[t] = above[t] / 3 + (2 / 3) * (error[t + 1] if t < 8 else 0)
    for t in range(9):
        u = state[0] * (1 - 1 / 5) + x[t]
        expected[t] = error[t] * made.surrogate.derivative(u - 0.8)
        _, state = made.step(x[t], state)
    torch.testing.assert_close(gradient(made, [9]), expected, rtol=1e-10, atol=1e-13)


def test_kernels():
    rule, made = ResetBPTT("leak"), neuron("atan")
    assert rule.kernel(LI()) is LI.kernel
    kernel = rule.kernel(made)
    assert pickle.loads(pickle.dumps(kernel)) == kernel
    assert kernel.backward_step == ResetStep("leak")  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(ValueError, match="must be none, leak or full, got 'some'"):
        ResetBPTT("some")  # pyright: ignore[reportArgumentType]


def test_the_papers_surrogate_is_the_default_and_any_other_can_be_chosen():
    assert CHOICES.compose(["rule=reset_bptt"]).surrogate.width == 0.2
    cfg = CHOICES.compose(["rule=reset_bptt", "surrogate=atan"])
    assert cfg.neuron.surrogate._target_.endswith("ATan")
