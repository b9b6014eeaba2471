"""Bounds on the norm of feedback weights, so that a network with feedback has an equilibrium."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from snnrun.rule.activation import clamped


class FrobeniusBound(nn.Module):
    r"""Weights scaled down to a Frobenius norm of at most r.

    $$w' = w \min(f, r) / f, \qquad f = \|w\|_F \quad \text{or its estimate} \quad
      \sqrt{\mathrm{mean}_k \|v_k^\top w\|^2}, \quad v_k \sim N(0, 1), \quad k = 1..64$$

    No gradient flows through f.

    **Arguments:**

    - `limit`: r.
    - `norm`: `exact`, or the `estimate` from vectors drawn at every pass, in evaluation too, as in the authors' code.

    Xiao et al., *SPIDE*, Neural Networks 2023.
    """

    def __init__(self, limit: float, norm: Literal["exact", "estimate"] = "exact"):
        super().__init__()
        self.limit = limit
        self.norm: Literal["exact", "estimate"] = norm

    def forward(self, w: Tensor) -> Tensor:
        """The weights that are used."""
        with torch.no_grad():
            if self.norm == "exact":
                f = torch.linalg.vector_norm(w)
            else:
                rows = w.flatten(1)
                v = torch.randn(64, len(rows), dtype=w.dtype, device=w.device)
                f = (v @ rows).square().sum(1).mean().sqrt()
            scale = torch.where(f > self.limit, self.limit / f, 1.0).to(w.dtype)
        return w * scale

    def step(self, w: Tensor) -> None:
        """Nothing is kept from one optimiser step to the next."""


class SpectralBound(nn.Module):
    r"""Weights with a spectral norm that is learned, and used up to r.

    $$w' = \mathrm{clamp}(g, -r, r)\, w / \sigma, \qquad \sigma = u^\top W v, \quad
      v = \mathrm{unit}(W^\top u_0), \quad u = \mathrm{unit}(W v)$$

    W is the weight with a row for each output filter. The power iteration starts from the $u_0$ of the optimiser step
    before; no gradient flows through u and v.

    **Arguments:**

    - `limit`: r.
    - `weight`: the weight, whose norm g starts at.
    - `transposed`: whether its second axis is that of the output, as in a transposed convolution.

    Xiao et al., NeurIPS 2021; Miyato et al., *Spectral normalization for generative adversarial networks*, 2018.
    """

    def __init__(self, limit: float, weight: Tensor, *, transposed: bool = False):
        super().__init__()
        self.limit, self.transposed = limit, transposed
        with torch.no_grad():
            left, values, _ = torch.linalg.svd(self._rows(weight), full_matrices=False)
        self.u: Tensor
        self.register_buffer("u", left[:, 0].clone())
        self.g = nn.Parameter(values[0].clone())

    def forward(self, w: Tensor) -> Tensor:
        """The weights that are used."""
        u, v = self._vectors(w)
        sigma = torch.dot(u, self._rows(w) @ v)
        return clamped(self.g, -self.limit, self.limit) * w / sigma

    def step(self, w: Tensor) -> None:
        """One power iteration."""
        self.u.copy_(self._vectors(w)[0])

    @torch.no_grad()
    def _vectors(self, w: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(w)
        v = functional.normalize(rows.T @ self.u, dim=0)
        return functional.normalize(rows @ v, dim=0), v

    def _rows(self, w: Tensor) -> Tensor:
        return (w.transpose(0, 1) if self.transposed else w).flatten(1)


Bound = FrobeniusBound | SpectralBound


def bind(synapse: nn.Module, bound: Bound) -> None:
    """Let a module use its weight through a bound."""
    parametrize.register_parametrization(synapse, "weight", bound)


def bounds(net: nn.Module) -> list[tuple[Bound, Tensor]]:
    """The bounds in a network, each with the weight that it is given."""
    found = []
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList):
            found += [(b, module.original) for b in module if isinstance(b, Bound)]
    return found
