"""Tandem layers beside plain torch, on networks of several kinds; what they refuse; the ANN beside them."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.check import without_hydra
from snnrun.config import BadRequest, Choices
from snnrun.encoder import Direct
from snnrun.model import MLP, ConvNet, Dropout, Layer, Pool, SEWResNet, SpikingResNet
from snnrun.neuron import IF, PLIF
from snnrun.norm import BNTT, BatchNorm
from snnrun.readout import Readout
from snnrun.rule import Rule, Tandem
from snnrun.rule.tandem import SteadyDropout, TandemLayer, tandem_layers
from snnrun.surrogate import ATan

CHOICES = Choices()
NORM = partial(BatchNorm, momentum=0.9)
Net = Callable[..., nn.Module]


def neuron(channels: int, threshold: float = 0.5) -> IF:
    return IF(ATan(), threshold=threshold, reset="soft")


def mlp(norm: Callable = NORM, spec: str = "9-8", **more) -> nn.Module:
    return MLP(neuron, norm, Readout().head, (5,), 4, spec=spec, **more)


def convnet(norm: Callable = NORM, **more) -> nn.Module:
    spec = "4C3-P2-D-6C3s2-7"
    options = {"pool": "avg", "dropout": 0.3, "bias": True, **more}
    return ConvNet(neuron, norm, Readout().head, (2, 8, 8), 4, spec=spec, **options)


def residual(norm: Callable = NORM, made: type = SpikingResNet) -> nn.Module:
    return made(neuron, norm, Readout().head, (2, 8, 8), 4, depth=20)


def build(make: Net = mlp, **options) -> nn.Module:
    torch.manual_seed(0)
    return Tandem(**options).adapt(make()).double()


def sequence(net: nn.Module, steps: int = 6, size: int = 5) -> Tensor:
    shape = (5,) if isinstance(net, MLP) else (2, 8, 8)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(steps, size, *shape, dtype=torch.float64, generator=generator)


# --- one layer


def pair(threshold: float = 0.5, **options) -> tuple[TandemLayer, nn.Linear, nn.BatchNorm1d]:
    """A tandem layer, and torch's own parts with the same numbers; half of the scales are negative."""
    torch.manual_seed(2)
    layer = TandemLayer(Layer(nn.Linear(5, 8), NORM(8), neuron(8, threshold)), **options).double()
    assert isinstance(layer.norm, BatchNorm) and isinstance(layer.synapse, nn.Linear)
    with torch.no_grad():
        layer.norm.weight.normal_(0, 2)
        layer.norm.bias.normal_()
    assert 0 < (layer.norm.weight < 0).sum() < 8
    linear, norm = copy.deepcopy(layer.synapse), nn.BatchNorm1d(8, 1e-5, 0.9).double()
    norm.load_state_dict(layer.norm.state_dict(), strict=False)
    return layer, linear, norm


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("fold_eps", [None, 0.0])
def test_values_are_spikes_and_gradients_those_of_rate_units(steps, fold_eps):
    layer, linear, norm = pair(fold_eps=fold_eps)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(steps, 7, 5, dtype=torch.float64, generator=generator).requires_grad_()
    grad = torch.randn(steps, 7, 8, dtype=torch.float64, generator=generator)
    out = layer(x)
    out.backward(grad)
    given, x.grad = x.grad, None
    a = functional.relu(norm(linear(x.sum(0))))
    a.backward(grad.mean(0))
    torch.testing.assert_close(given, x.grad)
    for ours, theirs in ((layer.synapse, linear), (layer.norm, norm)):
        for name, p in theirs.named_parameters():
            torch.testing.assert_close(ours.get_parameter(name).grad, p.grad)
    # the same norm in evaluation, whose statistics have moved, on a bias spread over time
    norm.eval()
    norm.eps = 1e-5 if fold_eps is None else fold_eps
    still = norm(linear(torch.zeros(1, 5, dtype=torch.float64)))
    current = (
        norm(linear(x.detach().flatten(0, 1))).unflatten(0, (steps, 7)) - still + still / steps
    )
    spikes = neuron(8)(current)
    assert torch.equal(out, spikes) and spikes.any()


