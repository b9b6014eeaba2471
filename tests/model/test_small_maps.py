"""The weight gradient of wide convolutions on small maps."""

import sys

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer, small_maps
from snnrun.model.small_maps import conv_of_small_maps
from snnrun.neuron import LIF
from snnrun.surrogate import ATan

SHAPES = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1x1": {"kernel_size": 1},
    "not square": {"kernel_size": (3, 2), "padding": (2, 1), "stride": (1, 2)},
    "no padding": {"kernel_size": 3},
}


def synapse(bias: bool = True, outputs: int = 6, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(5, outputs, bias=bias, dtype=torch.float64, **options)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_equals_torchs_with_its_gradients(options, bias, order):
    layer, found = synapse(bias, **options).to(memory_format=order), []
    for run in (layer, lambda x: conv_of_small_maps(layer, x)):
        layer.zero_grad()
        x = drawn(7, 5, 4, 4).contiguous(memory_format=order).requires_grad_()
        y = run(x)
        (y * drawn(*y.shape)).sum().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    assert len(found[0]) == 3 + bias
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_can_be_differentiated():
    layer = synapse(kernel_size=3, padding=1, outputs=2)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        layer.__dict__.update(weight=weight, bias=bias)
        return conv_of_small_maps(layer, x)

    inputs = [drawn(1, 5, 2, 2), layer.weight.detach(), layer.bias.detach()]
    del layer._parameters["weight"], layer._parameters["bias"]
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def chosen(layer: nn.Conv2d, x: Tensor, monkeypatch) -> bool:
    """Whether a layer takes it: seen by its call."""
    calls = []
    monkeypatch.setattr(
        sys.modules["snnrun.model.layers"],
        "conv_of_small_maps",
        lambda synapse, x: calls.append(1) or conv_of_small_maps(synapse, x),
    )
    Layer(layer, None, LIF(ATan()))(x)
    return bool(calls)


def test_it_is_chosen_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(small_maps, "WEIGHTS", 100)
    layer, x = synapse(kernel_size=3, padding=1), drawn(2, 3, 5, 4, 4)
    assert chosen(layer, x, monkeypatch)
    assert not chosen(layer, drawn(2, 3, 5, 5, 4), monkeypatch)  # 20 pixels
    assert chosen(synapse(kernel_size=3, padding=1, stride=2), drawn(2, 3, 5, 8, 8), monkeypatch)
    monkeypatch.setattr(small_maps, "WEIGHTS", 1 << 20)
    assert not chosen(layer, x, monkeypatch)


@pytest.mark.parametrize(
    "options",
    [{"groups": 5, "outputs": 5}, {"dilation": 2, "padding": 2}, {"padding": "same"}],
    ids=["groups", "dilation", "padding in words"],
)
def test_other_convolutions_are_torchs(options, monkeypatch):
    monkeypatch.setattr(small_maps, "WEIGHTS", 1)
    options = {"padding": 1, **options}
    assert not chosen(synapse(kernel_size=3, **options), drawn(2, 3, 5, 4, 4), monkeypatch)


def test_nothing_is_chosen_without_gradient_under_hooks_or_torch_func(monkeypatch):
    monkeypatch.setattr(small_maps, "WEIGHTS", 1)
    layer, x = synapse(kernel_size=3, padding=1), drawn(2, 3, 5, 4, 4)
    with torch.no_grad():
        assert not chosen(layer, x, monkeypatch)
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append(small_maps.small_maps(layer, x))
        return x.sum()

    torch.func.grad(watched)(x)
    torch.func.vmap(watched)(x[None])
    assert seen == [False, False]
    hook = layer.register_forward_hook(lambda *_: None)
    assert not chosen(layer, x, monkeypatch)
    hook.remove()
    layer.weight.requires_grad_(False)
    assert not chosen(layer, x, monkeypatch)
