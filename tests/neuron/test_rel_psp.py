"""Spike times of the ReL-PSP neuron: loops and arrays against a search along time, gradients against differences."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

from snnrun.neuron import RelPSP
from snnrun.neuron import first_spike as module
from snnrun.neuron.first_spike import FirstSpike, first_spike
from snnrun.neuron.kernel import choose

KERNELS = {"loops": FirstSpike(), "arrays": FirstSpike("scan")}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
DOUBLE = torch.float64


def draw(rows: int, inputs: int, neurons: int, seed: int = 0, silent: float = 0.3):
    """Times, some of them silent and some of them equal, and weights of either sign."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(rows, inputs, dtype=DOUBLE, generator=generator)
    times = torch.where(times > 0.7, (times * 8).round() / 8, times)
    gone = torch.rand(rows, inputs, dtype=DOUBLE, generator=generator) < silent
    weight = torch.randn(neurons, inputs, dtype=DOUBLE, generator=generator) + 0.4
    return times.masked_fill(gone, torch.inf), weight


def by_search(times: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """Each neuron alone: follow its potential from input to input until it is at the threshold."""
    out = torch.full((len(times), len(weight)), torch.inf, dtype=DOUBLE)
    for b, row in enumerate(times):
        knots = sorted({float(t) for t in row if t < torch.inf})
        for i, w in enumerate(weight):
            for now, following in zip(knots, [*knots[1:], float("inf")], strict=True):
                past = [(float(t), float(v)) for t, v in zip(row, w, strict=True) if t <= now]
                height, slope = sum(v * (now - t) for t, v in past), sum(v for _, v in past)
                at = now + (threshold - height) / slope if slope > 0 else float("inf")
                if at <= following and at < float("inf"):
                    out[b, i] = at
                    break
    return out


@each_kernel
@pytest.mark.parametrize("shape", [(4, 9, 5), (3, 1, 2), (2, 30, 130), (5, 6, 64)])
def test_times_are_when_the_potential_reaches_the_threshold(kernel, shape):
    times, weight = draw(*shape)
    expected = by_search(times, weight, 1.0)
    out = kernel(times, weight, 1.0, torch.inf)
    assert expected.isfinite().any() and (expected.isinf().any() or shape[1] == 1)
    assert torch.equal(out.isinf(), expected.isinf())
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=0)


@each_kernel
def test_a_potential_equal_to_the_threshold_fires_before_the_input_at_that_time(kernel):
    times = torch.tensor([[0.0, 2.0, 2.0]], dtype=DOUBLE)
    weight = torch.tensor([[0.5, -8.0, 8.0], [0.25, 1.0, 0.0], [0.25, -0.25, 0.0]], dtype=DOUBLE)
    weight.requires_grad_()
    out = kernel(times, weight, 1.0, torch.inf)
    assert out.tolist() == [[2.0, 2.4, float("inf")]]
    out[0, 0].backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[-4.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3]


@each_kernel
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 4)])
def test_no_input_no_spike(kernel, shape):
    rows, inputs, neurons = shape
    times = torch.full((rows, inputs), torch.inf, requires_grad=True)
    weight = torch.ones(neurons, inputs, requires_grad=True)
    out = kernel(times, weight, 1.0, torch.inf)
    assert out.shape == (rows, neurons) and out.isinf().all()
    torch.autograd.backward(out, torch.ones_like(out))
    assert times.grad is not None and not times.grad.any()
    assert weight.grad is not None and not weight.grad.any()


@each_kernel
@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_differences(kernel, seed):
    times, weight = draw(3, 8, 4, seed=seed, silent=0.0)

    def run(times: Tensor, weight: Tensor) -> Tensor:
        out = kernel(times, weight, 1.0, torch.inf)
        return torch.where(out < 10, out, 0)  # a late spike has a slope near zero

    free = times + 1e-3 * torch.arange(8, dtype=DOUBLE)  # without ties
    assert run(free, weight).count_nonzero() > 4
    assert torch.autograd.gradcheck(run, (free.requires_grad_(), weight.requires_grad_()))


