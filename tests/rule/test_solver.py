"""Solvers of the implicit equation against a dense solve."""

import pytest
import torch
from torch import Tensor

from snnrun.rule.solver import broyden, fixed_point


def system(samples: int, size: int, norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """Jacobians with this spectral norm, a right-hand side, and the solution."""
    generator = torch.Generator().manual_seed(size)
    j = torch.randn(samples, size, size, generator=generator, dtype=torch.float64)
    j = norm * j / torch.linalg.matrix_norm(j, 2)[:, None, None]
    g = torch.randn(samples, size, generator=generator, dtype=torch.float64)
    eye = torch.eye(size, dtype=torch.float64)
    return j, g, torch.linalg.solve(eye - j.mT, g.unsqueeze(2)).squeeze(2)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_broyden_is_exact_after_twice_the_dimension(size):
    """Gay 1979: on linear equations Broyden's method ends after at most 2n steps."""
    j, g, exact = system(4, size, 0.9)
    calls = []

    def transposed(q: Tensor) -> Tensor:
        calls.append(1)
        return torch.einsum("bij,bi->bj", j, q)

    found = broyden(transposed, g, max_iter=100)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-9)
    assert len(calls) <= 2 * size + 1


def test_samples_are_solved_by_themselves():
    j, g, _ = system(5, 6, 0.8)
    together = broyden(lambda q: torch.einsum("bij,bi->bj", j, q), g, max_iter=7)
    alone = [
        broyden(lambda q, n=n: torch.einsum("bij,bi->bj", j[n], q), g[n], max_iter=7)
        for n in (slice(i, i + 1) for i in range(5))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_a_shorter_memory_still_converges():
    j, g, exact = system(3, 40, 0.5)
    found = broyden(lambda q: torch.einsum("bij,bi->bj", j, q), g, max_iter=60, memory=5)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


def test_the_best_iterate_is_returned():
    """An equation that Broyden's first steps make worse."""
    j, g, _ = system(1, 30, 6.0)
    residual = lambda q: torch.linalg.vector_norm(g + torch.einsum("bij,bi->bj", j, q) - q)  # noqa: E731
    found = broyden(lambda q: torch.einsum("bij,bi->bj", j, q), g, max_iter=3)
    assert residual(found) <= residual(torch.zeros_like(g))
    assert torch.equal(found, torch.zeros_like(g))


def test_nothing_to_solve():
    zero = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.equal(broyden(lambda q: q * float("nan"), zero), zero)
    g = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    found = broyden(lambda q: 0.5 * q, g)
    torch.testing.assert_close(found, 2 * g, rtol=1e-12, atol=0)


def test_the_damped_iteration():
    j, g, exact = system(4, 12, 0.7)
    apply = lambda q: torch.einsum("bij,bi->bj", j, q)  # noqa: E731
    q = torch.zeros_like(g)
    for _ in range(5):
        q = 0.5 * q + 0.5 * (apply(q) + g)
    torch.testing.assert_close(fixed_point(apply, g, max_iter=5), q, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(fixed_point(apply, g, max_iter=300), exact, rtol=1e-9, atol=1e-9)
