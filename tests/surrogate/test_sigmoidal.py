"""Surrogates that are derivatives of a smooth curve: each against the numerical slope of that curve."""

import numpy as np
import pytest
import torch

from snnrun.surrogate import ATan, ClippedSigmoid, Dspike, FastSigmoid, Sigmoid, SoftSign

V = np.linspace(-3, 3, 240) + 0.0007  # off the kinks at 0 and 1/2
STEEPNESS = pytest.mark.parametrize("a", [0.5, 2.0, 7.0])


def given(surrogate) -> np.ndarray:
    return surrogate.derivative(torch.from_numpy(V)).numpy()


def slope(curve) -> np.ndarray:
    """The central difference of a curve from 0 to 1."""
    return (curve(V + 1e-6) - curve(V - 1e-6)) / 2e-6


@STEEPNESS
def test_atan_is_the_slope_of_an_arc_tangent(a):
    expected = slope(lambda v: 0.5 + np.arctan(np.pi / 2 * a * v) / np.pi)
    np.testing.assert_allclose(given(ATan(a)), expected, rtol=1e-4, atol=1e-8)


@STEEPNESS
def test_sigmoid_is_the_slope_of_a_logistic_curve(a):
    expected = slope(lambda v: 1 / (1 + np.exp(-a * v)))
    np.testing.assert_allclose(given(Sigmoid(a)), expected, rtol=1e-4, atol=1e-8)


@STEEPNESS
def test_clipped_sigmoid_is_the_slope_of_a_logistic_curve_up_to_its_clip(a):
    expected = slope(lambda v: 1 / (1 + np.exp(-a * v)))
    np.testing.assert_allclose(
        given(ClippedSigmoid(1 / a, clip=50.0)), expected, rtol=1e-4, atol=1e-8
    )
    cut = given(ClippedSigmoid(1 / a, clip=1.0))
    inside = a * np.abs(V) < 1
    np.testing.assert_allclose(cut[inside], expected[inside], rtol=1e-4)
    floor = a * np.exp(1) / (1 + np.exp(1)) ** 2
    np.testing.assert_allclose(cut[~inside], floor, rtol=1e-12)


@STEEPNESS
def test_soft_sign_is_the_slope_of_a_soft_sign(a):
    expected = slope(lambda v: 0.5 + a * v / (1 + a * np.abs(v)) / 2)
    np.testing.assert_allclose(given(SoftSign(a)), expected, rtol=1e-4, atol=1e-8)


@STEEPNESS
def test_fast_sigmoid_is_the_slope_of_a_fast_sigmoid_scaled_to_one(a):
    expected = slope(lambda v: v / (1 + a * np.abs(v)))
    np.testing.assert_allclose(given(FastSigmoid(a)), expected, rtol=1e-4, atol=1e-8)
    assert FastSigmoid(a).derivative(torch.zeros(1)).item() == 1


@STEEPNESS
def test_dspike_is_the_slope_of_a_scaled_tanh_between_zero_and_one(a):
    def curve(v):
        inside = np.clip(v, -0.5, 0.5)
        return 0.5 + np.tanh(a * inside) / (2 * np.tanh(a / 2))

    np.testing.assert_allclose(curve(np.array([-0.5, 0.5])), [0, 1], atol=1e-15)
    np.testing.assert_allclose(given(Dspike(a)), slope(curve), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("surrogate", "height"),
    [(ATan(3.0), 1.5), (Sigmoid(3.0), 0.75), (SoftSign(3.0), 1.5), (Dspike(2.0), 1 / np.tanh(1))],
)
def test_height_at_the_threshold(surrogate, height):
    assert surrogate.derivative(torch.zeros(1)).item() == pytest.approx(height)


@pytest.mark.parametrize(
    ("surrogate", "reach"), [(ATan(2.0), 1e3), (SoftSign(2.0), 1e3), (Sigmoid(4.0), 20.0)]
)
def test_area_is_one(surrogate, reach):
    """By substitution v = sinh(u), which reaches far into the tails."""
    u = torch.linspace(-np.arcsinh(reach), np.arcsinh(reach), 200_001, dtype=torch.float64)
    area = torch.trapezoid(surrogate.derivative(u.sinh()) * u.cosh(), u).item()
    assert area == pytest.approx(1, abs=2 / reach)


@STEEPNESS
def test_area_of_fast_sigmoid_and_dspike(a):
    u = torch.linspace(-np.arcsinh(1e4), np.arcsinh(1e4), 200_001, dtype=torch.float64)
    area = torch.trapezoid(FastSigmoid(a).derivative(u.sinh()) * u.cosh(), u).item()
    assert area == pytest.approx(2 / a, rel=1e-3)
    v = torch.linspace(-0.5, 0.5, 20_001, dtype=torch.float64)
    assert torch.trapezoid(Dspike(a).derivative(v), v).item() == pytest.approx(1, abs=1e-3)


def test_dspike_is_zero_from_half_a_unit_on():
    v = torch.tensor([-0.5, 0.5, np.nextafter(0.5, 0)], dtype=torch.float64)
    at = Dspike(2.0).derivative(v)
    assert at[:2].tolist() == [0, 0] and at[2] > 0
