"""What an ANN has in the place of neurons."""

import pytest
import torch

from snnrun.neuron import IF
from snnrun.rule.activation import QCFS, ReLU
from snnrun.surrogate import ATan


def qcfs(levels: int = 4, threshold: float = 2.0) -> QCFS:
    return QCFS(IF(ATan(), reset="soft"), levels, threshold).double()


def test_rectifier():
    assert ReLU(IF(ATan()))(torch.tensor([-1.0, 0.0, 2.5])).tolist() == [0, 0, 2.5]


def test_steps_by_hand():
    z = torch.tensor([-1.0, 0.2, 0.3, 0.7, 0.8, 1.9, 2.0, 9.0], dtype=torch.float64)
    assert qcfs()(z).tolist() == [0, 0, 0.5, 0.5, 1, 2, 2, 2]
    assert len(qcfs(8)(torch.linspace(-1, 3, 500).double()).unique()) == 9


def test_gradient_of_the_input_is_1_from_0_to_1_both_ends_included():
    z = torch.tensor([-0.1, 0.0, 0.7, 2.0, 2.1], dtype=torch.float64, requires_grad=True)
    qcfs()(z).sum().backward()
    assert z.grad is not None and z.grad.tolist() == [0, 1, 1, 1, 0]


def test_gradient_of_the_scale():
    z = torch.linspace(-2, 4, 60, dtype=torch.float64)
    weights = torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = qcfs()
    y = made(z)
    (y * weights).sum().backward()
    inside = (z >= 0) & (z <= 2)
    expected = torch.where(inside, (y - z) / 2, y / 2).detach()
    assert made.threshold.grad is not None
    torch.testing.assert_close(made.threshold.grad.sum(), (weights * expected).sum())


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_a_constant_input_to_a_neuron_that_starts_at_half_gives_the_same_sum(levels):
    """With as many steps as there are levels, away from the places where two levels meet."""
    z = torch.linspace(-1, 3, 403, dtype=torch.float64)
    edges = (z / 2 * levels + 0.5).frac().abs()
    z = z[(edges > 1e-3) & (edges < 1 - 1e-3)]
    unit = IF(ATan(), threshold=1.0, reset="soft", reset_value=0.5)
    rate = unit((z / 2).expand(levels, 1, len(z))).mean(0)[0]
    torch.testing.assert_close(2 * rate, qcfs(levels)(z).detach())
