"""The synaptic filter of the input, and the first synapse computed once behind it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.config import Choices, instantiate
from snnrun.encoder import PSC
from snnrun.encoder.profile import factors, flat
from snnrun.model import Layer, over_time
from snnrun.neuron import carry

CHOICES = Choices()


def filtered(x: np.ndarray, tau_s: float) -> np.ndarray:
    epsilon = (1 - 1 / tau_s) ** np.arange(len(x)) / tau_s
    return np.apply_along_axis(lambda row: np.convolve(row, epsilon)[: len(x)], 0, x)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tau_s", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_sequence_is_convolved_with_the_kernel(steps, tau_s):
    x = draw(steps, 2, 3, 4)
    out = PSC(steps, static=False, tau_s=tau_s)(x)
    np.testing.assert_allclose(out.numpy(), filtered(x.numpy(), tau_s), rtol=1e-12, atol=1e-14)
    assert factors(out) is None


@pytest.mark.parametrize("tau_s", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_static_input_counts_as_a_constant_one(steps, tau_s):
    x = draw(2, 3, 4)
    out = PSC(steps, static=True, tau_s=tau_s)(x)
    expected = filtered(x.expand(steps, *x.shape).numpy(), tau_s)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_a_sequence_can_be_streamed():
    encoder, x = PSC(7, static=False), draw(7, 2, 3)
    with carry(encoder):
        parts = torch.cat([encoder(chunk) for chunk in x.split([1, 4, 2])])
    torch.testing.assert_close(parts, encoder(x), rtol=0, atol=0)


SYNAPSES = [
    nn.Linear(12, 5),
    nn.Linear(12, 5, bias=False),
    nn.Conv2d(3, 5, 2),
    nn.Conv2d(3, 5, 2, padding=1, bias=False),
]


@pytest.mark.parametrize("synapse", SYNAPSES, ids=str)
def test_the_first_synapse_is_computed_once_and_scaled(synapse):
    synapse, x = synapse.double(), draw(4, 3, 2, 2).requires_grad_()
    dense = isinstance(synapse, nn.Linear)
    rows, results = [], []
    synapse.register_forward_hook(lambda m, args, out: rows.append(len(args[0])))
    for known in (True, False):
        a = PSC(6, static=True)(x)
        if not known:
            del a.factors  # pyright: ignore[reportAttributeAccessIssue]
        out = Layer(synapse, None, None)(flat(a) if dense else a)
        assert (factors(flat(a)) is not None) == known
        gradients = torch.autograd.grad(out.square().sum(), (x, *synapse.parameters()))
        results.append((out.detach(), *gradients))
    assert rows == [4, 24]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_what_is_not_linear_is_computed_at_every_step():
    a = PSC(3, static=True)(draw(2, 4))
    torch.testing.assert_close(over_time(nn.ReLU(), a), a.relu())


def test_under_mixed_precision():
    synapse = nn.Linear(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = over_time(synapse, PSC(3, static=True)(draw(2, 4).float()))
    assert out.dtype == torch.bfloat16


def test_the_time_constant_is_that_of_the_neurons():
    cfg = CHOICES.compose(["rule=tssl", "neuron.tau_s=4.5", "dataset.steps=7"])
    encoder = instantiate(cfg.encoder, static=True)
    assert encoder.tau_s == 4.5 and encoder(draw(2, 3)).shape == (7, 2, 3)
    assert CHOICES.compose(["encoder=psc"]).encoder.tau_s == 3.0
    assert CHOICES.compose(["loss=kernel", "neuron=psc_lif", "neuron.tau_s=2.5"]).loss.tau_s == 2.5
