"""A linear map that reads only the inputs that fire: for sequences in which few do, on the CPU."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

from snnrun.encoder.profile import factors

# measured, forward and backward
FEW = (
    0.1  # share of inputs that fire, below which reading them alone is faster than a matrix product
)
WIDE = 256  # outputs, below which finding the events costs what the product would
WORK = 1 << 20  # products, below which one thread is enough


def few_events(synapse: nn.Module, x: Tensor) -> TypeGuard[nn.Linear]:
    """Whether `linear_of_events` beats `synapse(x)`: a plain linear layer on the CPU, nearly all of `x` zero."""
    if type(synapse) is not nn.Linear or x.device.type != "cpu" or synapse.out_features < WIDE:
        return False
    if x.dtype not in (torch.float32, torch.float64) or x.dtype != synapse.weight.dtype:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or x.is_meta:
        return False
    if synapse._forward_hooks or synapse._forward_pre_hooks or factors(x):
        return False
    if x.stride(0) == 0:  # one step repeated, which is computed once
        return False
    return int(torch.count_nonzero(x)) < FEW * x.numel()


def linear_of_events(synapse: nn.Linear, x: Tensor) -> Tensor:
    r"""$y_n = \sum_{i: x_{ni} \ne 0} x_{ni}\, w_{\cdot i} + b$: what `synapse(x)` gives, but for the order of the sum.

    The gradient of the weights takes the same events; that of the input is a matrix product, if it is wanted.

    **Arguments:**

    - `synapse`: a linear layer, float32 or float64, on the CPU.
    - `x`: `(..., in_features)`.
    """
    rows = x.reshape(-1, x.shape[-1])
    y = _Linear.apply(rows, synapse.weight, synapse.bias)
    return y.unflatten(0, x.shape[:-1])  # pyright: ignore[reportAttributeAccessIssue]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        from snnrun.model import event_kernel as kernel  # compiles on first use

        x = x.contiguous()
        starts = x.new_zeros(len(x) + 1, dtype=torch.int64)
        torch.cumsum(torch.count_nonzero(x, 1), 0, out=starts[1:])
        index = starts.new_empty(int(starts[-1]), dtype=torch.int32)
        value = x.new_empty(len(index))
        table = weight.detach().t().contiguous()
        out = x.new_empty(len(x), weight.shape[0])
        first = x.new_zeros(weight.shape[0]) if bias is None else bias.detach().contiguous()
        arrays = [t.numpy() for t in (x.detach(), starts, index, value, table, first, out)]
        _share(len(x), out.numel(), lambda low, high: kernel.forward(*arrays, low, high))
        ctx.save_for_backward(starts, index, value, weight)
        ctx.biased = bias is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        from snnrun.model import event_kernel as kernel

        starts, index, value, weight = ctx.saved_tensors
        grad_weight = None
        if ctx.needs_input_grad[1]:
            table = torch.zeros(weight.shape[::-1], dtype=weight.dtype)
            arrays = [t.numpy() for t in (starts, index, value, grad.contiguous(), table)]
            _share(
                len(weight),
                grad.numel(),
                lambda low, high: kernel.weight_gradient(*arrays, low, high),
            )
            grad_weight = table.t().contiguous()
        return (
            grad @ weight if ctx.needs_input_grad[0] else None,
            grad_weight,
            grad.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None,
        )


def _share(count: int, work: int, run: Callable[[int, int], None]) -> None:
    """`run(low, high)` over all of `count`, on as many threads as torch uses; the result does not depend on them."""
    threads = min(torch.get_num_threads(), max(1, work // WORK), count) or 1
    bounds = [count * i // threads for i in range(threads + 1)]
    shares = list(pairwise(bounds))
    rest = [_pool(os.getpid(), threads).submit(run, *share) for share in shares[1:]]
    run(*shares[0])
    for future in rest:
        future.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "snnrun-events")
