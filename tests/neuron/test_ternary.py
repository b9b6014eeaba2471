"""Neurons whose spike has the gradient of a clamp."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from snnrun.neuron import Binary, Neuron, Ternary, scan
from snnrun.neuron.kernel import Fused


def sequence(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1).requires_grad_()


def test_three_steps_by_hand():
    # h = 0.5 fires, -0.25 does not, -0.0625 - 0.4375 = -0.5 fires
    neuron = Ternary().double()
    assert neuron.amplitude is not None
    neuron.amplitude.data.fill_(-3)
    out = neuron(sequence(0.5, -0.25, -0.4375))
    assert out.flatten().tolist() == [-3, 0, 3]
    assert neuron.spikes(out).flatten().tolist() == [1, 0, 1]
    out.sum().backward()
    assert neuron.amplitude.grad is not None and neuron.amplitude.grad.tolist() == [0]


@pytest.mark.parametrize("kernel", [Fused(), scan], ids=["fused", "scan"])
@pytest.mark.parametrize("threshold", [1.0, 2.0])
def test_levels_of_firing_and_of_the_derivative_belong_to_them(kernel, threshold):
    r = (-1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    x = (threshold * torch.tensor(r, dtype=torch.float64)).view(1, 1, -1).requires_grad_()
    expected = {
        Ternary: ([-1, -1, -1, -1, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]),
        Binary: ([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]),
    }
    for made, (spikes, slopes) in expected.items():
        neuron = made(threshold=threshold).double()
        neuron.kernel = kernel
        out = neuron(x)
        assert out.flatten().tolist() == spikes
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert (threshold * grad).flatten().tolist() == slopes


def test_without_ends_the_derivative_at_one_is_zero_and_all_else_the_same():
    neuron = Ternary(learnable=False).double()
    neuron.ends = False
    x = torch.tensor([-1, -0.75, 0.75, 1], dtype=torch.float64).view(1, 1, -1).requires_grad_()
    out = neuron(x)
    assert out.flatten().tolist() == [-1, -1, 1, 1]
    assert torch.autograd.grad(out.sum(), x)[0].flatten().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("made", [Ternary, Binary])
def test_gradient_equals_the_published_recursion(made):
    kappa, level = 0.5, 1.25
    neuron = made(kappa, level).double()
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, 7, 5, 4, dtype=torch.float64, generator=generator)
    x.requires_grad_()
    out = neuron(x)
    (grad,) = torch.autograd.grad((out * weights).sum(), x)
    u, inside, after = torch.zeros(5, 4, dtype=torch.float64), [], []
    for t in range(7):
        h = kappa * u + x[t].detach()
        s, f = out[t].detach(), (h / level >= (-1 if made is Ternary else 0)) & (h <= level)
        f = f.double() / level
        u = h * (1 - s.abs())
        inside.append(f)
        after.append(1 - s.abs() - h * (s.sign() if made is Ternary else 1) * f)
    carried, expected = torch.zeros_like(u), []
    for t in reversed(range(7)):
        delta = weights[t] * inside[t] + kappa * carried * after[t]
        expected.append(delta)
        carried = delta
    torch.testing.assert_close(grad, torch.stack(expected[::-1]), rtol=1e-12, atol=1e-12)
    assert out.abs().sum() > 0 and (out.abs() < 1).any()


def test_where_all_fire_beyond_the_clamp_only_the_amplitude_has_a_gradient():
    neuron = Ternary(per_channel=True, channels=2).double()
    x = 3 * torch.tensor([[[1, -1]], [[-1, 1]], [[1, 1]]], dtype=torch.float64)

    def run(x: Tensor, amplitude: Tensor) -> Tensor:
        return scan(neuron, x, neuron.init_state(x[0]))[0]

    assert neuron.amplitude is not None
    assert gradcheck(run, (x.requires_grad_(), neuron.amplitude))
    (grad,) = torch.autograd.grad(run(x, neuron.amplitude).sum(), neuron.amplitude)
    assert grad.tolist() == [1, 1]


def test_the_amplitude_is_one_a_layer_one_a_channel_or_none():
    assert Ternary(learnable=False).amplitude is None
    assert torch.equal(Ternary().amplitude, torch.ones(1))
    assert torch.equal(Ternary(per_channel=True, channels=3).amplitude, torch.ones(3))
    with pytest.raises(ValueError, match="per_channel needs channels"):
        Ternary(per_channel=True)


def test_an_amplitude_a_channel_acts_on_its_channel():
    neuron = Ternary(per_channel=True, channels=3)
    assert neuron.amplitude is not None
    neuron.amplitude.data = torch.tensor([1.0, -2.0, 0.5])
    out = neuron(torch.ones(2, 4, 3, 5, 5))
    assert (out == neuron.amplitude.view(3, 1, 1)).all()


def test_spikes_of_either_sign_count_and_a_trained_amplitude_does_not():
    neuron = Ternary()
    assert neuron.amplitude is not None
    neuron.amplitude.data.fill_(0.3)
    out = neuron(torch.randn(5, 8, 10, generator=torch.Generator().manual_seed(0)))
    counted = neuron.spikes(out)
    assert set(counted.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(counted, (out.abs() > 0.2).float())
    assert (out < 0).any() and (out > 0).any()


@pytest.mark.parametrize("made", [Ternary, Binary])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.5}, "decay must lie between 0 and 1, got 1.5."),
        ({"threshold": 0.0}, "threshold must be above 0, got 0.0."),
    ],
)
def test_constants_that_make_no_neuron(made, arguments, message):
    with pytest.raises(ValueError) as error:
        made(**arguments)
    assert str(error.value) == message


def test_the_amplitude_is_free_of_weight_decay():
    assert Ternary.undecayed == {"amplitude"} and not Neuron.undecayed
