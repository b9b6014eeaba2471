"""TSSL-BP's recursions against the published sums, in chunks, single steps and recurrent layers."""

import importlib.util
import pickle
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer
from snnrun.neuron import LI, PSCLIF, carry
from snnrun.neuron.base import OwnBackward, scan
from snnrun.norm import BatchNorm
from snnrun.rule import TSSL
from snnrun.rule.tssl import Dense, EarlyTiming, RateWarmup, Timing
from snnrun.surrogate import ATan

WARMUPS = ("trace", "rate", "off", "always")


def neuron(warmup="trace", tau_m=5.0, tau_s=3.0, threshold=1.0, **more) -> PSCLIF:
    made = PSCLIF(ATan(), tau_m, tau_s, threshold)
    made.kernel = TSSL(warmup, **more).kernel(made)
    return made


def currents(steps: int, *shape: int, seed: int = 0, shift: float = 0.4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, *shape, dtype=torch.float64, generator=generator) + shift


def forward(x: np.ndarray, made: PSCLIF) -> tuple[np.ndarray, ...]:
    r = np.zeros_like(x[0])
    a = np.zeros_like(x[0])
    rows = []
    for x_t in x:
        d = x_t - r / made.tau_m
        u = r + d
        s = (u > made.threshold).astype(float)
        r = u * (1 - s)
        a = a + (s - a) / made.tau_s
        rows.append((d, u, s, a))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def by_sums(
    x: np.ndarray, grad: np.ndarray, made: PSCLIF, warmup: str, limit: float = 0.1
) -> np.ndarray:
    """The published rule, one neuron and one sum at a time."""
    steps, tau_m, tau_s = len(x), made.tau_m, made.tau_s
    d, u, s, a = forward(x, made)
    eps = (1 / tau_s) * (1 - 1 / tau_s) ** np.arange(steps)
    fires = s.mean() > limit
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape[1:]):
        at = lambda array, t, i=i: array[(t, *i)]  # noqa: E731
        error = [sum(eps[k - t] * at(grad, k) for k in range(t, steps)) for t in range(steps)]
        z = [np.clip((made.threshold - at(u, t)) / 0.2, -8, 8) for t in range(steps)]
        dense = [np.exp(z[t]) / (0.2 * (1 + np.exp(z[t])) ** 2) for t in range(steps)]
        delta = 0.0
        for t in range(steps - 1, -1, -1):
            h = at(s, t) * (min(8, max(0, 1 / at(d, t))))
            delta = h * error[t] + delta * (at(u, t) / tau_m * h + (1 - 1 / tau_m) * (1 - at(s, t)))
            cold = at(a, t) < 1 / (4 * tau_s)
            if warmup == "rate" and fires:
                out[(t, *i)] = early(t, eps, grad, d, u, s, tau_m, i)
            elif warmup in ("always", "rate") or (warmup == "trace" and cold):
                out[(t, *i)] = dense[t] * error[t]
            else:
                out[(t, *i)] = delta
    return out


def early(t, eps, grad, d, u, s, tau_m, i) -> float:
    """The paper's time: the traces of later steps, and through a T x T matrix what the reset does to the next spike."""
    steps = len(grad)
    at = lambda array, k: array[(k, *i)]  # noqa: E731
    if not at(s, t):
        return 0.0
    reset = np.zeros((steps, steps))
    for j in range(steps):
        if at(s, j):
            following = next((k for k in range(j + 1, steps) if at(s, k)), None)
            if following is not None:
                reset[j, following] = at(u, j) / tau_m * (1 - 1 / tau_m) ** (following - 1 - j)
    inter = np.array([eps[k - t] if k >= t else 0.0 for k in range(steps)])
    both = inter + inter @ reset
    above = np.array([at(grad, k) for k in range(steps)])
    return float(np.clip(1 / at(d, t), -10, 10) * (both @ above))


