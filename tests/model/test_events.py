"""Linear layers that read only the inputs that fire."""

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer
from snnrun.model.events import few_events, linear_of_events
from snnrun.neuron import LIF
from snnrun.surrogate import ATan


def synapse(outputs: int = 300, *, bias: bool = True, dtype=torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(37, outputs, bias=bias, dtype=dtype)


def sequence(share: float = 0.05, dtype=torch.float64, steps: int = 6) -> Tensor:
    """Events (T, B, 37) of sizes other than one; the last row has one in its last place."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 8, 37, generator=g, dtype=dtype)
    x *= torch.rand(x.shape, generator=g) < share
    x[-1, -1, -1] = -2
    return x


@pytest.mark.parametrize("bias", [False, True])
def test_equals_a_matrix_product_with_its_gradients(bias):
    layer, x = synapse(bias=bias), sequence()
    found = []
    for run in (layer, lambda x: linear_of_events(layer, x)):
        layer.zero_grad()
        given = x.clone().requires_grad_()
        y = run(given)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.is_contiguous()
        grads = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        found.append([y.detach(), given.grad, *grads])
    assert len(found[0]) == 3 + bias
    for dense, events in zip(*found, strict=True):
        torch.testing.assert_close(events, dense, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    layer, x = nn.Linear(5, 3, dtype=torch.float64), sequence()[..., :5]
    x[0, 0, 0] = 1.5
    kept = (
        x != 0
    )  # the gradient of what is zero is the product's too, but a difference quotient is dense there

    def run(weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        del layer._parameters["weight"], layer._parameters["bias"]
        layer.__dict__.update(weight=weight, bias=bias)
        return linear_of_events(layer, torch.zeros_like(x).masked_scatter(kept, values))

    inputs = [layer.weight.detach(), layer.bias.detach(), x[kept]]
    assert torch.autograd.gradcheck(run, [t.clone().requires_grad_() for t in inputs])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_result_does_not_depend_on_threads(threads, monkeypatch):
    monkeypatch.setattr("snnrun.model.events.WORK", 1)
    layer, x = synapse(dtype=torch.float32), sequence(dtype=torch.float32)
    linear_of_events(layer, x).sum().backward()
    assert layer.weight.grad is not None
    expected = linear_of_events(layer, x).detach(), layer.weight.grad.clone()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer.zero_grad()
        y = linear_of_events(layer, x)
        y.sum().backward()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(y, expected[0]) and torch.equal(layer.weight.grad, expected[1])


@pytest.mark.parametrize("x", [torch.zeros(4, 3, 37), torch.zeros(4, 0, 37)], ids=["none", "empty"])
def test_without_any_event_there_is_the_bias(x):
    layer = synapse(dtype=torch.float32)
    y = linear_of_events(layer, x)
    y.sum().backward()
    assert torch.equal(y, layer.bias.expand_as(y)) and y.shape == (*x.shape[:2], 300)
    assert layer.weight.grad is not None and not layer.weight.grad.any()


def test_is_chosen_where_it_is_faster():
    wide, x = synapse(dtype=torch.float32), sequence(dtype=torch.float32)
    assert few_events(wide, x)
    assert not few_events(wide, sequence(0.2, torch.float32))
    assert not few_events(synapse(100, dtype=torch.float32), x)
    assert not few_events(wide, x.double()) and not few_events(wide, x.to("meta"))
    assert not few_events(nn.Conv2d(1, 300, 1), x) and not few_events(wide, x[:1].expand(4, 8, 37))
    with torch.autocast("cpu", torch.bfloat16):
        assert not few_events(wide, x)
    with wide.register_forward_hook(lambda *args: None):
        assert not few_events(wide, x)


def test_a_layer_gives_the_same_spikes_and_gradients():
    x, found = sequence(steps=20), []
    for event_inputs in (False, True):
        layer = Layer(synapse(), None, LIF(ATan(), tau=2.0))
        layer.event_inputs = event_inputs
        spikes = layer(40 * x)
        spikes.square().sum().backward()
        found.append((spikes.detach(), layer.synapse.weight.grad))
    assert 0 < found[0][0].mean() < 1
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(*[grad for _, grad in found], rtol=1e-10, atol=1e-12)
