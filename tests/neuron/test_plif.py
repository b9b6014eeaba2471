"""The LIF neuron whose time constant is learned."""

import inspect
import math

import pytest
import torch

from snnrun.neuron import LIF, PLIF
from snnrun.surrogate import ATan


def test_is_a_learnable_lif():
    x = torch.randn(6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    switches = {"threshold": 0.7, "reset": "soft", "decay_input": False, "detach_reset": False}
    results = []
    for neuron in (
        PLIF(ATan(), 3.0, per_channel=True, channels=4, **switches),
        LIF(ATan(), 3.0, learnable=True, per_channel=True, channels=4, **switches),
    ):
        out = neuron.double()(x.requires_grad_())
        results.append((out, *torch.autograd.grad((out * x.detach()).sum(), (x, neuron.w))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("tau", [1.5, 2.0, 8.0])
def test_start(tau):
    w = PLIF(ATan(), tau).w
    assert w is not None and w.shape == (1,)
    assert w.item() == pytest.approx(-math.log(tau - 1), abs=1e-7)


def test_two_steps_by_hand():
    # w = ln 3, so k = 0.75: h = 0.75, then 0.75 + 0.75 (2 - 0.75) = 1.6875 fires
    neuron = PLIF(ATan(alpha=2.0)).double()
    assert neuron.w is not None
    with torch.no_grad():
        neuron.w.fill_(math.log(3))
    out = neuron(torch.tensor([1.0, 2.0], dtype=torch.float64).view(2, 1, 1))
    assert out.flatten().tolist() == [0, 1]
    out[0].sum().backward()
    # dh/dw = x k (1 - k) = 3/16; slope at -0.25: 1 / (1 + (pi/4)^2)
    expected = 3 / 16 / (1 + (math.pi / 4) ** 2)
    assert neuron.w.grad is not None
    assert neuron.w.grad.item() == pytest.approx(expected, rel=1e-12)


def test_arguments_are_those_of_lif_but_learnable():
    own, of_lif = (
        {k: p.default for k, p in inspect.signature(c).parameters.items()} for c in (PLIF, LIF)
    )
    del of_lif["learnable"]
    assert own == of_lif


def test_tau_without_memory():
    with pytest.raises(ValueError) as error:
        PLIF(ATan(), tau=1.0)
    assert str(error.value) == (
        "tau must be above 1, got 1.0. With tau=1 the neuron has no memory; raise tau,"
        " or use neuron=if for one that does not leak."
    )
