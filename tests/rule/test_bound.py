"""Bounds on feedback weights."""

import copy

import pytest
import torch
from torch import nn

from snnrun.rule.activation import clamped
from snnrun.rule.bound import FrobeniusBound, SpectralBound, bind, bounds


def linear(norm: float) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(6, 4, bias=False).double()
    made.weight.data *= norm / made.weight.norm()
    return made


@pytest.mark.parametrize(("norm", "expected"), [(5.0, 2.0), (1.5, 1.5), (0.0, 0.0)])
def test_the_frobenius_norm_is_cut(norm, expected):
    synapse = linear(1.0)
    synapse.weight.data *= norm
    bind(synapse, FrobeniusBound(2.0))
    assert synapse.weight.norm().item() == pytest.approx(expected)
    synapse.weight.sum().backward()
    (own,) = synapse.parameters()
    assert own.grad is not None
    scale = min(1, 2 / norm) if norm else 1  # constant in the gradient
    torch.testing.assert_close(own.grad, torch.full_like(own, scale))


def test_the_estimate_is_near_and_drawn_anew():
    synapse = linear(5.0)
    bind(synapse, FrobeniusBound(2.0, "estimate"))
    norms = torch.stack([synapse.weight.norm() for _ in range(200)])
    assert norms.std() > 0.01
    assert norms.mean().item() == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("limit", [0.1, 10.0])
def test_the_spectral_norm_is_learned_and_cut(kind, limit):
    torch.manual_seed(0)
    transposed = kind is nn.ConvTranspose2d
    synapse = (kind(6, 4) if kind is nn.Linear else kind(6, 4, 3)).double()
    matrix = lambda w: (w.transpose(0, 1) if transposed else w).flatten(1)  # noqa: E731
    start = torch.linalg.matrix_norm(matrix(synapse.weight.detach()), 2)
    before = synapse.weight.detach().clone()
    bound = SpectralBound(limit, synapse.weight, transposed=transposed)
    bind(synapse, bound)
    used = torch.linalg.matrix_norm(matrix(synapse.weight.detach()), 2)
    torch.testing.assert_close(used, start.clamp(max=limit), rtol=1e-9, atol=0)
    if limit == 10:
        torch.testing.assert_close(synapse.weight.detach(), before, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        bound.g.copy_(torch.tensor(-20.0 * limit))
    used = torch.linalg.matrix_norm(matrix(synapse.weight.detach()), 2)
    assert used.item() == pytest.approx(limit)


def test_the_power_iteration_follows_the_weights():
    synapse = linear(3.0)
    bind(synapse, SpectralBound(1.0, synapse.weight))
    ((bound, weight),) = bounds(synapse)
    assert weight is synapse.parametrizations.weight.original
    with torch.no_grad():
        weight.copy_(torch.randn_like(weight))
        far = abs(torch.linalg.matrix_norm(synapse.weight, 2).item() - 1)
        again = synapse.weight.clone()
        assert torch.equal(synapse.weight, again), "a pass changes nothing"
        for _ in range(50):
            bound.step(weight)
    assert torch.linalg.matrix_norm(synapse.weight.detach(), 2).item() == pytest.approx(1)
    assert far > 1e-3


def test_gradient_through_the_spectral_norm():
    synapse = linear(0.5)
    bound = SpectralBound(1.0, synapse.weight)

    def used(w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """With sigma in full: at the largest singular value u and v need no gradient."""
        return g * w / torch.linalg.matrix_norm(w, 2)

    for _ in range(200):
        bound.step(synapse.weight.detach())
    w = synapse.weight.detach().requires_grad_()
    target = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((bound(w) * target).sum(), [w, bound.g])
    expected = torch.autograd.grad((used(w, bound.g) * target).sum(), [w, bound.g])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_copies_and_state():
    synapse = linear(3.0)
    bind(synapse, SpectralBound(1.0, synapse.weight))
    other = copy.deepcopy(synapse)
    assert torch.equal(other.weight, synapse.weight)
    with torch.no_grad():
        other.parametrizations.weight.original.zero_()
    other.load_state_dict(synapse.state_dict(), strict=True)
    assert torch.equal(other.weight, synapse.weight)


def test_clamp_lets_gradients_through_at_its_ends():
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    y = clamped(x, 0.0, 1.0)
    assert y.tolist() == [0, 0, 0.5, 1, 1]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
