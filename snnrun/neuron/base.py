"""What a neuron is: a pure step, the loop over time, and state that may outlive a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.neuron.kernel import Fused

State = tuple[Tensor, ...]
Kernel = Callable[["Neuron", Tensor, State], tuple[Tensor, State]]
# (neuron, x, state before the step, out, grad_out, grad_state) to (grad_x, grad_state one step earlier)
BackwardStep = Callable[["Neuron", Tensor, State, Tensor, Tensor, State], tuple[Tensor, State]]

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


@dataclass(frozen=True)
class OwnBackward:
    """A kernel that runs `step` forward and a rule's own `backward_step` backward, one call for each step of time.

    `backward_step` has the slots of the vector-Jacobian product of `step`: it is given the input, the state before the
    step, the output, the gradient of the output and, for each part of the state, the carry that comes back from later
    steps (zeros behind the last); it returns the gradient of the input and the carry to the step before. The state
    that a call starts from and the one that it returns pass the carry on, so chunks in a row and layers that step in a
    loop give what the whole sequence gives.

    **Arguments:**

    - `backward_step`: elementwise and picklable: a function of a module, or an instance of a frozen dataclass that
      holds its constants as floats. Parameters of the neuron get no gradient.
    """

    backward_step: BackwardStep

    def __call__(self, neuron: "Neuron", x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run `neuron` over the leading axis of `x`."""
        if not torch.is_grad_enabled():
            return scan(neuron, x, state)
        out, *final = _Own.apply(neuron, self.backward_step, x, *state)  # pyright: ignore[reportGeneralTypeIssues]
        return out, tuple(final)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        neuron: "Neuron",
        backward_step: BackwardStep,
        x: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        states, outs = [state], []
        for x_t in x.unbind(0):
            out_t, after = neuron.step(wide(x_t), states[-1])
            outs.append(out_t)
            states.append(after)
        ctx.neuron, ctx.step, ctx.slots = neuron, backward_step, len(state)
        ctx.save_for_backward(x, *outs, *(s for before in states[:-1] for s in before))
        final = tuple(s.clone() if any(s is o for o in state) else s for s in states[-1])
        return torch.stack([o.to(x.dtype) for o in outs]), *final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, *grad_final: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *saved = ctx.saved_tensors
        steps, slots = len(x), ctx.slots
        outs, states = saved[:steps], saved[steps:]
        grad_x, carried = torch.empty_like(x, memory_format=torch.contiguous_format), grad_final
        for t in range(steps - 1, -1, -1):
            before = tuple(states[t * slots : (t + 1) * slots])
            grad_t, carried = ctx.step(
                ctx.neuron, wide(x[t]), before, outs[t], wide(grad_out[t]), carried
            )
            grad_x[t] = grad_t
        return None, None, grad_x, *carried


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or in its own dtype if that is wider."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Neuron(nn.Module):
    """A layer of neurons: `(T, B, ...)` currents in, `(T, B, ...)` outputs of the same shape.

    A subclass writes `init_state` and a pure `step`; `forward` is never overridden. No state is kept on the module.
    A factor on its output that may as well be part of the weights that read it is a parameter `amplitude` of shape (1,)
    or (C,), or None: it is folded into them before a test. `undecayed` names own parameters without weight decay;
    `potential` is the place of the membrane potential in the state, None where there is none; `silence` is what the
    neuron gives out where there is no spike.

    A neuron to which the weighted sum of its inputs says too little defines `respond(inputs, weights)`, from
    `(rows, inputs)` and `(neurons, inputs)` to `(rows, neurons)`: its layer calls that, and no `step` is needed.
    """

    traits: frozenset[str] = frozenset()
    undecayed: frozenset[str] = frozenset()
    potential: int | None = 0
    silence: float = 0.0
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
        if not carrying() and (from_rest := getattr(self.kernel, "from_rest", None)):
            return from_rest(self, x)
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


@contextmanager
def stepping() -> Iterator[None]:
    """Keep state between the steps of a loop inside a network, as `carry` does between calls of the whole.

    What a `carry` around it knows goes in, and what the last step left comes out; gradients are not cut in between.
    """
    outer = _memory.get()
    memory = _Memory(False)
    memory.update(outer or {})
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)
    if outer is not None:
        for part, state in memory.items():
            outer[part] = state


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
