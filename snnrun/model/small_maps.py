"""Wide convolutions on maps of a few pixels: on the CPU, their weight gradient as one matrix product."""

from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional, grad

# measured, on one thread and two
PIXELS = 16  # of an output map, up to which the product is faster than torch's own gradient
WEIGHTS = 1 << 20  # of a layer, from which it is


def small_maps(synapse: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether `conv_of_small_maps` trains faster than `synapse(x)`, `x` being `(T, B, C, H, W)`."""
    if type(synapse) is not nn.Conv2d or x.device.type != "cpu" or x.dim() != 5:
        return False
    weight, kinds = synapse.weight, (synapse.groups, *synapse.dilation, synapse.padding_mode)
    if kinds != (1, 1, 1, "zeros") or isinstance(synapse.padding, str):
        return False
    if weight.numel() < WEIGHTS or not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    if torch.is_autocast_enabled("cpu") or x.dtype != weight.dtype or type(x) is not Tensor:
        return False
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    if synapse._forward_hooks or synapse._forward_pre_hooks:
        return False
    sides = zip(x.shape[-2:], weight.shape[-2:], synapse.padding, synapse.stride, strict=True)
    height, width = ((n + 2 * p - k) // stride + 1 for n, k, p, stride in sides)
    return 0 < height * width <= PIXELS


def conv_of_small_maps(synapse: nn.Conv2d, x: Tensor) -> Tensor:
    r"""What `synapse(x)` gives, `(N, C, H, W)`; the gradient of its weights is $\delta^\top X$.

    $\delta$ has a row for every pixel of every output map, $X$ the patch of the input that the pixel sees. The gradient
    is that of torch but for the order of the sum, and can be differentiated again.
    """
    y = _Conv.apply(x, synapse.weight, synapse.bias, synapse.stride, synapse.padding)
    return y  # pyright: ignore[reportReturnType]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, above: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        to_input = partial(grad.conv2d_input, stride=ctx.stride, padding=ctx.padding)
        wanted = ctx.needs_input_grad
        return (
            to_input(x.shape, weight, above) if wanted[0] else None,
            _of_weight(x, weight.shape, above, ctx.stride, ctx.padding) if wanted[1] else None,
            above.sum((0, 2, 3)) if wanted[2] else None,
            None,
            None,
        )


def _of_weight(
    x: Tensor,
    shape: torch.Size,
    above: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    (down, across), (tall, wide) = padding, shape[2:]
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, across, across, down, down))
    patches = padded.unfold(1, tall, stride[0]).unfold(2, wide, stride[1])  # N, H, W, C, tall, wide
    patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, tall * wide * x.shape[1])
    delta = above.permute(0, 2, 3, 1).reshape(len(patches), -1)
    return (delta.t() @ patches).unflatten(1, (tall, wide, -1)).permute(0, 3, 1, 2)
