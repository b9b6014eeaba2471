"""How a neuron is run: by a printed kernel where there is one, else by the reference."""

import dataclasses
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.program import Program, program
from snnrun.neuron.kernel.triton import check

if TYPE_CHECKING:
    from snnrun.neuron.base import Kernel, Neuron, OwnBackward, State

Choice = Literal["auto", "numba", "triton", "scan"]
CHOICES = get_args(Choice)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_told: set[tuple[type, str]] = set()


@dataclass(frozen=True)
class Fused:
    """A kernel that prints and runs the neuron's own step for all of a sequence at once.

    **Arguments:**

    - `choice`: `auto` (by device), `numba` (CPU only), `triton` (CUDA only), or `scan`.
    - `own`: a kernel with a backward step that takes the place of the vector-Jacobian product.
    """

    choice: Choice = "auto"
    own: "OwnBackward | None" = None

    def __call__(self, neuron: "Neuron", x: Tensor, state: "State") -> "tuple[Tensor, State]":
        """Output and final state of a sequence."""
        if torch.compiler.is_compiling():
            found = _look_up(neuron, self, x.dtype, x.dim(), x.device.type)
            if found is None or not _fits(x, state, found[2]):
                return self.reference(neuron, x, state)
            name, leaves, _, _ = found
            tensors = [_leaf(neuron, leaf) for leaf in leaves]
            out, *after = torch.ops.snnrun.sequence(x, list(state), tensors, name, True)
            return out, tuple(after)
        found = self.program(neuron, x)
        if found is None or not _fits(x, state, _count(found)):
            return self.reference(neuron, x, state)
        from snnrun.neuron.kernel.operator import Sequence

        leaves = [_leaf(neuron, name) for name in found.leaves]
        out, *after = Sequence.apply(  # pyright: ignore[reportGeneralTypeIssues]
            found, True, torch.is_grad_enabled(), len(state), x, *state, *leaves
        )
        return out, tuple(after)

    def from_rest(self, neuron: "Neuron", x: Tensor) -> Tensor:
        """The output of a whole sequence; neither the first nor the last state is ever written to memory."""
        return self.to_end(neuron, x, finals=False)[0]

    def to_end(self, neuron: "Neuron", x: Tensor, *, finals: bool = True) -> "tuple[Tensor, State]":
        """Output and, with `finals`, final state of a whole sequence; the first state is never written to memory."""
        if torch.compiler.is_compiling():
            found = _look_up(neuron, self, x.dtype, x.dim(), x.device.type)
            if found is None or not found[3]:
                return self._from_state(neuron, x)
            tensors = [_leaf(neuron, leaf) for leaf in found[1]]
            out, *after = torch.ops.snnrun.sequence(x, [], tensors, found[0], finals)
            return out, tuple(after)
        found = self.program(neuron, x)
        if found is None or not found.starts:
            return self._from_state(neuron, x)
        from snnrun.neuron.kernel.operator import Sequence

        leaves = [_leaf(neuron, name) for name in found.leaves]
        out, *after = Sequence.apply(  # pyright: ignore[reportGeneralTypeIssues]
            found, finals, torch.is_grad_enabled(), 0, x, *leaves
        )
        return out, tuple(after)

    def _from_state(self, neuron: "Neuron", x: Tensor) -> "tuple[Tensor, State]":
        from snnrun.neuron.base import wide

        return self(neuron, x, neuron.init_state(wide(x[0])))

    @property
    def reference(self) -> "Kernel":
        """What runs where no kernel does."""
        from snnrun.neuron.base import scan

        return self.own or scan

    def program(self, neuron: "Neuron", x: Tensor) -> Program | None:
        """The program for a neuron and an input; None where the reference runs, once with a warning if it is a loss."""
        if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
            return None
        if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
            return None
        return self._program(neuron, x.dtype, x.dim(), x.device.type)

    def _program(
        self, neuron: "Neuron", dtype: torch.dtype, dims: int, device: str
    ) -> Program | None:
        if dtype not in _DTYPES or dims < 2 or device not in _DEVICES.get(self.choice, ()):
            return None
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        try:
            found = program(neuron, wide, dims - 1, self.own.backward_step if self.own else None)
            if found is not None and device == "cuda":
                if not _triton():
                    raise Unprintable("a GPU where Triton is not installed")
                check(found.graph)
            return found
        except Unprintable as error:
            kind = type(neuron)
            if (kind, str(error)) not in _told:
                _told.add((kind, str(error)))
                warnings.warn(
                    f"{kind.__name__} runs step by step, which is slow: no kernel can be printed for {error}.",
                    stacklevel=4,
                )
            return None


_DEVICES = {"auto": ("cpu", "cuda"), "numba": ("cpu",), "triton": ("cuda",)}


def choose(kernel: "Kernel", choice: Choice) -> "Kernel":
    """A kernel as the configuration wants it run; one without a `choice` that is not made of steps stays as it is.

    **Arguments:**

    - `kernel`: what the rule asks for.
    - `choice`: one of `CHOICES`.
    """
    from snnrun.neuron.base import OwnBackward

    if choice not in CHOICES:
        raise ValueError(f"kernel must be one of {', '.join(CHOICES)}, got {choice!r}.")
    if isinstance(kernel, OwnBackward):
        return kernel if choice == "scan" else Fused(choice, kernel)
    if isinstance(kernel, Fused):
        return kernel.reference if choice == "scan" else Fused(choice, kernel.own)
    if dataclasses.is_dataclass(kernel) and not isinstance(kernel, type):  # made of kernels
        own = {f.name: getattr(kernel, f.name) for f in dataclasses.fields(kernel)}
        made: dict[str, Kernel | Choice] = {
            n: choose(v, choice) for n, v in own.items() if isinstance(v, OwnBackward | Fused)
        }
        if "choice" in own:
            made["choice"] = choice
        return dataclasses.replace(kernel, **made)  # pyright: ignore[reportReturnType]
    return kernel


def _fits(x: Tensor, state: "State", count: int) -> bool:
    """Whether a state is one that a program can start from."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return len(state) == count and all(
        s.shape == x.shape[1:] and s.dtype == wide and s.device == x.device for s in state
    )


def _count(found: Program) -> int:
    return sum(name.startswith("start.") for name in found.graph.outputs)


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


def _leaf(neuron: torch.nn.Module, name: str) -> Tensor:
    *path, last = name.split(".")
    module = neuron
    for word in path:
        module = getattr(module, word)
    return getattr(module, last)


def _look_up(
    neuron: "Neuron", kernel: Fused, dtype: torch.dtype, dims: int, device: str
) -> tuple[str, tuple[str, ...], int, bool] | None:
    """What code under torch.compile needs to know of a program; found while compiling."""
    import snnrun.neuron.kernel.operator  # noqa: F401  (registers the operators)

    found = kernel._program(neuron, dtype, dims, device)
    return found and (found.name, found.leaves, _count(found), found.starts)


# what torch.compiler.assume_constant_result does, which takes seconds to import what compiles
_look_up._dynamo_marked_constant = True