def test_one_sample_in_evaluation():
    layer, _, _ = pair()
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    layer(x)
    layer.eval()
    assert torch.equal(layer(x)[:, :1], layer(x[:, :1]))


def test_both_halves_agree_in_evaluation():
    """Summed over time the neurons' current is what the rate units rectify, and the count is near its floor."""
    layer, _, _ = pair()
    x = torch.rand(1, 50, 5, dtype=torch.float64).expand(40, 50, 5)
    layer(x)
    layer.eval()
    current, a = layer.current(x), layer.rate(x.sum(0))
    torch.testing.assert_close(current.sum(0).clamp(min=0), a)
    full = 40.0
    count = layer(x).sum(0)
    assert ((count - (a / 0.5).clamp(max=full)).abs() <= 1).all() and count.std() > 1


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_without_a_norm_rates_are_in_units_of_the_threshold(threshold):
    torch.manual_seed(4)
    layer = TandemLayer(Layer(nn.Linear(5, 8), None, neuron(8, threshold))).double()
    x = torch.randn(6, 7, 5, dtype=torch.float64)
    layer(x).sum().backward()
    linear = layer.synapse
    given, linear.weight.grad = linear.weight.grad, None
    (functional.relu(linear(x.sum(0))) / threshold).sum().backward()
    torch.testing.assert_close(given, linear.weight.grad)


def test_the_layers_threshold_is_in_units_of_the_neurons():
    layer, _, _ = pair(threshold=0.5)
    other, _, _ = pair(threshold=1.0)
    layer.threshold.fill_(2)
    x = torch.randn(6, 7, 5, dtype=torch.float64)
    assert torch.equal(layer(x), other(x))


def test_no_rate_units_where_nothing_learns():
    layer, _, _ = pair()
    layer.eval()
    calls = []
    layer.resting.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        layer(x)
    assert not calls
    layer.freeze(statistics=True)
    layer(x)
    assert not calls
    layer(x.requires_grad_())
    assert calls


# --- networks


@pytest.mark.parametrize("make", [mlp, convnet, residual, partial(residual, made=SEWResNet)])
def test_gradients_are_those_of_the_coupled_rate_network(make):
    """A network of rates whose values are shifted to the counts: autograd goes through it in one piece."""
    net = build(make)
    x = sequence(net)
    torch.manual_seed(5)
    net(x).sum(0).square().sum().backward()
    given = {name: p.grad for name, p in net.named_parameters()}
    other = build(make)

    class Coupled(TandemLayer):
        def forward(self, x: Tensor) -> Tensor:
            a = self.rate(x.sum(0))
            a = a / (0.5 if self.fires and self.norm is None else 1)
            with torch.no_grad():
                out = self.neuron(self.current(x))
            return out + (a - a.detach()) / len(x)

    for layer in tandem_layers(other).values():
        layer.__class__ = Coupled
    torch.manual_seed(5)
    other(x).sum(0).square().sum().backward()
    assert given
    for name, p in other.named_parameters():
        assert given[name] is not None and p.grad is not None, name
        torch.testing.assert_close(given[name], p.grad, rtol=1e-9, atol=1e-9, msg=name)
        assert p.grad.any() or name.endswith("bias"), name


@pytest.mark.parametrize("make", [mlp, convnet, residual])
def test_layers_without_neurons_pass_currents_whose_sum_is_that_of_rates(make):
    net = build(make).eval()
    x = sequence(net)
    seen = []
    for layer in tandem_layers(net).values():
        if not layer.fires:
            layer.register_forward_hook(lambda m, args, out: seen.append((m, args[0], out)))
    net(x)
    assert seen
    for layer, given, out in seen:
        torch.testing.assert_close(out.sum(0), layer.rate(given.sum(0)))


def test_pools_average_and_models_keep_their_keys():
    net = build(partial(convnet, pool="max"))
    assert [m.kind for m in net.modules() if isinstance(m, Pool)] == ["avg"]
    keys = set(convnet().state_dict())
    added = set(net.state_dict()) - keys
    assert keys <= set(net.state_dict()) and all(key.endswith(".threshold") for key in added)


