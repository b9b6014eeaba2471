"""The Heaviside step and its surrogate derivative."""

import torch
from torch import Tensor, nn


class Surrogate(nn.Module):
    r"""A Heaviside step forward with a smooth derivative backward.

    $$s = H(v), \qquad \partial s / \partial v := \sigma'(v)$$

    A subclass writes `derivative` only. `v` is the distance of the membrane potential from the threshold.

    Neftci, Mostafa & Zenke, *Surrogate gradient learning in spiking neural networks*, 2019.
    """

    traits = frozenset({"surrogate"})

    def derivative(self, v: Tensor) -> Tensor:
        """The pseudo-derivative at `v`, elementwise and of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} must define derivative(v).")

    def forward(self, v: Tensor, strict: bool = False) -> Tensor:
        """1 where `v >= 0` (`v > 0` with `strict`), else 0, in the dtype of `v`."""
        return _Spike.apply(v, self, strict)  # pyright: ignore[reportReturnType]


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(v: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        return (v > 0 if strict else v >= 0).to(v.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        v, ctx.surrogate, _ = inputs
        ctx.save_for_backward(v)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (v,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(v), None, None
