"""What a neuron is: a pure step, the loop over time, and state that may outlive a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.neuron.kernel import Fused

State = tuple[Tensor, ...]
Kernel = Callable[["Neuron", Tensor, State], tuple[Tensor, State]]

_memory: ContextVar[dict[nn.Module, State] | None] = ContextVar("carried state", default=None)


def scan(neuron: "Neuron", x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run `neuron.step` over the leading axis of `x`: the reference that every other kernel must equal.

    State is kept in float32 under mixed precision; the output has the dtype of `x`.
    """
    out = []
    for x_t in x.unbind(0):  # x[t] in a loop would make the backward pass O(T^2)
        out_t, state = neuron.step(wide(x_t), state)
        out.append(out_t.to(x.dtype))
    return torch.stack(out), state


BackwardStep = Callable[
    ["Neuron", Tensor, State, Tensor, Tensor, State], tuple[Tensor, State]
]


@dataclass(frozen=True)
class OwnBackward:
    """A kernel that runs `neuron.step` forward and a function of a rule's own backward, step by step.

    **Arguments:**

    - `backward_step`: `(neuron, x, state, out, grad_out, grad_state)` to `(grad_x, grad_state)`, in the slots of the
      vector-Jacobian product of `step`: `state` before the step, `grad_state` the carry that runs backwards in time. A
      module-level function or a frozen dataclass with `__call__`; pure: it is traced and printed.
    """

    backward_step: BackwardStep

    def __call__(self, neuron: "Neuron", x: Tensor, state: State) -> tuple[Tensor, State]:
        """Output and final state of a sequence: the reference that a printed kernel must equal."""
        out, *final = _OwnBackward.apply(neuron, self.backward_step, x, *state)  # pyright: ignore[reportGeneralTypeIssues]
        return out, tuple(final)


class _OwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, neuron: "Neuron", backward_step: BackwardStep, x: Tensor, *state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.neuron, ctx.backward_step = neuron, backward_step
        ctx.save_for_backward(x, *state)
        out, final = scan(neuron, x, state)
        return (out, *(f.clone() for f in final))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor, *grad_final: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *start = ctx.saved_tensors
        state, steps = tuple(start), []
        for x_t in map(wide, x.unbind(0)):
            out_t, after = ctx.neuron.step(x_t, state)
            steps.append((x_t, state, out_t))
            state = after
        grad_state, of_x = grad_final, []
        for (x_t, before, out_t), g in zip(reversed(steps), reversed(grad_out.unbind(0)), strict=True):
            g_x, grad_state = ctx.backward_step(ctx.neuron, x_t, before, out_t, wide(g), grad_state)
            of_x.append(g_x.to(x.dtype))
        return (None, None, torch.stack(of_x[::-1]), *grad_state)


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or in its own dtype if that is wider."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Neuron(nn.Module):
    """A layer of neurons: `(T, B, ...)` currents in, `(T, B, ...)` outputs of the same shape.

    A subclass writes `init_state` and a pure `step`; `forward` is never overridden. No state is kept on the module.
    """

    traits: frozenset[str] = frozenset()
    kernel: Kernel = Fused()

    def init_state(self, x: Tensor) -> State:
        """The state before the first step; `x` is one step of input, float32 or wider."""
        return ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: input current and state to output and new state. Pure: it is traced, differentiated and printed."""
        raise NotImplementedError(f"{type(self).__name__} must define step(x, state).")

    def spikes(self, out: Tensor) -> Tensor:
        """The number of spikes in `out`, elementwise; what firing rates and synaptic operations are counted from."""
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Run the whole sequence through `kernel`."""
        if len(x) == 0:
            return x
        state = recall(self)
        if isinstance(self.kernel, Fused) and not carrying():
            return self.kernel.from_rest(self, x)
        out, state = self.kernel(self, x, self.init_state(wide(x[0])) if state is None else state)
        remember(self, state)
        return out


@contextmanager
def carry(net: nn.Module, *, detach: bool = False) -> Iterator[None]:
    """Keep the state of all parts of `net` between its calls, so that chunks in a row equal the whole sequence.

    **Arguments:**

    - `net`: the network to stream through.
    - `detach`: cut the gradient between calls (truncated backpropagation through time).
    """
    memory = _Memory(detach)
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


class _Memory(dict[nn.Module, State]):
    def __init__(self, detach: bool):
        super().__init__()
        self.detach = detach

    def __setitem__(self, part: nn.Module, state: State) -> None:
        super().__setitem__(part, tuple(s.detach() for s in state) if self.detach else state)


def recall(part: nn.Module) -> State | None:
    """The state that `part` left at its last call inside `carry`; None outside, or at the first call."""
    memory = _memory.get()
    return None if memory is None else memory.get(part)


def carrying() -> bool:
    """Whether there is a `carry` around."""
    return _memory.get() is not None


def remember(part: nn.Module, state: State) -> None:
    """Keep `state` for the next call of `part`, if there is a `carry` around."""
    memory = _memory.get()
    if memory is not None:
        memory[part] = state


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter of shape (1,) or (C,) shaped to broadcast against one step `(B, C, ...)`."""
    return parameter if parameter.numel() == 1 else parameter.view(-1, *[1] * (x.dim() - 2))