def gradient(made: PSCLIF, x: Tensor, grad: Tensor, chunks: list[int]) -> Tensor:
    x = x.clone().requires_grad_()
    with carry(made):
        out = torch.cat([made(chunk) for chunk in x.split(chunks)])
    (found,) = torch.autograd.grad(out, x, grad)
    return found


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize(("tau_m", "tau_s", "threshold"), [(5.0, 3.0, 1.0), (8.0, 2.0, 0.7)])
@pytest.mark.parametrize("steps", [1, 5, 12])
def test_recursion_equals_the_sums(warmup, tau_m, tau_s, threshold, steps):
    made = neuron(warmup, tau_m, tau_s, threshold)
    x, grad = currents(steps, 3, 5), currents(steps, 3, 5, seed=1)
    found = gradient(made, x, grad, [steps])
    expected = by_sums(x.numpy(), grad.numpy(), made, warmup)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-13)
    assert np.abs(expected).max() > 0


def test_both_sides_of_the_rate():
    x, grad = currents(10, 4, 6), currents(10, 4, 6, seed=1)
    rate = forward(x.numpy(), neuron())[2].mean()
    assert 0.1 < rate < 0.9
    for limit in (rate - 1e-6, rate + 1e-6):
        made = neuron("rate", rate_limit=limit)
        expected = by_sums(x.numpy(), grad.numpy(), made, "rate", limit)
        found = gradient(made, x, grad, [10])
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-13)
        silent = forward(x.numpy(), made)[2] == 0
        assert (found.numpy()[silent] == 0).all() == (limit < rate)


@pytest.mark.parametrize("warmup", ["trace", "off", "always"])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 5], [2, 1, 6]], ids=str)
def test_chunks_in_a_row_have_the_gradient_of_the_whole(warmup, chunks):
    made = neuron(warmup)
    x, grad = currents(9, 3, 5), currents(9, 3, 5, seed=1)
    whole = gradient(made, x, grad, [9])
    torch.testing.assert_close(gradient(made, x, grad, chunks), whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("step", [Timing(), Timing(False), Dense(), EarlyTiming()])
def test_steps_back_work_in_chunks(step):
    made = neuron()
    made.kernel = OwnBackward(step)
    x, grad = currents(9, 3, 5), currents(9, 3, 5, seed=1)
    whole = gradient(made, x, grad, [9])
    torch.testing.assert_close(gradient(made, x, grad, [1] * 9), whole, rtol=1e-12, atol=1e-14)


def test_a_neuron_that_never_fires_has_only_the_dense_gradient():
    made, x = neuron(), currents(6, 4, seed=2, shift=-3.0)
    grad = currents(6, 4, seed=1)
    assert not made.spikes(made(x)).any()
    torch.testing.assert_close(
        gradient(made, x, grad, [6]), gradient(neuron("always"), x, grad, [6]), rtol=0, atol=0
    )
    assert not gradient(neuron("off"), x, grad, [6]).any()


@pytest.mark.parametrize("warmup", ["trace", "off", "always"])
def test_a_recurrent_layer_sends_its_gradient_around_its_loop(warmup):
    """By hand: the recursion with the gradient of the recurrent weights added to each trace."""
    torch.manual_seed(0)
    loop = nn.Linear(4, 4, bias=False).double()
    layer = Layer(nn.Identity(), None, neuron(warmup), loop).double()
    with torch.no_grad():
        loop.weight.mul_(2)
    x = currents(7, 3, 4, shift=0.6).requires_grad_()
    grad = currents(7, 3, 4, seed=1)
    out = layer(x)
    found, found_weight = torch.autograd.grad(out, (x, loop.weight), grad)
    step = layer.neuron.kernel.backward_step
    traces = [torch.zeros(3, 4, dtype=torch.float64), *out.detach()]
    states = [layer.neuron.init_state(x[0].detach())]
    inputs = []
    for t in range(7):
        inputs.append(x[t].detach() + traces[t] @ loop.weight.detach().T)
        states.append(layer.neuron.step(inputs[t], states[t])[1])
    carried = tuple(torch.zeros_like(s) for s in states[0])
    expected, weight = torch.zeros_like(grad), torch.zeros(4, 4, dtype=torch.float64)
    from_loop = torch.zeros(3, 4, dtype=torch.float64)
    for t in range(6, -1, -1):
        expected[t], carried = step(
            layer.neuron, inputs[t], states[t], traces[t + 1], grad[t] + from_loop, carried
        )
        from_loop = expected[t] @ loop.weight.detach()
        weight += expected[t].T @ traces[t]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found_weight, weight, rtol=1e-10, atol=1e-13)
    assert weight.abs().max() > 0


