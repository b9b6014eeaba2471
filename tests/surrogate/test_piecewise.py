"""Surrogates made of straight pieces, by their papers' definitions and areas."""

import math

import numpy as np
import pytest
import torch

from snnrun.surrogate import PiecewiseQuadratic, Rectangle, Triangle

V = torch.linspace(-3, 3, 60_001, dtype=torch.float64)


def area(slope: torch.Tensor) -> float:
    return torch.trapezoid(slope, V).item()


@pytest.mark.parametrize("width", [0.5, 1.0, 4.0])
def test_rectangle(width):
    slope = Rectangle(width).derivative(V)
    expected = np.where(np.abs(V.numpy()) < width / 2, 1 / width, 0)
    np.testing.assert_array_equal(slope.numpy(), expected)
    assert area(slope) == pytest.approx(1, abs=1e-3)


def test_rectangle_excludes_its_edges():
    slope = Rectangle(1.0).derivative(torch.tensor([-0.5, -0.499, 0.499, 0.5]))
    assert slope.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_triangle(gamma):
    slope = Triangle(gamma).derivative(V)
    inside = gamma * np.maximum(0, 1 - gamma * np.abs(V.numpy()))
    np.testing.assert_allclose(slope.numpy(), inside, rtol=1e-12, atol=1e-12)
    assert area(slope) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("a", [0.75, 1.0, 4.0, 16.0])
def test_piecewise_quadratic_is_the_papers_curve(a):
    """STBP, eq. 25: (sqrt(a)/2 - a/4 |u|) sign(2/sqrt(a) - |u|) inside its support, of area 1."""
    slope = PiecewiseQuadratic(a).derivative(V)
    u = np.abs(V.numpy())
    expected = (math.sqrt(a) / 2 - a / 4 * u) * (np.sign(2 / math.sqrt(a) - u) > 0)
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert area(slope) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("a", [1.0, 4.0])
def test_piecewise_quadratic_is_the_slope_of_two_parabolas(a):
    """The step made of two parabolas that meet in 1/2 at the threshold."""

    def curve(v):
        end = 2 / math.sqrt(a)
        v = np.clip(v, -end, end)
        return 0.5 + math.sqrt(a) / 2 * v - np.sign(v) * a / 8 * v * v

    v = V.numpy()[::37] + 1e-4
    assert curve(-9.0) == pytest.approx(0) and curve(9.0) == pytest.approx(1)
    numeric = (curve(v + 1e-6) - curve(v - 1e-6)) / 2e-6
    given = PiecewiseQuadratic(a).derivative(torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(given, numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("a", [1.0, 4.0])
def test_piecewise_quadratic_is_a_triangle_of_other_words(a):
    other = Triangle(math.sqrt(a) / 2).derivative(V)
    torch.testing.assert_close(PiecewiseQuadratic(a).derivative(V), other, rtol=1e-12, atol=1e-12)
