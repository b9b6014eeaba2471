"""What models are made of: layers, pools and dropouts over time."""

import copy

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Dropout, Layer, Pool, layers, over_time, parts
from snnrun.model.layers import with_norm
from snnrun.neuron import ALIF, LI, LIF, PLIF, Neuron, carry
from snnrun.norm import BNTT, BatchNorm
from snnrun.surrogate import ATan


def double(*shape: int, seed: int = 0) -> Tensor:
    return (
        torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    )


class Counting(nn.Module):
    """A linear map that notes what it was given."""

    def __init__(self):
        super().__init__()
        self.given: list[tuple[int, ...]] = []
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(tuple(x.shape))
        return x @ self.weight


def test_over_time_merges_time_and_batch():
    module, x = Counting(), double(5, 4, 3)
    y = over_time(module, x)
    assert module.given == [(20, 3)]
    expected = torch.stack([x_t @ module.weight for x_t in x])
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=0)


def test_over_time_computes_a_repeated_input_once():
    module, x = Counting(), double(4, 3)
    y = over_time(module, x.expand(5, 4, 3))
    assert module.given == [(4, 3)]
    assert y.shape == (5, 4, 2) and y.stride(0) == 0
    copied = over_time(module, x.repeat(5, 1, 1))
    torch.testing.assert_close(y, copied, rtol=1e-14, atol=0)


def test_over_time_of_a_repeated_input_has_the_gradient_of_all_steps():
    weights, gradients = double(5, 4, 2, seed=1), []
    for repeat in (lambda x: x.expand(5, 4, 3), lambda x: x.repeat(5, 1, 1)):
        module, x = Counting(), double(4, 3).requires_grad_()
        (over_time(module, repeat(x)) * weights).sum().backward()
        gradients.append((x.grad, module.weight.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(1, 4, 3), (5, 0, 3), (1, 1, 3)])
def test_over_time_of_one_step_and_of_no_samples(shape):
    assert over_time(Counting(), double(*shape)).shape == (*shape[:2], 2)


def test_over_time_of_images():
    convolution = nn.Conv2d(2, 4, 3).double()
    x = double(3, 2, 2, 6, 6)
    expected = torch.stack([convolution(x_t) for x_t in x])
    torch.testing.assert_close(over_time(convolution, x), expected, rtol=1e-10, atol=1e-12)


def test_layer_is_synapse_then_norm_then_neuron():
    torch.manual_seed(0)
    layer = Layer(nn.Linear(3, 4), BatchNorm(4), LIF(ATan())).double()
    other = copy.deepcopy(layer)
    x = double(5, 6, 3)
    current = torch.stack([other.synapse(x_t) for x_t in x])
    assert isinstance(other.norm, BatchNorm)
    expected = other.neuron(other.norm(current))
    out = layer(x)
    assert torch.equal(out, expected) and 0 < out.mean() < 1


def test_layer_without_norm_or_neuron_passes_its_current_on():
    layer = Layer(nn.Linear(3, 4), None, None).double()
    x = double(5, 2, 3)
    torch.testing.assert_close(layer(x), layer.synapse(x), rtol=1e-12, atol=1e-14)
    assert isinstance(layer.neuron, nn.Identity)


def test_layer_without_synapse_is_its_neuron():
    neuron = LIF(ATan())
    x = double(5, 2, 3)
    assert torch.equal(Layer(nn.Identity(), None, neuron)(x), neuron(x))
    assert Layer(nn.Identity(), None, None)(x) is x


def recurrent(neuron: Neuron, norm: nn.Module | None = None) -> Layer:
    torch.manual_seed(1)
    layer = Layer(nn.Linear(3, 4), norm, neuron, nn.Linear(4, 4, bias=False)).double()
    assert layer.recurrent is not None
    with torch.no_grad():
        layer.recurrent.weight.normal_(0, 0.7)
        layer.synapse.weight.mul_(3)
        layer.synapse.bias.add_(1)
    return layer


