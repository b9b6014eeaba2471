"""Direct (constant current) coding."""

from torch import Tensor, nn


class Direct(nn.Module):
    r"""Feed the input as a current: a static input at every step, a sequence as it is.

    $$x_t = x \quad \text{or} \quad x_t = x[t]$$

    A static input is repeated with stride 0, not copied, so that the first synapse can be computed once.

    **Arguments:**

    - `steps`: number of time steps T.
    - `static`: whether the input lacks a time axis; the runner passes it.

    Rathi & Roy, *DIET-SNN*, 2020.
    """

    traits = frozenset({"current"})

    def __init__(self, steps: int, static: bool):
        super().__init__()
        self.steps, self.static = steps, static

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)` or `(T, B, ...)` to `(T, B, ...)`."""
        return x.expand(self.steps, *x.shape) if self.static else x