@each_kernel
def test_what_a_horizon_a_bound_and_a_pull_change(kernel):
    """Slopes 2 and 1/2 fire at 1/2 and 2; the third neuron falls."""
    times = torch.zeros(1, 1, dtype=DOUBLE, requires_grad=True)
    weight = torch.tensor([[2.0], [0.5], [-1.0]], dtype=DOUBLE, requires_grad=True)

    def gradients(kernel: FirstSpike, horizon: float) -> tuple[list, list]:
        out = kernel(times, weight, 1.0, horizon)
        found = torch.autograd.grad(out, (times, weight), torch.tensor([[1.0, 1.0, 8.0]]).double())
        return out[0].tolist(), [found[0].item(), *found[1].flatten().tolist()]

    inf = float("inf")
    assert gradients(kernel, inf) == ([0.5, 2.0, inf], [2.0, -0.25, -4.0, 0.0])
    assert gradients(kernel, 1.5) == ([0.5, inf, inf], [1.0, -0.25, 0.0, 0.0])
    assert gradients(kernel, 2.0) == ([0.5, 2.0, inf], [2.0, -0.25, -4.0, 0.0])
    bound = FirstSpike(kernel.choice, grad_clip=1.0)
    assert gradients(bound, inf) == ([0.5, 2.0, inf], [1.5, -0.25, -2.0, 0.0])
    pulled = FirstSpike(kernel.choice, raises=True)  # g times that of -V(3/2) = -3/2 w
    assert gradients(pulled, 1.5) == ([0.5, inf, inf], [1.0 + 0.5 - 8.0, -0.25, -1.5, -12.0])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads, monkeypatch):
    times, weight = draw(7, 40, 100)
    times.requires_grad_(), weight.requires_grad_()
    found = []
    for count in (1, threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        monkeypatch.setattr(module, "WORK", 1)
        out = FirstSpike()(times, weight, 1.0, torch.inf)
        loss = torch.where(out < 10, out, 0).square().sum()
        found.append((out, *torch.autograd.grad(loss, (times, weight))))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-12, atol=1e-12)


def test_arrays_in_portions(monkeypatch):
    times, weight = draw(7, 9, 5)
    whole = FirstSpike("scan")(times, weight, 1.0, torch.inf)
    monkeypatch.setattr(module, "MOST", 100)
    assert torch.equal(FirstSpike("scan")(times, weight, 1.0, torch.inf), whole)
    times.requires_grad_(), weight.requires_grad_()
    grads = []
    for most in (100, 10**6):
        monkeypatch.setattr(module, "MOST", most)
        out = FirstSpike("scan")(times, weight, 1.0, torch.inf)
        grads.append(torch.autograd.grad(torch.where(out < 10, out, 0).sum(), (times, weight)))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_narrow_types_are_computed_in_float32(dtype, near):
    times, weight = draw(6, 9, 5)
    times, weight = times.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    out = FirstSpike()(times, weight, 1.0, torch.inf)
    expected = FirstSpike("scan")(times.double(), weight.double(), 1.0, torch.inf)
    assert out.dtype == dtype
    early = expected < 10
    torch.testing.assert_close(out[early].double(), expected[early], rtol=near, atol=0)
    torch.where(out < 10, out, 0).sum().backward()
    for leaf in (times, weight):
        assert leaf.grad is not None and leaf.grad.dtype == dtype and leaf.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operators_keep_their_promises():
    """Shapes for tracing, gradients, nothing changed in place: what torch.compile relies on."""
    times, weight = draw(4, 6, 3)
    for looped in (True, False):
        given = (times.requires_grad_(), weight.requires_grad_(), 1.0, 5.0, looped, None, False)
        torch.library.opcheck(first_spike, given)


def test_without_numbers():
    out = FirstSpike()(torch.empty(3, 4, device="meta"), torch.empty(2, 4, device="meta"), 1.0, 2.0)
    assert out.shape == (3, 2) and out.device.type == "meta"


def test_a_neuron_is_copied_and_told_how_to_run():
    neuron = RelPSP(0.5, horizon=2.0)
    neuron.kernel = choose(FirstSpike(grad_clip=3.0), "scan")  # pyright: ignore
    assert neuron.kernel == FirstSpike("scan", grad_clip=3.0)
    times, weight = draw(4, 6, 3)
    out = neuron.respond(times, weight)
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(other.respond(times, weight), out)
    assert torch.equal(neuron.spikes(out), (out <= 2).double())


@pytest.mark.parametrize("settings", [{"threshold": 0.0}, {"horizon": -1.0}])
def test_refuses_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"neuron.{name} must be above 0, got {value}"):
        RelPSP(**settings)
