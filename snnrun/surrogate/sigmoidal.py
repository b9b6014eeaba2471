"""Surrogates that are derivatives of a smooth sigmoid-like curve."""

import math

import torch
from torch import Tensor

from snnrun.surrogate.base import Surrogate


class ATan(Surrogate):
    r"""Derivative of an arc tangent.

    $$\sigma'(v) = \frac{\alpha/2}{1 + (\pi \alpha v / 2)^2}$$

    **Arguments:**

    - `alpha`: steepness; the derivative at the threshold is `alpha / 2`.

    Fang et al., *Incorporating learnable membrane time constant*, ICCV 2021.
    """

    def __init__(self, alpha: float = 2.0):
        super().__init__()
        self.alpha = alpha

    def derivative(self, v: Tensor) -> Tensor:
        scaled = v * (math.pi / 2 * self.alpha)
        return self.alpha / 2 / (1 + scaled * scaled)


class Sigmoid(Surrogate):
    r"""Derivative of a logistic sigmoid.

    $$\sigma'(v) = \alpha\, k(\alpha v) (1 - k(\alpha v)), \qquad k(u) = 1 / (1 + e^{-u})$$

    **Arguments:**

    - `alpha`: steepness; the derivative at the threshold is `alpha / 4`.

    Neftci, Mostafa & Zenke 2019, section on smoothed networks.
    """

    def __init__(self, alpha: float = 4.0):
        super().__init__()
        self.alpha = alpha

    def derivative(self, v: Tensor) -> Tensor:
        k = torch.sigmoid(self.alpha * v)
        return self.alpha * k * (1 - k)


class ClippedSigmoid(Surrogate):
    r"""Derivative of a logistic sigmoid of a given width, which no longer falls far from the threshold.

    $$\sigma'(v) = \frac{1}{w} k(z) (1 - k(z)), \qquad z = \min(c, \max(-c, v / w))$$

    **Arguments:**

    - `width`: w; the derivative at the threshold is 1 / (4 w).
    - `clip`: c.

    Yang, *Temporal Surrogate Back-propagation for Spiking Neural Networks*, 2020; it is also the dense derivative of
    TSSL-BP (Zhang & Li 2020).
    """

    def __init__(self, width: float = 0.2, clip: float = 8.0):
        super().__init__()
        if width <= 0 or clip <= 0:
            raise ValueError(f"width and clip must be above 0, got {width} and {clip}.")
        self.width, self.clip = width, clip

    def derivative(self, v: Tensor) -> Tensor:
        e = torch.exp(-(v.abs() / self.width).clamp(max=self.clip))
        return e / (self.width * ((1 + e) * (1 + e)))


class FastSigmoid(Surrogate):
    r"""Derivative of a fast sigmoid, scaled to 1 at the threshold (SuperSpike).

    $$\sigma'(v) = \frac{1}{(1 + \alpha |v|)^2}$$

    **Arguments:**

    - `alpha`: steepness. Some libraries multiply the whole by it; this one does not.

    Zenke & Ganguli, *SuperSpike*, 2018, eq. 13.
    """

    def __init__(self, alpha: float = 25.0):
        super().__init__()
        self.alpha = alpha

    def derivative(self, v: Tensor) -> Tensor:
        denominator = 1 + self.alpha * v.abs()
        return 1 / (denominator * denominator)


class SoftSign(Surrogate):
    r"""Derivative of a soft sign that runs from 0 to 1.

    $$\sigma'(v) = \frac{\alpha/2}{(1 + \alpha |v|)^2}$$

    **Arguments:**

    - `alpha`: steepness; the derivative at the threshold is `alpha / 2`.

    Neftci, Mostafa & Zenke 2019.
    """

    def __init__(self, alpha: float = 2.0):
        super().__init__()
        self.alpha = alpha

    def derivative(self, v: Tensor) -> Tensor:
        denominator = 1 + self.alpha * v.abs()
        return self.alpha / 2 / (denominator * denominator)


class Dspike(Surrogate):
    r"""Derivative of a hyperbolic tangent, cut to one unit around the threshold.

    $$\sigma'(v) = \frac{b}{2 \tanh(b/2)} \left(1 - \tanh^2(b v)\right) \quad \text{for } |v| < 1/2, \text{ else } 0$$

    **Arguments:**

    - `b`: temperature, from nearly rectangular (small) to steep (large).

    Li et al., *Differentiable Spike*, NeurIPS 2021, eq. 9.
    """

    def __init__(self, b: float = 2.0):
        super().__init__()
        self.b = b

    def derivative(self, v: Tensor) -> Tensor:
        curve = torch.tanh(self.b * v)
        slope = self.b / (2 * math.tanh(self.b / 2)) * (1 - curve * curve)
        return torch.where(v.abs() < 0.5, slope, torch.zeros_like(v))
