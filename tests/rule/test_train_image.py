"""Convolutions and pools: batches against single samples, strides and padding against a dense layer's effects."""

import math

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer
from snnrun.neuron import RefractoryLIF, carry
from snnrun.rule.effect_table import effect_table
from snnrun.rule.spike_train import ratios, side_effect
from snnrun.rule.train_image import SILENT, TrainConv, TrainPool, closed_marks, traces
from snnrun.surrogate import ATan

STEPS = 40


def neuron() -> RefractoryLIF:
    return RefractoryLIF(ATan(), tau_m=3.0, tau_s=2.0, threshold=0.5, tolerance=0.0)


def batch(channels: int = 2, side: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(STEPS, 3, channels, side, side, generator=generator) < 0.2).double()
    x[:, :, 0, 1, 1] = 0
    return x


def delta(out: Tensor) -> Tensor:
    return torch.randn(out.shape[1:], generator=torch.Generator().manual_seed(1)).double()


def closed(pre: Tensor, post: Tensor, refractory: int = 2) -> Tensor:
    """The closed form spike by spike, `(B, I, J)`."""
    found = torch.zeros(pre.shape[1], post.shape[2], pre.shape[2], dtype=torch.float64)
    times = [[x[:, b].t().contiguous().tolist() for b in range(x.shape[1])] for x in (pre, post)]
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        into, out = (
            [t for t, s in enumerate(x[b][n]) if s] for x, n in zip(times, (j, i), strict=True)
        )
        total, rested = 0.0 if out else SILENT * bool(into), 1
        for time in out:
            for past in into:
                a, since = time - rested, time - past - refractory
                if max(1, time - 12) <= past and since >= 0:
                    least, rest = min(a, since), max(since - a, 0)
                    total += 3 * math.exp(-rest / 2) * (math.exp(-least / 3) - math.exp(-least / 2))
            rested = time + refractory
        found[b, i, j] = total
    return found


@pytest.mark.parametrize("refractory", [2, 3])
def test_closed_form_spike_by_spike(refractory):
    """Where inputs are forgotten that lie four time constants back, and for trains that no rest keeps apart."""
    x = batch().flatten(2)[:, :, :12]
    post = torch.zeros(STEPS, 3, 2, dtype=torch.float64)
    post[[5, 8, 30, 39], 0, 0] = post[[1, 20, 23], 1, 1] = 1
    post[[10, 11, 13, 14, 30], 2, 0] = 1
    made = neuron()
    made.refractory = refractory
    terms = zip(closed_marks(post, made), traces(x, made), strict=True)
    found = sum(torch.einsum("tbi,tbj->bij", mark, trace) for mark, trace in terms)
    silent = ~post.any(0)[:, :, None] & x.any(0)[:, None]
    found = torch.where(silent, SILENT, found)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found, closed(x, post, refractory), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", [{}, {"padding": 1}, {"stride": 2}])
def test_a_convolution_is_a_dense_layer_with_shared_weights(how):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, bias=False, **how).double()
    conv.weight.data += torch.tensor([0.1, 0.1, -0.5]).view(-1, 1, 1, 1)
    layer, x = TrainConv(Layer(conv, None, neuron())), batch().requires_grad_()
    out = layer(x)
    error = delta(out)
    out.backward(error.expand_as(out))
    # all places of the output by all of the input; a weight of the matrix is a weight of the kernel
    size = x[0, 0].numel()
    unit = torch.eye(size, dtype=torch.float64).view(size, *x.shape[2:])
    matrix = nn.functional.conv2d(unit, conv.weight, **how).flatten(1).t()
    counts, post = x.detach().sum(0).flatten(1), out.sum(0).flatten(1)
    table = effect_table(neuron(), STEPS, 100)
    effect = closed(x.detach().flatten(2), out.detach().flatten(2))
    bottom = 1 - side_effect(matrix, counts, post, table) / 0.5
    gain = error.flatten(1) / 0.5 / torch.where(post == 0, 1.0, bottom)
    full = torch.einsum("bi,bij->ij", gain, effect).requires_grad_()
    (grad,) = torch.autograd.grad(matrix, conv.weight, full)
    assert conv.weight.grad is not None and x.grad is not None
    torch.testing.assert_close(conv.weight.grad, grad, rtol=1e-9, atol=1e-9)
    share = ratios(effect, counts[:, None], post[:, :, None])
    sent = torch.einsum("bi,ij,bij->bj", gain, matrix, share).view(x.shape[1:])
    torch.testing.assert_close(x.grad, sent.expand_as(x), rtol=1e-9, atol=1e-9)
    assert (post == 0).any() and (counts == 0).any() and (post > 2).any()


@pytest.mark.parametrize("ceil", [False, True])
def test_a_pool_has_one_weight_of_one_for_each_pixel_of_a_window(ceil):
    layer, x = TrainPool(2, neuron(), ceil), batch().requires_grad_()
    out = layer(x)
    side = 3 if ceil else 2
    assert out.shape == (STEPS, 3, 2, side, side)
    error = delta(out)
    out.backward(error.expand_as(out))
    assert x.grad is not None
    expected = torch.zeros(x.shape[1:], dtype=torch.float64)
    for c, y, z in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[2:])).tolist():
        if y // 2 < side and z // 2 < side:
            pre, post = x[:, :, c, y, z, None].detach(), out[:, :, c, y // 2, z // 2, None].detach()
            effect = closed(pre, post)[:, 0, 0] * (post.any(0) & pre.any(0))[:, 0]
            share = effect / pre.sum(0)[:, 0].clamp(min=1) / 4
            expected[:, c, y, z] = error[:, c, y // 2, z // 2] * share
    torch.testing.assert_close(x.grad, expected.expand_as(x), rtol=1e-10, atol=1e-12)


def test_images_stream():
    net = nn.Sequential(
        TrainConv(Layer(nn.Conv2d(2, 3, 3, bias=False), None, neuron())), TrainPool(2, neuron())
    ).double()
    x = batch()
    with torch.no_grad(), carry(net):
        chunks = torch.cat([net(chunk) for chunk in x.split([1, 20, 19])])
        assert chunks.any()
    assert torch.equal(chunks, net(x))
