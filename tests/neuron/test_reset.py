"""What a spike does to the potential."""

import pytest
import torch

from snnrun.neuron.reset import after_spike, check_reset

H = torch.tensor([0.5, 1.5, 2.0, -1.0], dtype=torch.float64)
S = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)


def test_values():
    common = {"detach": True}
    assert after_spike(H, S, 1.0, reset="hard", reset_value=0.0, **common).tolist() == [
        *(0.5, 0, 0, -1)
    ]
    assert after_spike(H, S, 1.0, reset="hard", reset_value=-0.25, **common).tolist() == [
        *(0.5, -0.25, -0.25, -1)
    ]
    assert after_spike(H, S, 1.25, reset="soft", reset_value=-9.0, **common).tolist() == [
        *(0.5, 0.25, 0.75, -1)
    ]
    assert after_spike(H, S, 1.0, reset="none", reset_value=-9.0, **common) is H


def test_threshold_may_be_a_tensor():
    threshold = torch.tensor([1.0, 1.5, 0.5, 1.0], dtype=torch.float64)
    v = after_spike(H, S, threshold, reset="soft", reset_value=0.0, detach=True)
    assert v.tolist() == [0.5, 0, 1.5, -1]


@pytest.mark.parametrize(
    ("reset", "slope"),
    [("hard", [-0.75, -1.75, -2.25, 0.75]), ("soft", [-1.0] * 4), ("none", [0.0] * 4)],
)
@pytest.mark.parametrize("detach", [True, False])
def test_gradient_through_the_spike(reset, slope, detach):
    """dv/ds is v_r - h (hard), -threshold (soft), and 0 where it is detached."""
    h, s = H.clone().requires_grad_(), S.clone().requires_grad_()
    v = after_spike(h, s, 1.0, reset=reset, reset_value=-0.25, detach=detach)
    of_h, of_s = torch.autograd.grad(v.sum(), (h, s), materialize_grads=True)
    assert of_s.tolist() == (slope if not detach else [0.0] * 4)
    assert of_h.tolist() == ([1, 0, 0, 1] if reset == "hard" else [1] * 4)


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_known_resets(reset):
    check_reset(reset)


def test_unknown_reset():
    with pytest.raises(ValueError) as error:
        check_reset("Hard")
    assert str(error.value) == "reset must be hard, soft or none, got 'Hard'."
