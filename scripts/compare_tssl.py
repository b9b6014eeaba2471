"""TSSL-BP's recursion against the published formula, evaluated with its T x T sums, on one conv layer.

    python scripts/compare_tssl.py --steps 30

Prints milliseconds for forward and backward of both, and how far their gradients are apart.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnrun.model import Layer
from snnrun.neuron import PSCLIF, Neuron
from snnrun.neuron.base import State
from snnrun.rule import TSSL
from snnrun.surrogate import ATan


class Published(torch.autograd.Function):
    """The neuron as published, time last: at every step back, sums over all later ones."""

    @staticmethod
    def forward(ctx, current: Tensor, neuron: PSCLIF) -> Tensor:
        """Loop over time; keep increment, potential, spikes and trace of all steps."""
        r = a = torch.zeros_like(current[..., 0])
        kept = []
        for x in current.unbind(-1):
            d = x - neuron.theta_m * r
            u = r + d
            s = (u > neuron.threshold).to(u.dtype)
            r = u * (1 - s)
            a = a + neuron.theta_s * (s - a)
            kept.append((d, u, s, a))
        d, u, s, a = (torch.stack(column, -1) for column in zip(*kept, strict=True))
        ctx.neuron = neuron
        ctx.save_for_backward(d, u, s, a)
        return a

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The formula of `TSSL` with its sums written out."""
        d, u, s, a = (saved.unbind(-1) for saved in ctx.saved_tensors)
        neuron, steps = ctx.neuron, grad.shape[-1]
        kernel = neuron.theta_s * (1 - neuron.theta_s) ** torch.arange(steps, dtype=grad.dtype)
        out, carried = torch.zeros_like(grad), torch.zeros_like(grad[..., 0])
        for t in range(steps - 1, -1, -1):
            later, above = kernel[: steps - t], grad[..., t:]
            slope = (1 / d[t]).clamp(0, 8) * s[t]
            timing = (slope.unsqueeze(-1) * later * above).sum(-1)  # a row of da/du, times above
            through_reset = neuron.theta_m * u[t] * slope + (1 - neuron.theta_m) * (1 - s[t])
            timing = timing + carried * through_reset
            e = torch.exp(((neuron.threshold - u[t]) / 0.2).clamp(-8, 8))
            dense = (later * above).sum(-1) * (e / (0.2 * (1 + e) ** 2))
            out[..., t] = torch.where(a[t] < neuron.theta_s / 4, dense, timing)
            carried = timing
        return out, None


def published(neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
    """The published backward as a kernel."""
    out = Published.apply(x.movedim(0, -1).contiguous(), neuron)
    return out.movedim(-1, 0), state  # pyright: ignore[reportAttributeAccessIssue]


def compare(
    steps: int, shape: tuple[int, ...] = (16, 12, 16, 16), channels: int = 64, repeats: int = 5
) -> dict[str, float]:
    """Milliseconds of both and the largest difference of the weights' gradients, relative to the largest gradient.

    **Arguments:**

    - `steps`: T.
    - `shape`: of one step of the layer's input, `(B, C, H, W)`.
    - `channels`: of its output, by a 5x5 convolution.
    - `repeats`: the fastest of so many counts.
    """
    torch.manual_seed(0)
    neuron = PSCLIF(ATan(), tau_m=8.0, tau_s=4.0)
    convolution = nn.Conv2d(shape[1], channels, 5, bias=False)
    nn.init.normal_(convolution.weight, 0.02, 0.15)
    layer = Layer(convolution, None, neuron)
    x = torch.rand(steps, *shape).requires_grad_()
    kernels = {"recursion": TSSL().kernel(neuron), "published": published}
    gradients: dict[str, Tensor] = {}

    def run(kernel: Callable) -> float:
        neuron.kernel = kernel
        layer.zero_grad()
        started = time.perf_counter()
        layer(x).square().sum().backward()
        return 1000 * (time.perf_counter() - started)

    def alone(kernel: Callable) -> float:
        current = torch.randn(steps, shape[0], channels, shape[2] - 4, shape[3] - 4)
        current = (current + 0.3).requires_grad_()
        started = time.perf_counter()
        out, _ = kernel(neuron, current, neuron.init_state(current[0]))
        out.square().sum().backward()
        return 1000 * (time.perf_counter() - started)

    times: dict[str, float] = {}
    for _ in range(repeats + 1):  # the first warms up
        for name, kernel in kernels.items():
            times[f"layer, {name}"] = min(times.get(f"layer, {name}", 1e9), run(kernel))
            assert convolution.weight.grad is not None
            gradients[name] = convolution.weight.grad.clone()
            times[f"neuron, {name}"] = min(times.get(f"neuron, {name}", 1e9), alone(kernel))
    apart = (gradients["recursion"] - gradients["published"]).abs().max()
    return {**times, "apart": float(apart / gradients["published"].abs().max())}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    found = compare(given.steps, repeats=given.repeats)
    print(f"T = {given.steps}, {torch.get_num_threads()} threads")
    for what in ("neuron", "layer"):
        fast, slow = found[f"{what}, recursion"], found[f"{what}, published"]
        print(
            f"{what}: recursion {fast:.1f} ms, published {slow:.1f} ms, {slow / fast:.1f} times as fast"
        )
    print(f"gradients of the weights differ by {found['apart']:.1e} of the largest")


if __name__ == "__main__":
    main()
