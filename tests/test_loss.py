"""Losses of an output sequence, each against its formula in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snnrun.config import Choices, instantiate
from snnrun.loss import (
    TET,
    CountMargin,
    CrossEntropy,
    FirstSpike,
    Kernel,
    RateMSE,
    Softmax,
    SpikeCount,
    TraceCount,
)
from snnrun.readout import Readout

CHOICES = Choices()
GENERATOR = np.random.default_rng(0)
OUT = GENERATOR.normal(size=(5, 6, 4))
Y = np.array([0, 3, 1, 1, 2, 0])
ONE_HOT = np.eye(4)[Y]


def given(criterion, reduce="mean", out: np.ndarray = OUT) -> float:
    value = criterion(torch.from_numpy(out), torch.from_numpy(Y), readout=Readout(reduce))
    assert value.shape == ()
    return value.item()


def cross_entropy(z: np.ndarray, smoothing: float = 0.0) -> float:
    """Mean over all leading axes."""
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    target = (1 - smoothing) * ONE_HOT + smoothing / 4
    return float(-(target * log_p).sum(-1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("reduce", "z"),
    [("mean", OUT.mean(0)), ("sum", OUT.sum(0)), ("last", OUT[-1]), ("max", OUT.max(0))],
    ids=["mean", "sum", "last", "max"],
)
def test_cross_entropy_of_the_readout(reduce, z, smoothing):
    expected = cross_entropy(z, smoothing)
    assert given(CrossEntropy(smoothing), reduce) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("phi", [0.0, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_tet(lam, phi, smoothing):
    expected = (1 - lam) * cross_entropy(OUT, smoothing) + lam * ((OUT - phi) ** 2).mean()
    assert given(TET(lam, phi, smoothing)) == pytest.approx(expected, rel=1e-12)


def test_tet_scores_every_step_with_its_own_label():
    sure = 50 * np.broadcast_to(ONE_HOT, (5, 6, 4))
    assert given(TET(lam=0.0), out=sure.copy()) == pytest.approx(0, abs=1e-12)
    late = sure.copy()
    late[4] = 0
    assert given(TET(lam=0.0), out=late) == pytest.approx(np.log(4) / 5)


def test_tet_gradient_by_definition():
    out = torch.from_numpy(OUT).requires_grad_()
    TET(lam=0.3, phi=0.7)(out, torch.from_numpy(Y), readout=Readout()).backward()
    p = np.exp(OUT) / np.exp(OUT).sum(-1, keepdims=True)
    expected = 0.7 * (p - ONE_HOT) / (5 * 6) + 0.3 * 2 * (OUT - 0.7) / OUT.size
    assert out.grad is not None
    np.testing.assert_allclose(out.grad.numpy(), expected, rtol=1e-11)


def test_rate_mse():
    expected = ((OUT.mean(0) - ONE_HOT) ** 2).mean()
    assert given(RateMSE()) == pytest.approx(expected, rel=1e-12)
    assert given(RateMSE(), "last") == pytest.approx(expected, rel=1e-12)


def test_spike_count():
    spikes = (GENERATOR.random((5, 6, 4)) < 0.5).astype(float)
    total = 0.0
    for b in range(6):
        for c in range(4):
            count = spikes[:, b, c].sum()
            wrong = min(0, count - 3.5) if c == Y[b] else max(0, count - 1.5)
            total += wrong**2
    assert total > 0
    expected = total / 6 / (2 * 5)
    assert given(SpikeCount(3.5, 1.5), out=spikes) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("true", "false", "expected"),
    [(4, 1, 0.0), (5, 0, 0.0), (3, 1, 1 / 12), (4, 2, 3 / 12), (0, 0, 16 / 12)],
)
def test_spike_count_is_one_sided(true, false, expected):
    """Six steps; wanted: at least 4 of the right class, at most 1 of the three others."""
    out = torch.zeros(6, 1, 4, dtype=torch.float64)
    out[:true, 0, 2] = 1
    for c in (0, 1, 3):
        out[:false, 0, c] = 1
    value = SpikeCount()(out, torch.tensor([2]), readout=Readout())
    assert value.item() == pytest.approx(expected)


def test_count_margin():
    """An error of exactly the margin counts for nothing, a larger one in full."""
    out = torch.zeros(9, 2, 3, dtype=torch.float64)
    out[:9, 0, 0] = out[:4, 0, 1] = out[:3, 1, 1] = out[:6, 1, 2] = 1
    out.requires_grad_()
    loss = CountMargin(7, 1, 2)(out, torch.tensor([0, 1]), readout=Readout("sum"))
    # errors: 2, 3, -1 and -1, -4, 5
    assert loss.item() == (9 + 16 + 25) / 4
    loss.backward()
    assert out.grad is not None
    assert torch.equal(out.grad, torch.tensor([[0, 1.5, 0], [0, -2, 2.5]]).expand(9, 2, 3))


@pytest.mark.parametrize("option", CHOICES.options("loss"))
def test_every_option(option):
    """Finite, with a gradient, a mean (or, if it says so, a sum) over the batch, the same in any order of samples."""
    criterion = instantiate(CHOICES.compose([f"loss={option}"]).loss)
    y = torch.from_numpy(Y)
    out = torch.from_numpy(10 * (OUT > 0)).double().requires_grad_()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return criterion(out, y, readout=Readout())

    value = loss(out, y)
    assert value.shape == () and value.isfinite() and value > 0
    value.backward()
    assert out.grad is not None and out.grad.isfinite().all() and out.grad.any()
    alone = torch.stack([loss(out[:, i : i + 1], y[i : i + 1]) for i in range(6)])
    over_batch = alone.sum() if getattr(criterion, "sums", False) else alone.mean()
    torch.testing.assert_close(value, over_batch, rtol=1e-12, atol=0)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(loss(out[:, order], y[order]), value, rtol=1e-12, atol=0)
    for dtype in (torch.bfloat16, torch.float32):
        assert loss(out.detach().to(dtype), y).isfinite()
    assert not list(criterion.parameters())


@pytest.mark.parametrize("option", ["cross_entropy", "tet", "rate_mse"])
def test_right_answers_cost_less(option):
    criterion = instantiate(CHOICES.compose([f"loss={option}"]).loss)
    right = torch.from_numpy(np.broadcast_to(ONE_HOT, (5, 6, 4)).copy())
    wrong = right.roll(1, dims=2)
    y = torch.from_numpy(Y)
    assert criterion(right, y, readout=Readout()) < criterion(wrong, y, readout=Readout())


# --- losses of traces


def filtered(x: np.ndarray, tau_s: float) -> np.ndarray:
    """By the definition: a convolution with the kernel."""
    kernel = (1 - 1 / tau_s) ** np.arange(len(x)) / tau_s
    return np.convolve(x, kernel)[: len(x)]


@pytest.mark.parametrize("steps", [5, 10, 30])
@pytest.mark.parametrize("filters", [1, 2])
@pytest.mark.parametrize("tau_s", [2.0, 3.0])
def test_kernel(steps, filters, tau_s):
    out = GENERATOR.random((steps, 6, 4))
    wanted = np.array([0, 1, 1, 1, 1]) if steps < 10 else np.tile([0, 1], steps // 2)
    wanted = wanted.astype(float)
    for _ in range(filters):
        wanted = filtered(wanted, tau_s)
    expected = 0.5 * ((out - wanted[:, None, None] * ONE_HOT) ** 2).sum()
    assert given(Kernel(tau_s, filters), out=out) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 6, 7, 9, 11, 15, 25])
def test_kernel_refuses_steps_that_its_train_does_not_fill(steps):
    with pytest.raises(ValueError, match=f"needs T to be 5 or a multiple of 10.* got {steps}"):
        Kernel().validate((1, 8, 8), steps)
    with pytest.raises(ValueError, match=f"got {steps}"):
        given(Kernel(), out=np.zeros((steps, 6, 4)))


@pytest.mark.parametrize("steps", [5, 10, 20, 30, 100])
def test_kernel_takes_the_other_steps(steps):
    Kernel().validate((1, 8, 8), steps)


@pytest.mark.parametrize("filters", [0, 3])
def test_kernel_filters_once_or_twice(filters):
    with pytest.raises(ValueError, match=f"must be 1 or 2, got {filters}"):
        Kernel(target_filters=filters)


def test_trace_count():
    """The gradient is the same at all steps: the clipped error over T."""
    out = torch.from_numpy(GENERATOR.random((5, 6, 4))).requires_grad_()
    loss = TraceCount(3.5, 1.5)(out, torch.from_numpy(Y), readout=Readout())
    loss.backward()
    error = (out.detach().sum(0).numpy() - np.where(ONE_HOT == 1, 3.5, 1.5)) / 5
    error = np.where(ONE_HOT == 1, np.minimum(error, 0), np.maximum(error, 0))
    assert loss.item() == pytest.approx(0.5 * 5 * (error**2).sum(), rel=1e-12)
    assert out.grad is not None
    np.testing.assert_allclose(out.grad.numpy(), np.broadcast_to(error, out.shape), rtol=1e-12)


def test_softmax_sums_over_time_whatever_the_readout():
    assert given(Softmax(), "last") == pytest.approx(cross_entropy(OUT.sum(0)), rel=1e-12)


# --- losses of spike times


def test_first_spike_is_cross_entropy_with_silence_at_t_max():
    times = np.array(OUT[:1])
    times[0, [0, 2], [0, 3]] = np.inf  # the right output of a sample, and another one
    expected = cross_entropy(-np.where(np.isinf(times[0]), 7.0, times[0]))
    assert given(FirstSpike(7.0), out=times) == pytest.approx(expected, rel=1e-12)
    out = torch.from_numpy(times).requires_grad_()
    FirstSpike(7.0)(out, torch.from_numpy(Y), readout=Readout()).backward()
    assert out.grad is not None and out.grad.isfinite().all()
    assert torch.equal(out.grad == 0, out.isinf())
