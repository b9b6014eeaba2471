"""Surrogates made of bell curves, against densities of the standard library."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from snnrun.surrogate import Erf, Gaussian, MultiGaussian
from snnrun.surrogate.gaussian import bell

V = torch.linspace(-4, 4, 401, dtype=torch.float64)


def density(mean: float, sigma: float) -> np.ndarray:
    return np.array([NormalDist(mean, sigma).pdf(v) for v in V.tolist()])


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 0.5), (1.5, 0.2), (-0.5, 3.0)])
def test_bell(mean, sigma):
    np.testing.assert_allclose(bell(V, mean, sigma).numpy(), density(mean, sigma), rtol=1e-11)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0])
def test_gaussian(sigma):
    np.testing.assert_allclose(Gaussian(sigma).derivative(V).numpy(), density(0, sigma), rtol=1e-11)


@pytest.mark.parametrize("alpha", [0.7, 2.0, 5.0])
def test_erf_is_the_slope_of_an_error_function(alpha):
    def curve(v):
        return 0.5 * math.erfc(-alpha * v)

    expected = [(curve(v + 1e-6) - curve(v - 1e-6)) / 2e-6 for v in V.tolist()]
    np.testing.assert_allclose(Erf(alpha).derivative(V).numpy(), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("surrogate", [Gaussian(0.3), Erf(2.0)])
def test_area_is_one(surrogate):
    assert torch.trapezoid(surrogate.derivative(V), V).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.5])
@pytest.mark.parametrize("height", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("scale", [2.0, 6.0])
def test_multi_gaussian_is_the_papers_sum(sigma, height, scale):
    """Yin et al. 2021: (1+h) N(v; 0, s) - h N(v; s, p s) - h N(v; -s, p s), times gamma."""
    expected = 0.5 * (
        (1 + height) * density(0, sigma)
        - height * density(sigma, scale * sigma)
        - height * density(-sigma, scale * sigma)
    )
    given = MultiGaussian(sigma, height, scale, gamma=0.5).derivative(V)
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-9, atol=1e-13)


def test_multi_gaussian_by_one_number():
    # at 0: 0.5 / sqrt(2 pi) / 0.5 (1.15 - 2 0.15 exp(-1/72) / 6)
    expected = (1.15 - 0.05 * math.exp(-1 / 72)) / math.sqrt(2 * math.pi)
    value = MultiGaussian().derivative(torch.zeros(1, dtype=torch.float64)).item()
    assert value == pytest.approx(expected, rel=1e-12)


def test_multi_gaussian_area_is_gamma_times_one_less_than_its_lobes():
    v = torch.linspace(-60, 60, 100_001, dtype=torch.float64)
    area = torch.trapezoid(MultiGaussian().derivative(v), v).item()
    assert area == pytest.approx(0.5 * (1.15 - 0.3), abs=1e-9)
