"""Implicit differentiation on the equilibrium state."""

from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import unchanged
from snnrun.rule.activation import clamped
from snnrun.rule.base import Learning
from snnrun.rule.bound import Bound, SpectralBound
from snnrun.rule.equilibrium import Chain, EquilibriumRule, Rates
from snnrun.rule.solver import broyden, fixed_point


class IDE(EquilibriumRule):
    r"""Implicit differentiation: the network runs, and its rate is differentiated as the fixed point that it tends to.

    $$f(z) = \sigma\left(\tfrac1D W_{L-2} \cdots \sigma\left(\tfrac1D (W_{L-1} z + F \bar x)\right) \cdots\right),
      \qquad \sigma(a) = \min(\max(a, 0), 1)$$
    $$(I - J^\top) q = \frac{\partial L}{\partial z}, \qquad
      \frac{\partial L}{\partial \vartheta} = q^\top \frac{\partial f(z)}{\partial \vartheta}$$

    z is the weighted rate of the last population; J is the Jacobian of f at z where there is one population, at f(z)
    where there are several. Nothing is kept of the steps. Norms between populations use their running statistics in
    the simulation, and those of the batch in f; only f(z) moves the running ones. The norm of the input uses those of
    the batch throughout; f(z) moves the running ones, and J once more, as in the authors' code.

    **Arguments:**

    - `solver`: `broyden`, or `fixed_point` for $q \leftarrow (q + J^\top q + \partial L / \partial z) / 2$.
    - `max_iter`: most iterations.
    - `memory`: rank-one updates that Broyden's method keeps.
    - `tolerance`: residual, a root mean square, at which Broyden's method ends.
    - `feedback_bound`: limit to the spectral norm of the feedback weights; null for none.

    Xiao, Meng, Zhang, Wang & Lin, *Training feedback spiking neural networks by implicit differentiation on the
    equilibrium state*, NeurIPS 2021.
    """

    weighted_input = True

    def __init__(
        self,
        solver: Literal["broyden", "fixed_point"] = "broyden",
        max_iter: int = 30,
        memory: int = 27,
        tolerance: float = 2e-10,
        feedback_bound: float | None = 1.0,
    ):
        super().__init__(feedback_bound)
        if solver not in ("broyden", "fixed_point"):
            raise ValueError(f"rule.solver must be broyden or fixed_point, got {solver!r}.")
        for name, value in (("max_iter", max_iter), ("memory", memory)):
            if value < 1:
                raise ValueError(f"rule.{name} must be at least 1, got {value}.")
        self.solver: Literal["broyden", "fixed_point"] = solver
        self.max_iter, self.memory, self.tolerance = max_iter, memory, tolerance

    def bound(self, limit: float, synapse: Any) -> Bound:
        """Spectral normalisation with a learned norm."""
        transposed = isinstance(synapse, nn.ConvTranspose2d)
        return SpectralBound(limit, synapse.weight, transposed=transposed)

    def attach(
        self, learner: Learning, chain: Chain, rates: Rates, z: Tensor, g: Tensor, samples: int
    ) -> Tensor:
        """The solution of the implicit equation times f(z)."""
        x = rates.rate(chain.net.input)
        y = equivalent(chain, z, chain.input(x))
        at = (z if len(chain.populations) == 1 else y.detach()).clone().requires_grad_()
        with ExitStack() as stack:
            for norm in chain.norms():
                stack.enter_context(unchanged(norm))
            around = equivalent(chain, at, chain.input(x).detach())
        return (self.solve(around, at, g) * y).sum()

    def solve(self, y: Tensor, at: Tensor, g: Tensor) -> Tensor:
        r"""The q of $(I - J^\top) q = g$ with J the Jacobian of `y` with respect to `at`."""

        def transposed(q: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(y, at, q, retain_graph=True, materialize_grads=True)
            return found

        if self.solver == "fixed_point":
            return fixed_point(transposed, g, max_iter=self.max_iter)
        options = {"max_iter": self.max_iter, "memory": self.memory, "tolerance": self.tolerance}
        return broyden(transposed, g, **options)


def equivalent(chain: Chain, z: Tensor, current: Tensor) -> Tensor:
    """Once around the loop in rates, from the last population to itself."""
    a = z
    for place, drive in enumerate(chain.maps):
        if place:
            assert drive is not None
            c = drive(a)
        else:
            c = current if drive is None else current + drive(a)
        a = clamped(c / chain.swing, 0.0, 1.0)
    return a
