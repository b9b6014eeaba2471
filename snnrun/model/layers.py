"""What models are made of: layers, pools and dropouts over time."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from snnrun.encoder.profile import factors, linear_over_time
from snnrun.model.events import few_events, linear_of_events
from snnrun.model.receptive import by_input
from snnrun.model.small_maps import conv_of_small_maps, small_maps
from snnrun.neuron.base import Neuron, carrying, recall, remember
from snnrun.norm.batch import BatchNorm

NeuronFactory = Callable[[int], Neuron]
NormFactory = Callable[[int], nn.Module | None]
HeadFactory = Callable[[int, int], "Layer"]


def over_time(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a stateless module to all steps of `x` (T, B, ...) as one batch; once if they are all the same.

    Once, too, if the module is linear and the steps are known to be multiples of one image.
    """
    if x.stride(0) == 0 and len(x) > 1:
        y = module(x[0])
        return y.expand(len(x), *y.shape)
    if (known := factors(x)) and isinstance(module, nn.Linear | nn.Conv2d):
        return linear_over_time(module, *known)
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Layer(nn.Module):
    """Synapse, normalisation, neuron: the unit that rules read and replace.

    **Arguments:**

    - `synapse`: a stateless module such as `nn.Linear`, `nn.Conv2d` or `nn.Identity`.
    - `norm`: a module on `(T, B, C, ...)`, or None.
    - `neuron`: a `Neuron`, or None for a layer that passes its current on.
    - `recurrent`: weights from the layer's own last output to its input; makes the layer step in a loop.

    With `recompute` set, training keeps a layer's input only and computes the rest once more in the backward pass
    (Chen et al., *Training deep nets with sublinear memory cost*, 2016). With `event_inputs` set, a linear synapse
    on the CPU reads only the inputs that fire where few do. With `fold_norm` set, a batch norm is made part of the
    weights where no gradient is wanted.
    """

    recompute = False
    event_inputs = False
    fold_norm = False

    def __init__(
        self,
        synapse: nn.Module,
        norm: nn.Module | None,
        neuron: nn.Module | None,
        recurrent: nn.Module | None = None,
    ):
        super().__init__()
        self.synapse, self.norm, self.recurrent = synapse, norm, recurrent
        self.neuron = nn.Identity() if neuron is None else neuron

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to `(T, B, ...)`."""
        if self.recompute and torch.is_grad_enabled() and not carrying():
            again = (nullcontext(), unchanged(self.norm))
            return checkpoint(self._run, x, use_reentrant=False, context_fn=lambda: again)  # pyright: ignore[reportReturnType]
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        if respond := getattr(self.neuron, "respond", None):  # there is no current
            assert isinstance(self.neuron, Neuron)
            how = partial(by_input, respond, self.synapse, outside=self.neuron.silence)
            return over_time(how, x)
        current = self.current(x)
        return (
            self.neuron(current) if self.recurrent is None else self._loop(current, self.recurrent)
        )

    def current(self, x: Tensor) -> Tensor:
        """What the neurons are fed: `(T, B, ...)` through synapse and norm."""
        norm = self.norm
        if isinstance(self.synapse, nn.Identity):
            current = x
        elif self.event_inputs and few_events(self.synapse, x):
            current = linear_of_events(self.synapse, x)
        elif self.fold_norm and (folded := with_norm(self.synapse, norm)) and not factors(x):
            current, norm = over_time(folded, x), None
        elif small_maps(self.synapse, x):
            current = over_time(partial(conv_of_small_maps, self.synapse), x)
        else:
            current = over_time(self.synapse, x)
        return current if norm is None else norm(current)

    def _loop(self, current: Tensor, recurrent: nn.Module) -> Tensor:
        assert isinstance(self.neuron, Neuron)
        carried = recall(self)
        last, state = (carried[0], carried[1:]) if carried else (None, None)
        out = []
        for current_t in current.unbind(0):
            if last is None:
                last = torch.zeros_like(current_t)
            x_t = current_t + recurrent(last)
            if state is None:
                state = self.neuron.init_state(x_t.float() if x_t.dtype.itemsize < 4 else x_t)
            y, state = self.neuron.kernel(self.neuron, x_t.unsqueeze(0), state)
            last = y[0]
            out.append(last)
        if last is not None and state is not None:
            remember(self, (last, *state))
        return torch.stack(out)


def with_norm(synapse: nn.Module, norm: nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    r"""A synapse and the batch norm behind it as one map, of weights $W w/\sqrt{\sigma^2 + \epsilon}$.

    None if that cannot be: it can in evaluation, where no gradient is wanted and nobody looks at either.
    """
    if torch.is_grad_enabled() or type(synapse) not in (nn.Linear, nn.Conv2d):
        return None
    if (
        type(norm) is not BatchNorm
        or norm.training
        or norm._forward_hooks
        or synapse._forward_hooks
    ):
        return None
    assert isinstance(synapse, nn.Linear | nn.Conv2d)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = synapse.weight * scale.view(-1, *[1] * (synapse.weight.dim() - 1))
    shift = norm.running_mean if synapse.bias is None else norm.running_mean - synapse.bias
    bias = norm.bias - shift * scale
    if isinstance(synapse, nn.Linear):
        return lambda x: functional.linear(x, weight, bias)
    return lambda x: synapse._conv_forward(x, weight, bias)


@contextmanager
def unchanged(norm: nn.Module | None) -> Iterator[None]:
    """Leave running statistics as they are: the same batch goes through twice."""
    buffers = [] if norm is None else [(buffer, buffer.clone()) for buffer in norm.buffers()]
    try:
        yield
    finally:  # recomputing stops by an exception as soon as it has what is needed
        for buffer, before in buffers:
            buffer.data.copy_(before)  # kept for the backward pass, which does not read them


class Pool(nn.Module):
    """Spatial pooling of every step.

    **Arguments:**

    - `kind`: `max`, `avg`, `sum`, or `min`, which of spike times is the earliest.
    - `size`: side of the square window; None for the whole image. What does not fill a window is left out.
    - `stride`: distance of two windows; None for `size`.
    - `padding`: rows and columns around the image that no extreme is taken of, and that count as zeros otherwise.
    - `gain`: factor on the result.
    """

    def __init__(
        self,
        kind: Literal["max", "avg", "sum", "min"],
        size: int | None,
        stride: int | None = None,
        padding: int = 0,
        gain: float = 1.0,
    ):
        super().__init__()
        self.kind: Literal["max", "avg", "sum", "min"] = kind
        self.size, self.stride, self.padding, self.gain = size, stride, padding, gain

    def extra_repr(self) -> str:
        """Kind and size; stride and padding, and the gain, where there are any."""
        more = f", stride={self.stride}, padding={self.padding}" if self.stride else ""
        gain = f", gain={self.gain}" if self.gain != 1 else ""
        return f"{self.kind}, {'whole image' if self.size is None else self.size}{more}{gain}"

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to the same with `H // size` and `W // size`, if there is neither stride nor padding."""
        pool = functional.max_pool2d if self.kind in ("max", "min") else functional.avg_pool2d
        window = tuple(x.shape[-2:]) if self.size is None else (self.size, self.size)
        x = -x if self.kind == "min" else x
        y = over_time(lambda step: pool(step, window, self.stride, self.padding), x)
        y = -y if self.kind == "min" else y
        gain = self.gain * math.prod(window) if self.kind == "sum" else self.gain
        return y if gain == 1 else y * gain