def test_dropout_in_evaluation_is_a_switch():
    x = sequence(build(convnet))
    for on in (False, True):
        net = build(convnet, dropout_in_eval=on).eval()
        drops = [m for m in net.modules() if isinstance(m, Dropout)]
        assert [type(m) is SteadyDropout for m in drops] == [on] and drops[0].p == 0.3
        with torch.no_grad():
            net.train()(x)
            net.eval()
            assert torch.equal(net(x), net(x)) != on


def test_initial_scales():
    net = build(partial(mlp, spec="4000"), norm_scale=2.0)
    scale = net.body[0].norm.weight
    assert abs(scale.mean()) < 0.1 and 1.9 < scale.std() < 2.1
    assert torch.equal(build().body[0].norm.weight, torch.ones(9, dtype=torch.float64))


def test_mixed_precision():
    net = build(convnet).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(sequence(net).float())
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}


# --- the ANN beside it


@torch.no_grad()
def test_the_ann_runs_on_rates_with_statistics_of_its_own():
    net, rule = build(), Tandem()
    batches = [sequence(net, size=20) + k for k in range(3)]
    net(batches[0])
    before = copy.deepcopy(net.state_dict())
    ann = rule.ann(net, iter(batches))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not ann.training and all(layer.spiking for layer in tandem_layers(net).values())
    first, second, head = tandem_layers(ann).values()
    # while the norms were measured, each batch was normalised by itself
    z = [first.synapse(x.sum(0)) for x in batches]
    own = [functional.batch_norm(v, None, None, training=True).relu() / 0.5 for v in z]
    z_second = [second.synapse(v) for v in own]
    for layer, values in ((first, z), (second, z_second)):
        mean, var = (
            torch.stack(v).mean(0)
            for v in zip(*((v.mean(0), v.var(0)) for v in values), strict=True)
        )
        torch.testing.assert_close(layer.norm.running_mean, mean)
        torch.testing.assert_close(layer.norm.running_var, var)
    # in evaluation by what was measured
    rate = batches[1].sum(0)
    for layer in (first, second):
        z = functional.batch_norm(
            layer.synapse(rate), layer.norm.running_mean, layer.norm.running_var
        )
        rate = z.relu() / 0.5
    torch.testing.assert_close(ann(batches[1]).sum(0), head.synapse(rate))


def test_other_rules_have_none():
    assert Rule().ann(mlp(), []) is None


# --- what is refused


def recurrent() -> nn.Module:
    net = mlp()
    net.body[0].recurrent = nn.Linear(9, 9)
    return net


def with_parameters() -> nn.Module:
    net = mlp()
    net.body[0].neuron = PLIF(ATan(), reset="soft")
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (recurrent, "body.0 feeds itself"),
        (with_parameters, "body.0 has neurons with parameters, which no gradient reaches"),
        (
            lambda: mlp(partial(BNTT, steps=3)),
            "body.0 has a norm that is not the same at every step, BNTT; use norm=batch or norm=none",
        ),
    ],
)
def test_layers_that_do_not_fit(make, message):
    with pytest.raises(ValueError) as error:
        Tandem().adapt(make())
    assert str(error.value) == f"Tandem learning: {message}."


def test_refusals_are_requests_that_were_wrong():
    from snnrun.run import build as build_run

    cfg = without_hydra(CHOICES.compose(["rule=tandem", "norm=bntt"]))
    with pytest.raises(BadRequest, match=r"body\.0 has a norm that is not the same"):
        build_run(cfg)
    with pytest.raises(ValueError, match="fold_eps must be at least 0, or null; got -1"):
        Tandem(fold_eps=-1)


def test_a_static_input_goes_through_the_first_synapse_once(monkeypatch):
    net = build(convnet).eval()
    rows = []
    run = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda x, *more: rows.append(len(x)) or run(x, *more))
    with torch.no_grad():
        net(Direct(6, static=True)(sequence(net)[0]))
    assert rows == [5, 30]
