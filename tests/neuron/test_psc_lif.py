"""The LIF neuron that gives out traces, against its equations in NumPy; and spikes read from traces."""

import numpy as np
import pytest
import torch

from snnrun.neuron import PSCLIF
from snnrun.neuron.psc_lif import unfilter
from snnrun.surrogate import ATan


def draw(steps: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 1.0, (steps, 3, 7))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(("tau_m", "tau_s", "threshold"), [(5, 3, 1.0), (8, 4, 0.6), (1, 1, 1.0)])
def test_forward(reset, tau_m, tau_s, threshold):
    x = draw()
    neuron = PSCLIF(ATan(), tau_m, tau_s, threshold, reset=reset)
    out = neuron(torch.from_numpy(x))
    r = np.zeros((3, 7))
    spikes = np.zeros_like(x)
    for t in range(len(x)):
        u = r + x[t] - r / tau_m
        spikes[t] = u > threshold
        r = np.where(spikes[t], 0, u) if reset == "zero" else u - threshold * spikes[t]
    epsilon = (1 - 1 / tau_s) ** np.arange(len(x)) / tau_s
    traces = np.apply_along_axis(lambda s: np.convolve(s, epsilon)[: len(x)], 0, spikes)
    np.testing.assert_allclose(out.numpy(), traces, rtol=1e-12, atol=1e-14)
    assert 0.1 < spikes.mean() < 0.9
    np.testing.assert_array_equal(neuron.spikes(out).numpy(), spikes)


def test_a_potential_at_the_threshold_does_not_fire():
    out = PSCLIF(ATan(), threshold=1.0)(torch.tensor([[[1.0, 1.0 + 1e-6]]]))
    assert (out > 0).tolist() == [[[False, True]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tau_s", [1.0, 2.0, 3.0, 4.0, 10.0])
def test_spikes_are_exact_in_every_precision(dtype, tau_s):
    spikes = (torch.rand(100, 500, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    a, rows = torch.zeros(500, dtype=torch.float64), []
    for s in spikes:
        a = a + (s - a) / tau_s
        rows.append(a)
    neuron = PSCLIF(ATan(), tau_s=tau_s)
    found = neuron.spikes(torch.stack(rows).to(dtype))
    assert found.dtype == dtype and torch.equal(found.double(), spikes)


def test_unfilter_is_linear():
    a, b = (torch.from_numpy(draw(seed=s)) for s in (1, 2))
    both = unfilter(2 * a - b, 3.0)
    torch.testing.assert_close(both, 2 * unfilter(a, 3.0) - unfilter(b, 3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_m": 0.5}, "tau_m must be at least 1 and finite, got 0.5"),
        ({"tau_s": float("inf")}, "tau_s must be at least 1 and finite, got inf"),
        ({"reset": "hard"}, "reset must be zero or subtract, got 'hard'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        PSCLIF(ATan(), **options)
