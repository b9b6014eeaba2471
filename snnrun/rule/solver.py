"""Solvers of the linear equation behind implicit differentiation."""

from collections.abc import Callable

import torch
from torch import Tensor


def broyden(
    transposed: Callable[[Tensor], Tensor],
    g: Tensor,
    *,
    max_iter: int = 30,
    memory: int = 27,
    tolerance: float = 2e-10,
) -> Tensor:
    r"""Solve $(I - J^\top) q = g$ by Broyden's method, each sample with an inverse Jacobian of its own.

    With the residual $r = g + J^\top q - q$ and $\Delta q = -H r$, beginning with $H = -I$ and $q = 0$,

    $$H \leftarrow H + \frac{(\Delta q - H \Delta r)\, \Delta q^\top H}{\Delta q^\top H \Delta r}$$

    **Arguments:**

    - `transposed`: $q \mapsto J^\top q$, `(B, ...)` to the same shape.
    - `g`: the right-hand side, `(B, ...)`.
    - `max_iter`: most iterations.
    - `memory`: rank-one updates of H that are kept; the oldest goes first.
    - `tolerance`: it ends when the norm of the residual is below this times the square root of the size of `g`.

    Returns the iterate of the lowest residual.

    Broyden, *A class of methods for solving nonlinear simultaneous equations*, 1965.
    """
    shape = g.shape
    enough = tolerance * g.numel() ** 0.5
    q = torch.zeros_like(g).flatten(1)
    r = g.flatten(1)
    left, right = [], []  # H = -I + sum of outer products
    best, lowest = q, torch.linalg.vector_norm(r).item()
    for _ in range(max_iter):
        if lowest < enough:
            break
        step = r - sum_of(left, right, r)
        q = q + step
        before, r = r, (g + transposed(q.view(shape)) - q.view(shape)).flatten(1)
        norm = torch.linalg.vector_norm(r).item()
        if norm < lowest:
            best, lowest = q, norm
        change = r - before
        row = sum_of(right, left, step) - step
        scale = (row * change).sum(1, keepdim=True)
        column = step + change - sum_of(left, right, change)
        # of a sample that is solved, both are 0
        left.append(torch.where(scale == 0, 0, column / torch.where(scale == 0, 1, scale)))
        right.append(row)
        del left[:-memory], right[:-memory]
    return best.view(shape)


def sum_of(left: list[Tensor], right: list[Tensor], x: Tensor) -> Tensor:
    """The sum of `left * (right . x)`, sample by sample; 0 for empty lists."""
    if not left:
        return torch.zeros_like(x)
    along = torch.einsum("mbn,bn->mb", torch.stack(right), x)
    return torch.einsum("mb,mbn->bn", along, torch.stack(left))


def fixed_point(transposed: Callable[[Tensor], Tensor], g: Tensor, *, max_iter: int = 30) -> Tensor:
    r"""Solve $(I - J^\top) q = g$ by $q \leftarrow (q + J^\top q + g) / 2$ from 0.

    **Arguments:** as `broyden`; all iterations are made.
    """
    q = torch.zeros_like(g)
    for _ in range(max_iter):
        q = (q + transposed(q) + g) / 2
    return q