@pytest.mark.parametrize("detach_reset", [True, False])
def test_recurrent_layer_equals_a_loop_by_hand(detach_reset):
    """LIF of tau 2 with its own last spikes as input: forward, and the gradient of every weight."""
    layer = recurrent(LIF(ATan(), detach_reset=detach_reset))
    assert layer.recurrent is not None
    x, weights = double(7, 5, 3).requires_grad_(), double(7, 5, 4, seed=1)
    v = s = torch.zeros(5, 4, dtype=torch.float64)
    by_hand = []
    for t in range(7):
        current = x[t] @ layer.synapse.weight.T + layer.synapse.bias + s @ layer.recurrent.weight.T
        h = v + (current - v) / 2
        s = ATan()(h - 1)
        v = h * (1 - (s.detach() if detach_reset else s))
        by_hand.append(s)
    expected, out = torch.stack(by_hand), layer(x)
    assert torch.equal(out, expected)
    assert 0.05 < out.mean() < 0.95
    inputs = (x, *layer.parameters())
    given = torch.autograd.grad((out * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "neuron", [LIF(ATan()), ALIF(ATan()), PLIF(ATan(), per_channel=True, channels=4), LI()]
)
@pytest.mark.parametrize("chunks", [[1] * 6, [2, 3, 1]], ids=str)
def test_recurrent_layer_streams(neuron, chunks):
    layer = recurrent(copy.deepcopy(neuron))
    x = double(6, 5, 3)
    whole = layer(x)
    with carry(layer):
        streamed = torch.cat([layer(chunk) for chunk in x.split(chunks)])
    torch.testing.assert_close(streamed, whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x), whole)


def test_recurrent_layer_forgets_gradients_with_detach():
    layer = recurrent(LIF(ATan()))
    x = double(6, 5, 3).requires_grad_()
    with carry(layer, detach=True):
        layer(x[:3])
        second = layer(x[3:])
    (grad,) = torch.autograd.grad(second.sum(), x)
    assert not grad[:3].any() and grad[3:].any()


def test_recurrent_layer_runs_its_neurons_kernel():
    layer = recurrent(LIF(ATan()))
    layer.neuron.kernel = lambda neuron, x, state: (torch.ones_like(x), state)
    assert (layer(double(3, 2, 3)) == 1).all()


def test_recurrent_layer_normalises_its_feedforward_current():
    layer = recurrent(LIF(ATan()), BNTT(4, steps=5))
    other = copy.deepcopy(layer)
    x = double(5, 6, 3)
    plain = recurrent(LIF(ATan()))
    plain.synapse, plain.norm = nn.Identity(), None
    assert other.norm is not None
    assert torch.equal(layer(x), plain(other.norm(over_time(other.synapse, x))))


def test_recurrent_layer_under_mixed_precision():
    layer = recurrent(LIF(ATan())).float()
    states = []

    def watch(neuron, x, state):
        states.extend(s.dtype for s in state)
        return LIF.kernel(neuron, x, state)

    layer.neuron.kernel = watch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(double(4, 2, 3).float())
    assert out.dtype == torch.bfloat16 and set(states) == {torch.float32}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("side", [6, 7])
