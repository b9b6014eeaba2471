"""Neurons whose rate is a clamp of their input's."""

import math

import pytest
import torch
from torch import Tensor

from snnrun.neuron import DSRIF, DSRLIF
from snnrun.surrogate import ATan


def constant(value: float, steps: int) -> Tensor:
    return torch.full((steps, 1, 1), value, dtype=torch.float64)


def average(z: Tensor, decay: float) -> Tensor:
    """Weighted by the definition: the last step counts whole."""
    weights = torch.tensor([decay ** (len(z) - t) for t in range(1, len(z) + 1)]).to(z)
    return torch.tensordot(weights, z, 1) / weights.sum()


def test_three_steps_by_hand():
    # alpha V = 3: 2 is silent, 2 + 1 = 3 fires and leaves -3, -3 + 8 = 5 fires
    neuron = DSRIF(ATan(), 6.0, alpha=0.5).double()
    out = neuron(torch.tensor([2.0, 1, 8]).double().view(3, 1, 1))
    assert out.flatten().tolist() == [0, 6, 6]
    assert neuron.spikes(out).flatten().tolist() == [0, 1, 1]
    leaky = DSRLIF(ATan(), tau=1.0, dt=math.log(2), threshold=1.0, alpha=1.0).double()
    # beta = 1/2: 3/4 is silent, 9/8 fires and leaves 1/8, 13/16 is silent
    out = leaky(constant(1.5, 3))
    assert out.flatten().tolist() == pytest.approx([0, 1 / math.log(2), 0])


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_the_rate_is_the_clamp_within_a_spike(alpha, steps):
    """The residue of the potential is all that the two differ by."""
    for x in (-1.0, 0.0, 0.3, 1.7, 2.0, 3.5):
        neuron = DSRIF(ATan(), 2.0, alpha=alpha).double()
        rate = neuron(constant(x, steps)).mean().item()
        assert abs(rate - min(max(x, 0), 2)) <= (2 * max(alpha, 1 - alpha) + 1e-9) / steps or x < 0
        assert x > 0 or rate == 0


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_the_weighted_rate_of_a_leaky_one_is_the_clamp_over_tau(tau):
    neuron = DSRLIF(ATan(), tau=tau, dt=0.01, threshold=0.02, alpha=0.5).double()
    for x in (-1.0, 0.2, 0.7, 5.0):
        rate = average(neuron(constant(x, 400)), math.exp(-0.01 / tau)).item()
        assert rate == pytest.approx(min(max(x / tau, 0), 2.0), abs=0.05)


@pytest.mark.parametrize("made", [DSRIF, DSRLIF])
def test_the_state_knows_the_average_of_the_input(made):
    neuron = made(ATan()).double()
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    _, (_, total) = neuron.kernel(neuron, x, neuron.init_state(x[0]))
    torch.testing.assert_close(total / neuron.whole(7), average(x, neuron.decay))
    assert neuron.whole(7) == pytest.approx(sum(neuron.weights(7)))


def test_regions():
    """The ends belong to the linear part without a leak, and not with one."""
    a = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1])
    inside, above = DSRIF(ATan(), 1.0).regions(a)
    assert inside.tolist() == [False, True, True, True, False]
    assert above.tolist() == [False, False, False, False, True]
    inside, above = DSRLIF(ATan(), tau=2.0, dt=0.5, threshold=0.25, bound=0.25).regions(a)
    assert inside.tolist() == [False, False, True, False, False]
    assert above.tolist() == [False, False, False, False, True]


def test_a_threshold_below_its_bound_counts_as_the_bound():
    low, bound = DSRIF(ATan(), 1.0, bound=1.0).double(), DSRIF(ATan(), 1.0, bound=1.0).double()
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    for value in (0.3, 0.0, -2.0):
        low.threshold.data.fill_(value)
        assert torch.equal(low(x), bound(x))
        assert all(torch.equal(*p) for p in zip(low.regions(x), bound.regions(x), strict=True))


def test_a_threshold_that_is_not_learned_is_kept_with_the_weights():
    neuron = DSRIF(ATan(), learnable=False)
    assert not list(neuron.parameters()) and list(neuron.state_dict()) == ["threshold"]


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (DSRIF, {"bound": 0.0}, "bound must be above 0, got 0.0."),
        (DSRIF, {"threshold": 0.001}, "threshold must be at least bound=0.01, got 0.001."),
        (DSRIF, {"alpha": 1.5}, "alpha must be above 0 and at most 1, got 1.5."),
        (DSRLIF, {"tau": 0.0}, "tau must be above 0 and finite, got 0.0."),
        (DSRLIF, {"dt": float("inf")}, "dt must be above 0 and finite, got inf."),
    ],
)
def test_wrong_options(made, options, message):
    with pytest.raises(ValueError) as error:
        made(ATan(), **options)
    assert str(error.value) == message
