"""Batch normalisation of sequences, against torch's own and against the definition in numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from snnrun.config import Choices, factory, instantiate
from snnrun.neuron import carry
from snnrun.norm import BNTT, BatchNorm

CHOICES = Choices()
SHAPES = [(4, 6, 3), (4, 2, 3, 5), (4, 2, 3, 5, 2)]


def batch(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return (
        2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        + 1
    )


def moved(norm: nn.Module) -> nn.Module:
    """A norm in float64 whose parameters are off their start."""
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.linspace(0.5, 1.5, p.numel()).view(p.shape))
    return norm.double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_is_torchs_batch_norm_of_merged_time_and_batch(shape):
    own = moved(BatchNorm(3, eps=1e-3, momentum=0.3))
    torchs = nn.BatchNorm1d if len(shape) < 5 else nn.BatchNorm2d
    other = moved(torchs(3, eps=1e-3, momentum=0.3))
    weights = batch(shape, seed=9)
    for mode, seed in ((True, 0), (True, 1), (False, 2)):
        own.train(mode)
        other.train(mode)
        x, z = batch(shape, seed).requires_grad_(), batch(shape, seed).requires_grad_()
        y = own(x)
        expected = other(z.flatten(0, 1)).unflatten(0, shape[:2])
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        own.zero_grad()
        other.zero_grad()
        (y * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-10, atol=1e-12)
        for p, q in zip(own.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)
    for key, value in own.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bntt_is_a_batch_norm_of_its_own_a_step(shape):
    own = moved(BNTT(3, steps=4, eps=1e-3, momentum=0.3))
    torchs = nn.BatchNorm1d if len(shape) < 5 else nn.BatchNorm2d
    others = [torchs(3, eps=1e-3, momentum=0.3).double() for _ in range(4)]
    for t, other in enumerate(others):
        with torch.no_grad():
            other.weight.copy_(own.weight[t])
    for mode, seed in ((True, 0), (True, 1), (False, 2)):
        own.train(mode)
        x = batch(shape, seed)
        expected = torch.stack([other.train(mode)(x[t]) for t, other in enumerate(others)])
        torch.testing.assert_close(own(x), expected, rtol=1e-12, atol=1e-12)
    for t, other in enumerate(others):
        torch.testing.assert_close(own.running_mean[t], other.running_mean)
        torch.testing.assert_close(own.running_var[t], other.running_var)


def test_statistics_by_definition():
    """Biased variance normalises, unbiased goes into the running value; time is part of the batch."""
    x = batch((4, 5, 3, 2))
    a = x.numpy()
    norm = BatchNorm(3, eps=0.1, momentum=0.25).double()
    mean, var = a.mean((0, 1, 3), keepdims=True), a.var((0, 1, 3), keepdims=True)
    np.testing.assert_allclose(norm(x).detach().numpy(), (a - mean) / np.sqrt(var + 0.1), rtol=1e-9)
    np.testing.assert_allclose(norm.running_mean, 0.25 * mean.ravel())
    unbiased = a.var((0, 1, 3), ddof=1)
    np.testing.assert_allclose(norm.running_var, 0.75 + 0.25 * unbiased)


def test_bntt_statistics_by_definition():
    x = batch((4, 5, 3, 2))
    a = x.numpy()
    norm = BNTT(3, steps=4, eps=0.1, momentum=0.25).double()
    mean, var = a.mean((1, 3), keepdims=True), a.var((1, 3), keepdims=True)
    np.testing.assert_allclose(norm(x).detach().numpy(), (a - mean) / np.sqrt(var + 0.1), rtol=1e-9)
    np.testing.assert_allclose(norm.running_mean, 0.25 * a.mean((1, 3)))
    np.testing.assert_allclose(norm.running_var, 0.75 + 0.25 * a.var((1, 3), ddof=1))


def test_shorter_sequences_leave_the_statistics_of_later_steps():
    norm = BNTT(3, steps=6)
    norm(batch((4, 5, 3)).float())
    assert norm.running_mean[:4].all() and not norm.running_mean[4:].any()
    assert (norm.running_var[4:] == 1).all()


def test_a_repeated_input_is_normalised_once():
    norm, other = moved(BatchNorm(3)), moved(BatchNorm(3))
    x = batch((5, 3, 2, 2))
    repeated = norm(x.expand(4, *x.shape))
    assert repeated.shape == (4, *x.shape) and repeated.stride(0) == 0
    torch.testing.assert_close(repeated[3], other(x.unsqueeze(0))[0], rtol=1e-12, atol=1e-12)
    copies = moved(BatchNorm(3))
    torch.testing.assert_close(repeated, copies(x.repeat(4, 1, 1, 1, 1)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, copies.running_mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(norm.running_var, copies.running_var, rtol=1e-12, atol=0)
    norm.eval()
    kept = norm.running_var.clone()
    norm(x.expand(4, *x.shape))
    assert torch.equal(norm.running_var, kept)


def test_gradient_of_a_repeated_input():
    x, z = batch((5, 3)).requires_grad_(), batch((5, 3)).requires_grad_()
    weights = batch((4, 5, 3), seed=1)
    (moved(BatchNorm(3))(x.expand(4, 5, 3)) * weights).sum().backward()
    (moved(BatchNorm(3))(z.repeat(4, 1, 1)) * weights).sum().backward()
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 3])
def test_too_many_steps(steps):
    with pytest.raises(ValueError) as error:
        BNTT(3, steps=steps)(torch.zeros(steps + 1, 2, 3))
    assert str(error.value) == f"norm=bntt was built for {steps} steps, got step {steps + 1}."


def test_bntt_counts_its_steps_through_carry():
    norm = moved(BNTT(3, steps=5)).eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.arange(15.0).view(5, 3))
    x = batch((5, 4, 3))
    whole = norm(x)
    with carry(norm):
        parts = torch.cat([norm(chunk) for chunk in x.split([2, 1, 2])])
        with pytest.raises(ValueError, match="norm=bntt was built for 5 steps, got step 6"):
            norm(x[:1])
    assert torch.equal(parts, whole)
    assert torch.equal(norm(x), whole)


@pytest.mark.parametrize("norm", [BatchNorm(3), BNTT(3, steps=4)], ids=["batch", "bntt"])
def test_evaluation_normalises_samples_alone_and_changes_nothing(norm):
    norm = copy.deepcopy(norm)
    for seed in range(3):
        norm(batch((4, 6, 3, 2), seed).float())
    norm.eval()
    kept = {k: v.clone() for k, v in norm.state_dict().items()}
    x = batch((4, 6, 3, 2), seed=5).float()
    alone = torch.cat([norm(sample) for sample in x.split(1, dim=1)], dim=1)
    torch.testing.assert_close(norm(x), alone, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(v, kept[k]) for k, v in norm.state_dict().items())


@pytest.mark.parametrize("option", CHOICES.options("norm"))
def test_every_option(option):
    cfg = CHOICES.compose([f"norm={option}", "dataset.steps=4"])
    make = factory(cfg.norm)
    assert make is not None
    norm = make(3)
    if option == "none":
        assert norm is None and instantiate(cfg.norm, channels=3) is None
        return
    for shape in SHAPES:
        x = batch(shape).float().requires_grad_()
        y = norm(x)
        assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
        (y * batch(shape, seed=3)).sum().backward()
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
    fresh = make(3)
    fresh.load_state_dict(norm.state_dict(), strict=True)
    assert torch.equal(norm.eval()(x), fresh.eval()(x))
    assert not {id(p) for p in fresh.parameters()} & {id(p) for p in norm.parameters()}


@pytest.mark.parametrize("option", ["batch", "bntt"])
def test_mixed_precision_keeps_statistics_in_float32(option):
    cfg = CHOICES.compose([f"norm={option}", "dataset.steps=4"])
    norm = instantiate(cfg.norm, channels=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(batch((4, 6, 3)).bfloat16())
    assert y.shape == (4, 6, 3) and y.isfinite().all()
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    assert norm.running_mean.any()


def test_one_sample_that_is_repeated_can_be_trained_on():
    norm = BatchNorm(3)
    x = batch((1, 3)).float().requires_grad_()
    y = norm(x.expand(4, 1, 3))  # the last batch of an epoch may hold one sample
    torch.testing.assert_close(y, torch.zeros(4, 1, 3), rtol=0, atol=1e-3)
    assert norm.running_mean.any() and norm.running_var.isfinite().all()


def test_one_value_a_channel_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        BatchNorm(3)(torch.zeros(1, 1, 3))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_per_step_is_torchs_batch_norm_of_one_step_after_the_other(shape, static):
    own = moved(BatchNorm(3, eps=1e-3, momentum=0.3, per_step=True))
    torchs = nn.BatchNorm1d if len(shape) < 5 else nn.BatchNorm2d
    other = moved(torchs(3, eps=1e-3, momentum=0.3))
    weights = batch(shape, seed=9)
    for mode, seed in ((True, 0), (True, 1), (False, 2)):
        own.train(mode)
        other.train(mode)
        x = batch(shape, seed)
        leaves = [(x[0] if static else x).clone().requires_grad_() for _ in range(2)]
        one, two = (leaf.expand(shape) for leaf in leaves)
        y, expected = own(one), torch.stack([other(step) for step in two])
        assert not static or y.stride(0) == 0
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        own.zero_grad()
        other.zero_grad()
        (y * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-10, atol=1e-12)
        for p, q in zip(own.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)
    for key, value in own.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-12, atol=1e-12)
