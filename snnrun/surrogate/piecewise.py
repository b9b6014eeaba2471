"""Surrogates made of straight pieces: cheap, and exactly 0 away from the threshold."""

import math

from torch import Tensor

from snnrun.surrogate.base import Surrogate


class Rectangle(Surrogate):
    r"""A box of area 1 around the threshold.

    $$\sigma'(v) = \tfrac{1}{w}\, [\,|v| < w/2\,]$$

    **Arguments:**

    - `width`: width w of the box, in units of the potential.

    Wu et al., *Spatio-temporal backpropagation*, 2018, eq. 24 (curve h1).
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.width = width

    def derivative(self, v: Tensor) -> Tensor:
        return (v.abs() < self.width / 2).to(v.dtype) / self.width


class Triangle(Surrogate):
    r"""A triangle of area 1 around the threshold.

    $$\sigma'(v) = \max(0,\ \gamma - \gamma^2 |v|)$$

    **Arguments:**

    - `gamma`: height; the base is `2 / gamma` wide.

    Deng et al., *Temporal efficient training*, ICLR 2022, eq. 5.
    """

    def __init__(self, gamma: float = 1.0):
        super().__init__()
        self.gamma = gamma

    def derivative(self, v: Tensor) -> Tensor:
        return (self.gamma - self.gamma * self.gamma * v.abs()).clamp(min=0)


class PiecewiseQuadratic(Surrogate):
    r"""Derivative of a step made of two parabolas.

    $$\sigma'(v) = \frac{\sqrt{a}}{2} - \frac{a}{4} |v| \quad \text{for } |v| < 2/\sqrt{a}, \text{ else } 0$$

    The same triangle as `surrogate=triangle` with `gamma = sqrt(a) / 2`, in the paper's own parameter.

    **Arguments:**

    - `a`: squared steepness.

    Wu et al., *Spatio-temporal backpropagation*, 2018, eq. 25 (curve h2).
    """

    def __init__(self, a: float = 1.0):
        super().__init__()
        self.a = a

    def derivative(self, v: Tensor) -> Tensor:
        return (math.sqrt(self.a) / 2 - self.a / 4 * v.abs()).clamp(min=0)