def test_pool_by_definition(size, side):
    """Windows that are not full are left out."""
    x = double(3, 2, 4, side, side)
    left = side // size
    windows = x[..., : left * size, : left * size].unflatten(-1, (left, size))
    windows = windows.unflatten(-3, (left, size)).transpose(-3, -2).flatten(-2)
    assert torch.equal(Pool("max", size)(x), windows.amax(-1))
    assert torch.equal(Pool("min", size)(x), windows.amin(-1))
    torch.testing.assert_close(Pool("avg", size)(x), windows.mean(-1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_pool_of_spike_times_hands_the_gradient_to_the_first(memory):
    inf = torch.inf
    x = torch.tensor([[2.0, 1.0, inf, inf], [1.0, 3.0, inf, inf]]).repeat(8, 1, 1)[None]
    x = x.contiguous(memory_format=memory).requires_grad_()
    out = Pool("min", 2)(x[None])
    assert out[0, 0, 5].tolist() == [[1.0, inf]]
    (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert grad[0, 5, :, :2].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    padded = Pool("min", 2, stride=1, padding=1)(x[None])
    assert padded[0, 0, 0, 0].tolist() == [2.0, 1.0, 1.0, inf, inf], "nothing fires beyond"


@pytest.mark.parametrize("gain", [1.0, 1.1])
@pytest.mark.parametrize("size", [2, 3])
def test_sum_pool_is_the_mean_times_the_window_and_a_gain(size, gain):
    x = double(3, 2, 4, 7, 6).requires_grad_()
    out = Pool("sum", size, gain=gain)(x)
    expected = gain * size**2 * Pool("avg", size)(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)
    (grad,) = torch.autograd.grad(out.sum(), x)
    inside = grad[..., : 7 // size * size, : 6 // size * size]
    torch.testing.assert_close(inside, torch.full_like(inside, gain), rtol=1e-12, atol=0)


def test_dropout_of_rows_shares_a_draw_along_a_row():
    torch.manual_seed(0)
    x = torch.rand(4, 20, 3, 8, 6) + 0.5
    out = Dropout(0.25, "row")(x)
    kept = out != 0
    assert (kept == kept[:1]).all() and (kept == kept[..., :1]).all()
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert (kept[0, :, :, 0] != kept[0, :, :, 1]).any() and (kept[0, :, 0] != kept[0, :, 1]).any()
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    dense = Dropout(0.25, "row")(torch.ones(4, 20, 30))
    assert (dense[0, 0] == 0).any() and (dense[0, 0] != 0).any(), "dense: a draw for every neuron"


def test_dropout_with_a_draw_for_every_step():
    torch.manual_seed(0)
    x = torch.rand(6, 50, 40) + 0.5
    out = Dropout(0.25, "step")(x)
    kept = out != 0
    assert all((kept[t] != kept[0]).any() for t in range(1, 6))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    assert torch.equal(Dropout(0.25, "step").eval()(x), x)


def test_dropout_has_one_mask_for_all_steps():
    torch.manual_seed(0)
    x = torch.rand(6, 50, 40) + 0.5
    out = Dropout(0.25)(x)
    kept = out != 0
    assert (kept == kept[0]).all()
    assert kept[0].float().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    columns = kept[0].float()
    assert (columns[0] != columns[1]).any(), "samples have masks of their own"


def test_dropout_draws_afresh_at_every_call():
    torch.manual_seed(0)
    dropout, x = Dropout(0.5), torch.ones(2, 30, 10)
    assert not torch.equal(dropout(x), dropout(x))
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)


def test_dropout_keeps_its_mask_while_streaming():
    dropout, x = Dropout(0.5), torch.ones(4, 30, 10)
    with carry(dropout):
        out = torch.cat([dropout(chunk) for chunk in x.split([1, 2, 1])])
    assert (out == out[0]).all() and (out == 0).any()
    assert not torch.equal(dropout(x), out)


def test_dropout_is_off_in_evaluation_and_at_zero():
    x = torch.ones(3, 4, 5)
    assert Dropout(0.9).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5)(x[:0]).shape == (0, 4, 5)


@pytest.mark.parametrize("p", [-0.1, 1, 1.5])
def test_dropout_out_of_range(p):
    with pytest.raises(ValueError) as error:
        Dropout(p)
    assert str(error.value) == f"dropout must be at least 0 and below 1, got {p}."


def test_layers_and_parts_come_in_order_with_their_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = Layer(nn.Identity(), None, None)
            self.body = nn.Sequential(
                Pool("max", 2), nn.Flatten(2), Dropout(0.1), Layer(nn.Linear(2, 2), None, None)
            )
            self.head = Layer(nn.Linear(2, 2), None, None)

    net = Net()
    assert [name for name, _ in layers(net)] == ["stem", "body.3", "head"]
    assert [name for name, _ in parts(net)] == ["stem", "body.0", "body.2", "body.3", "head"]
    assert dict(layers(net))["head"] is net.head


def test_what_parts_say_of_themselves():
    assert repr(Pool("avg", 3)) == "Pool(avg, 3)"
    assert repr(Pool("sum", 2, gain=1.1)) == "Pool(sum, 2, gain=1.1)"
    assert repr(Dropout(0.2)) == "Dropout(p=0.2)"
    assert repr(Dropout(0.2, "row")) == "Dropout(p=0.2, share=row)"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("synapse", [nn.Linear, nn.Conv2d])
def test_a_norm_is_part_of_the_weights_in_evaluation(synapse, bias):
    torch.manual_seed(0)
    shape, given = ((3, 7), (6, 4, 3)) if synapse is nn.Linear else ((3, 7, 2), (6, 4, 3, 5, 5))
    norm = BatchNorm(7)
    layer = Layer(synapse(*shape, bias=bias), norm, LIF(ATan(), tau=2.0)).double()
    x = double(*given)
    for _ in range(3):
        layer(x)  # running statistics
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-2, 2, 7))
        norm.bias.copy_(torch.linspace(1, -1, 7))
    layer.eval()
    asked = []
    for fold_norm in (False, True):
        layer.fold_norm = fold_norm
        with torch.no_grad():
            current = Layer(layer.synapse, norm, None)
            current.fold_norm = fold_norm
            asked.append((current.eval()(x), layer(x), layer(x[0].expand(6, *given[1:]))))
    assert 0 < asked[0][1].mean() < 1
    torch.testing.assert_close(asked[1][0], asked[0][0], rtol=1e-12, atol=1e-12)
    assert torch.equal(asked[1][1], asked[0][1]) and torch.equal(asked[1][2], asked[0][2])


def test_a_norm_is_not_folded_where_it_learns_or_is_looked_at():
    synapse, norm = nn.Linear(3, 7), BatchNorm(7)
    with torch.no_grad():
        assert with_norm(synapse, norm.train()) is None
        assert with_norm(synapse, norm.eval()) is not None
        assert with_norm(synapse, None) is None and with_norm(synapse, BNTT(7, 4).eval()) is None
        with norm.register_forward_hook(lambda *args: None):
            assert with_norm(synapse, norm) is None
    assert with_norm(synapse, norm) is None
