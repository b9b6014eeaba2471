"""The integrator that never fires."""

import numpy as np
import pytest
import torch

from snnrun.neuron import LI


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def test_by_hand():
    # tau 2: (v + x) / 2
    assert LI()(column(1, 2, -4)).flatten().tolist() == [0.5, 1.25, -1.375]
    # tau 4, input whole: 3/4 v + x
    out = LI(tau=4.0, decay_input=False)(column(1, 2, -4))
    assert out.flatten().tolist() == [1, 2.75, -1.9375]


def test_no_memory_and_no_leak():
    x = column(1, 2, -4)
    assert torch.equal(LI(tau=1.0)(x), x)
    assert torch.equal(LI(tau=float("inf"), decay_input=False)(x), x.cumsum(0))


@pytest.mark.parametrize("tau", [1.5, 7.0])
@pytest.mark.parametrize("decay_input", [True, False])
def test_is_an_exponential_filter(tau, decay_input):
    x = np.random.default_rng(0).normal(size=(9, 4))
    age = np.arange(9)[:, None] - np.arange(9)[None]
    weights = np.where(age >= 0, (1 - 1 / tau) ** np.maximum(age, 0), 0)
    expected = weights @ x / (tau if decay_input else 1)
    out = LI(tau, decay_input)(torch.from_numpy(x).unsqueeze(1))
    np.testing.assert_allclose(out[:, 0].numpy(), expected, rtol=1e-12, atol=1e-15)


def test_counts_no_spikes():
    out = LI()(column(5, 5, 5))
    assert not LI().spikes(out).any()


@pytest.mark.parametrize("tau", [0.5, 0, -1.0])
def test_tau_too_small(tau):
    with pytest.raises(ValueError) as error:
        LI(tau=tau)
    assert str(error.value) == f"tau must be at least 1, got {tau}."


def test_tau_that_ignores_the_input():
    with pytest.raises(ValueError) as error:
        LI(tau=float("inf"))
    assert str(error.value) == (
        "tau=inf with decay_input=true ignores every input; set decay_input=false to sum the input."
    )
