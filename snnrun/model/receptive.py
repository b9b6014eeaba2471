"""What each neuron of a layer reads, input by input: for neurons to which a weighted sum says too little."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def by_input(
    respond: Callable[[Tensor, Tensor], Tensor], synapse: nn.Module, x: Tensor, outside: float
) -> Tensor:
    """The outputs of neurons that see their inputs one by one, `(B, ...)` to `(B, ...)`, shaped as the synapse's sums.

    **Arguments:**

    - `respond`: inputs `(rows, inputs)` and weights `(neurons, inputs)` to outputs `(rows, neurons)`.
    - `synapse`: `nn.Linear` or `nn.Conv2d`, without bias; only its weights are used.
    - `x`: inputs.
    - `outside`: what a convolution reads beyond the image.

    Raises `ValueError` for another synapse.
    """
    match synapse:
        case nn.Linear(bias=None):
            return respond(x, synapse.weight)
        case nn.Conv2d(bias=None):
            (top, left), (bottom, right) = margins(synapse)
            padded = functional.pad(x, (left, right, top, bottom), value=outside)
            how = (synapse.kernel_size, synapse.dilation, 0, synapse.stride)
            windows = functional.unfold(padded, *how).transpose(1, 2)  # B, places, inputs
            groups = zip(
                windows.flatten(0, 1).chunk(synapse.groups, 1),
                synapse.weight.flatten(1).chunk(synapse.groups),
                strict=True,
            )
            out = torch.cat([respond(rows, weight) for rows, weight in groups], 1)
            sides = zip(padded.shape[2:], *how[:2], how[3], strict=True)
            places = [(n - d * (k - 1) - 1) // s + 1 for n, k, d, s in sides]
            return out.unflatten(0, (len(x), *places)).permute(0, 3, 1, 2)
        case _:
            raise ValueError(
                f"Inputs are weighed one by one through nn.Linear or nn.Conv2d without bias, not through {synapse}."
            )


def margins(convolution: nn.Conv2d) -> tuple[list[int], list[int]]:
    """Padding before and after each side of an image; "same" pads the odd one behind."""
    match convolution.padding:
        case "same":
            sizes = zip(convolution.dilation, convolution.kernel_size, strict=True)
            total = [dilation * (kernel - 1) for dilation, kernel in sizes]
            return [n // 2 for n in total], [n - n // 2 for n in total]
        case "valid":
            return [0, 0], [0, 0]
        case padding:
            return [int(n) for n in padding], [int(n) for n in padding]
