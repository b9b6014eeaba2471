"""Surrogates made of bell curves."""

import math

import torch
from torch import Tensor

from snnrun.surrogate.base import Surrogate


def bell(v: Tensor, mean: float, sigma: float) -> Tensor:
    """The normal density of mean `mean` and standard deviation `sigma` at `v`."""
    z = (v - mean) / sigma
    return torch.exp(-0.5 * (z * z)) / (math.sqrt(2 * math.pi) * sigma)


class Erf(Surrogate):
    r"""Derivative of an error function.

    $$\sigma'(v) = \frac{\alpha}{\sqrt{\pi}} e^{-\alpha^2 v^2}$$

    **Arguments:**

    - `alpha`: steepness.

    Esser et al., *Convolutional networks for fast, energy-efficient neuromorphic computing*, 2016.
    """

    def __init__(self, alpha: float = 2.0):
        super().__init__()
        self.alpha = alpha

    def derivative(self, v: Tensor) -> Tensor:
        scaled = self.alpha * v
        return self.alpha / math.sqrt(math.pi) * torch.exp(-(scaled * scaled))


class Gaussian(Surrogate):
    r"""A normal density around the threshold.

    $$\sigma'(v) = \frac{1}{\sqrt{2\pi}\,\sigma} e^{-v^2 / 2\sigma^2}$$

    **Arguments:**

    - `sigma`: standard deviation, in units of the potential.

    Wu et al., *Spatio-temporal backpropagation*, 2018, eq. 27 (curve h4).
    """

    def __init__(self, sigma: float = 0.5):
        super().__init__()
        self.sigma = sigma

    def derivative(self, v: Tensor) -> Tensor:
        return bell(v, 0.0, self.sigma)


class MultiGaussian(Surrogate):
    r"""A normal density with shallow negative lobes on both sides.

    $$\sigma'(v) = \gamma \left[(1 + h) N(v; 0, \sigma) - h N(v; \sigma, s\sigma) - h N(v; -\sigma, s\sigma)\right]$$

    **Arguments:**

    - `sigma`: standard deviation of the central bell.
    - `height`: weight h of the lobes.
    - `scale`: width s of the lobes relative to `sigma`.
    - `gamma`: overall factor.

    Yin, Corradi & Bohte, *Accurate and efficient time-domain classification with adaptive SNNs*, 2021, eq. 11.
    """

    def __init__(
        self, sigma: float = 0.5, height: float = 0.15, scale: float = 6.0, gamma: float = 0.5
    ):
        super().__init__()
        self.sigma, self.height, self.scale, self.gamma = sigma, height, scale, gamma

    def derivative(self, v: Tensor) -> Tensor:
        wide = self.scale * self.sigma
        lobes = bell(v, self.sigma, wide) + bell(v, -self.sigma, wide)
        return self.gamma * ((1 + self.height) * bell(v, 0.0, self.sigma) - self.height * lobes)
