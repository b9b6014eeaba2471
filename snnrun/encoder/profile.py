"""A sequence that is one image times a number for each step: what passes on that knowledge, and what uses it."""

import torch
from torch import Tensor


def with_profile(image: Tensor, profile: Tensor) -> Tensor:
    r"""The sequence $x_t = c_t\, x$, which remembers its factors: a linear map of it need only be computed once.

    Whatever makes another tensor of it drops the knowledge, which costs time and nothing else.

    **Arguments:**

    - `image`: x, `(B, ...)`.
    - `profile`: c, `(T,)`.
    """
    x = profile.view(-1, *[1] * image.dim()) * image
    x.factors = (profile, image)  # pyright: ignore[reportAttributeAccessIssue]
    return x


def factors(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Profile and image of a sequence made by `with_profile`; None for any other."""
    return getattr(x, "factors", None)


def flat(x: Tensor) -> Tensor:
    """`(T, B, ...)` to `(T, B, features)`, still knowing its factors."""
    y = x.flatten(2)
    if known := factors(x):
        y.factors = (known[0], known[1].flatten(1))  # pyright: ignore[reportAttributeAccessIssue]
    return y


def linear_over_time(
    module: torch.nn.Linear | torch.nn.Conv2d, profile: Tensor, image: Tensor
) -> Tensor:
    """A linear map of the sequence $c_t x$, computed once and scaled; its bias is not scaled."""
    once = module(image)
    c = profile.to(once.dtype).view(-1, *[1] * once.dim())
    y = c * once
    if module.bias is None:
        return y
    return y + (1 - c) * module.bias.to(once.dtype).view(-1, *[1] * (once.dim() - 2))