class Dropout(nn.Module):
    r"""Dropout whose mask is the same at every step, scaled by $1/(1-p)$; nothing in evaluation.

    **Arguments:**

    - `p`: probability of dropping an element.
    - `share`: `element` for a draw for every element of a sample, `row` for one for every row of an image, `step` for
      one for every element at every step.

    Lee et al., *Enabling spike-based backpropagation for training deep neural network architectures*, 2020, sec. 2.4.
    """

    def __init__(self, p: float, share: Literal["element", "row", "step"] = "element"):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}.")
        self.p = p
        self.share: Literal["element", "row", "step"] = share

    def extra_repr(self) -> str:
        """The probability, and what shares a draw."""
        return f"p={self.p}" + (f", share={self.share}" if self.share != "element" else "")

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to the same shape."""
        if not self.training or self.p == 0 or len(x) == 0:
            return x
        if self.share == "step":
            return functional.dropout(x, self.p)
        carried = recall(self)
        rows = self.share == "row" and x.dim() == 5
        ones = torch.ones_like(x[0, ..., :1] if rows else x[0])
        mask = functional.dropout(ones, self.p) if carried is None else carried[0]
        remember(self, (mask,))
        return x * mask


def layers(net: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The named layers of a network, in the order of their definition."""
    return ((name, part) for name, part in net.named_modules() if isinstance(part, Layer))


def parts(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named layers, pools and dropouts of a network, in the order of their definition."""
    return (
        (name, part)
        for name, part in net.named_modules()
        if isinstance(part, Layer | Pool | Dropout)
    )


def fires(neuron: nn.Module) -> TypeGuard[Neuron]:
    """Whether the neuron of a layer gives out spikes."""
    return isinstance(neuron, Neuron) and "potential" not in neuron.traits