@pytest.mark.parametrize("warmup", WARMUPS)
def test_behind_batch_norm_and_a_residual_sum(warmup):
    """Layers without a synapse, as in residual networks; mixed precision; finite gradients everywhere."""
    torch.manual_seed(0)
    first = Layer(nn.Conv2d(2, 4, 3, padding=1, bias=False), BatchNorm(4), neuron(warmup))
    conv = Layer(nn.Conv2d(4, 4, 3, padding=1, bias=False), BatchNorm(4), None)
    last = Layer(nn.Identity(), None, neuron(warmup))
    x = torch.rand(5, 3, 2, 6, 6)
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            a = first(x)
            out = last(conv(a) + a)
        out.float().square().sum().backward()
        for part in (first, conv):
            for p in part.parameters():
                assert p.grad is not None and p.grad.isfinite().all() and p.grad.dtype == p.dtype
            assert part.synapse.weight.grad.any()
            part.zero_grad()


def test_the_kernel_of_each_neuron():
    rule, made = TSSL(), neuron()
    assert rule.kernel(made) == OwnBackward(Timing(True))
    assert TSSL("off").kernel(made) == OwnBackward(Timing(False))
    assert TSSL("always").kernel(made) == OwnBackward(Dense())
    assert TSSL("rate", 0.05).kernel(made) == RateWarmup(0.05)
    assert rule.kernel(LI()) is LI.kernel, "neurons that give out no trace keep their kernel"
    for warmup in WARMUPS:
        kernel = TSSL(warmup).kernel(made)
        assert pickle.loads(pickle.dumps(kernel)) == kernel and hash(kernel) is not None


def test_forward_and_evaluation_are_the_loop_over_step():
    made, x = neuron(), currents(6, 3, 4)
    expected, state = scan(made, x, made.init_state(x[0]))
    out, after = made.kernel(made, x.requires_grad_(), made.init_state(x[0]))
    assert torch.equal(out, expected) and all(map(torch.equal, state, after))
    with torch.no_grad():
        assert torch.equal(made(x), expected)


def test_unknown_warmup():
    with pytest.raises(
        ValueError, match=r"rule\.warmup must be trace, rate, off or always, got 'on'"
    ):
        TSSL("on")  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark", path)
    assert spec and spec.loader
    script = sys.modules["benchmark"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("name", ["tssl_t5", "tssl_t100", "tssl_conv"])
def test_the_published_sums_give_the_same(benchmark, name):
    """What the benchmark compares with: the formula with its T x T sums."""
    torch.manual_seed(0)
    (row,) = benchmark.rows([name], [], 1 << 12)
    found = {}
    for who, net in row.contestants.items():
        x = row.x.double().requires_grad_()
        net.double()(x).square().sum().backward()
        found[who] = [x.grad, *(p.grad for p in net.parameters())]
    for one, other in zip(found["ours"], found["published"], strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(one.abs().max()))


@pytest.mark.slow
def test_twice_as_fast_as_the_published_sums(benchmark):
    (row,) = benchmark.rows(["tssl_conv"], [], 1)
    _, published = benchmark.measure(row, 5, partial(benchmark.by_clock, time.process_time), 1.0)
    assert published["ratio to ours"] > 2
