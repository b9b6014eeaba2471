"""How a step of a tensor lies in memory, seen as rows of contiguous elements.

All tensors of one call are walked in the memory order of the input, so that channels_last input needs no copy and gives
channels_last output. A step is `outer` rows of `inner` elements; a dense step is one row.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

SHORT = 32  # rows shorter than this are not worth it: the tensor is copied to one row


@dataclass(frozen=True)
class Layout:
    """The shape of a step, and the order in which its elements are walked.

    **Arguments:**

    - `shape`: of a step.
    - `order`: its dimensions, from the slowest to the fastest.
    - `split`: how many of them number the rows; the others lie within a row.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    split: int

    @cached_property
    def sizes(self) -> list[int]:
        """The sizes of the dimensions in memory order."""
        return [self.shape[d] for d in self.order]

    @cached_property
    def back(self) -> list[int]:
        """The order that undoes `order`."""
        return [self.order.index(d) for d in range(len(self.order))]

    @cached_property
    def outer(self) -> int:
        """Number of rows."""
        return _product(self.sizes[: self.split])

    @cached_property
    def inner(self) -> int:
        """Length of a row."""
        return _product(self.sizes[self.split :])

    def like(self, x: Tensor, steps: int) -> Tensor:
        """An empty tensor of `steps` steps, dense in memory order."""
        empty = torch.empty((steps, *self.sizes), dtype=x.dtype, device=x.device)
        return empty.permute(0, *(d + 1 for d in self.back))

    def step(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An empty step, dense in memory order."""
        return torch.empty(self.sizes, dtype=dtype, device=like.device).permute(self.back)

    def dense(self, step: Tensor) -> Tensor:
        """A step (or what broadcasts to one), dense in memory order; copied only if it is not."""
        return step.expand(self.shape).permute(self.order).contiguous()

    def rows(self, x: Tensor) -> "Rows":
        """A tensor over time as rows; copied only if it does not lie so, and only one step if all are the same."""
        strides = x.stride()
        inside = [strides[d + 1] for d in self.order]
        outer = _uniform(self.sizes[: self.split], inside[: self.split])
        inner = _uniform(self.sizes[self.split :], inside[self.split :])
        if outer is not None and inner in (0, 1) and (inner == 1 or self.inner == 1):
            return Rows(x, strides[0], outer)
        if strides[0] == 0 and len(x) > 1:
            return Rows(self.dense(x[0]), 0, self.inner)
        copy = x.permute(0, *(d + 1 for d in self.order)).contiguous()
        return Rows(copy, self.outer * self.inner, self.inner)


@dataclass(frozen=True)
class Rows:
    """A tensor and the strides (in elements) from step to step and from row to row."""

    tensor: Tensor
    time: int
    outer: int


def layout(x: Tensor) -> Layout:
    """How the steps of `x` (T, B, ...) lie."""
    shape, strides = tuple(x.shape[1:]), tuple(x.stride()[1:])
    plain = all(type(n) is int for n in (*shape, *strides))  # symbols under torch.compile
    return (_known_layout if plain else _layout)(shape, strides)


def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout:
    natural = tuple(range(len(shape)))
    if any(stride == 0 and size > 1 for size, stride in zip(shape, strides, strict=True)):
        return Layout(shape, natural, 0)
    # dimensions of one element have any stride: they stay where they stand among the others
    order, wide = list(natural), [d for d in natural if shape[d] > 1]
    for d, by_stride in zip(wide, sorted(wide, key=lambda d: -strides[d]), strict=True):
        order[d] = by_stride
    sizes, inside = [shape[d] for d in order], [strides[d] for d in order]
    for split in range(len(sizes) + 1):
        if _uniform(sizes[:split], inside[:split]) is None:
            break
        if _uniform(sizes[split:], inside[split:]) == 1:
            if split and _product(sizes[split:]) < SHORT:
                break
            return Layout(shape, tuple(order), split)
    return Layout(shape, tuple(order), 0)


_known_layout = lru_cache(1024)(_layout)


def _uniform(sizes: list[int], strides: list[int]) -> int | None:
    """The stride of some dimensions taken as one; None if they cannot be."""
    found, span = None, 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size == 1:
            continue
        if found is None:
            found, span = stride, stride * size
        elif stride != span:
            return None
        else:
            span *= size
    return 1 if found is None else found


def _product(sizes: list[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
