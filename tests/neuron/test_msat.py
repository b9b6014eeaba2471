"""The neuron whose threshold follows its potential and its input."""

import math

import numpy as np
import pytest
import torch

from snnrun.neuron import IF, MSAT, scan
from snnrun.surrogate import ATan


def by_hand(x: np.ndarray, gamma: int, dtt: bool, det: bool) -> np.ndarray:
    """The docstring's equations, with theta 1.5, alpha 0.3, ka 0.8, ki 0.7, C 2, tau_mp 0.6, tau_rd 0.4."""
    v, past, out = np.zeros(x.shape[1:]), [], []
    for t, x_t in enumerate(x):
        d = v - np.mean(past, 0) if t else v
        drive = 0.6 * (0.3 * d - 1.5 + 0.8 * np.log1p(np.exp(d / 0.7))) * dtt
        drive = drive + 0.4 * np.exp(-x_t / 2) * det
        theta = 1.5 / (1 + np.exp(-drive)) if t and (dtt or det) else np.full_like(v, 1.5)
        v = v + x_t
        k = np.clip(np.floor(v / theta), 0, gamma)
        v = v - k * theta
        past.append(v)
        out.append(k * theta)
    return np.stack(out)


@pytest.mark.parametrize("gamma", [1, 4])
@pytest.mark.parametrize(("dtt", "det"), [(True, True), (True, False), (False, True)])
def test_equations(gamma, dtt, det):
    constants = {"alpha": 0.3, "ka": 0.8, "ki": 0.7, "C": 2.0, "tau_mp": 0.6, "tau_rd": 0.4}
    neuron = MSAT(ATan(), 1.5, use_dtt=dtt, use_det=det, gamma=gamma, **constants)
    x = np.random.default_rng(1).normal(0.7, 1.0, (40, 6, 5))
    expected = by_hand(x, gamma, dtt, det)
    for kernel in (type(neuron).kernel, scan):
        neuron.kernel = kernel
        out = neuron(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
    assert len(np.unique(expected.round(6))) > 50  # the size of a spike changes


def test_without_both_terms_it_is_the_if_neuron_of_that_threshold():
    x = torch.randn(30, 4, 5, generator=torch.Generator().manual_seed(2)) + 0.3
    out = MSAT(ATan(), 0.75, use_dtt=False, use_det=False)(x)
    assert torch.equal(out, 0.75 * IF(ATan(), 0.75, reset="soft")(x))


def test_the_threshold_of_the_first_step_is_the_largest():
    neuron, x = MSAT(ATan(), 2.0), torch.linspace(-1, 3, 20).view(20, 1)
    state = neuron.init_state(x)
    assert neuron.threshold_at(x, state).eq(2).all()
    _, state = neuron.step(x, state)
    later = neuron.threshold_at(x, state)
    assert (later > 0).all() and (later < 2).all()
    assert later[0] > later[4]  # a smaller input, a larger threshold


def test_one_threshold_a_channel():
    neuron, x = MSAT(ATan()), torch.rand(6, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    alone = [MSAT(ATan(), c)(x[:, :, i : i + 1]) for i, c in enumerate((0.5, 1.0, 1.5))]
    del neuron.threshold
    neuron.register_buffer("threshold", torch.tensor([0.5, 1.0, 1.5]))
    torch.testing.assert_close(neuron(x), torch.cat(alone, 2), rtol=1e-6, atol=1e-6)


def test_start_is_in_units_of_the_threshold_and_spikes_are_events():
    neuron = MSAT(ATan(), 2.0, reset_value=0.5)
    assert neuron.init_state(torch.zeros(1, 1))[0].item() == 1
    assert neuron.spikes(torch.tensor([0.0, 0.3, 2.0])).tolist() == [0, 1, 1]
    assert neuron(torch.tensor([[[1.0]]])).item() == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"ki": 0.0}, "must not be 0"), ({"C": 0.0}, "must not be 0"), ({"gamma": 0}, "at least 1")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        MSAT(ATan(), **settings)
    with pytest.raises(ValueError, match="unit must be activation or normalised, got 'volt'"):
        MSAT(ATan(), unit="volt")  # pyright: ignore[reportArgumentType]
    assert math.isfinite(MSAT(ATan())(torch.full((3, 1, 1), 1e3)).sum())
