"""Surrogate derivatives of the spike."""

from snnrun.surrogate.base import Surrogate
from snnrun.surrogate.gaussian import Erf, Gaussian, MultiGaussian
from snnrun.surrogate.piecewise import PiecewiseQuadratic, Rectangle, Triangle
from snnrun.surrogate.sigmoidal import ATan, ClippedSigmoid, Dspike, FastSigmoid, Sigmoid, SoftSign

__all__ = [
    "ATan",
    "ClippedSigmoid",
    "Dspike",
    "Erf",
    "FastSigmoid",
    "Gaussian",
    "MultiGaussian",
    "PiecewiseQuadratic",
    "Rectangle",
    "Sigmoid",
    "SoftSign",
    "Surrogate",
    "Triangle",
]
