"""An ANN is trained, and a spiking network with its weights is tested."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import ConvNet, Layer, Pool, SEWResNet, SpikingResNet, layers
from snnrun.neuron import IF, MSAT, Burst, Neuron, Scaled
from snnrun.norm import BNTT, BatchNorm
from snnrun.readout import Readout
from snnrun.rule import Conversion
from snnrun.rule.activation import QCFS, ReLU
from snnrun.rule.conversion import InParts, Still, fold_norms
from snnrun.rule.spiking_parts import SpikeConfidence, SpikingMaxPool
from snnrun.surrogate import ATan


def soft_if(channels: int) -> IF:
    return IF(ATan(), reset="soft")


def convnet(neuron: Any = soft_if, norm: Any = BatchNorm, **more: Any) -> ConvNet:
    torch.manual_seed(0)
    net = ConvNet(neuron, norm, Readout().head, (2, 8, 8), 4, spec="6C3-P2-8C3-P2-12", **more)
    return net.double()


def images(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 8, 8, generator=generator, dtype=torch.float64)


def trained(rule: Conversion, net: nn.Module) -> nn.Module:
    """The adapted network, its batch norms with statistics of some data and scattered weights."""
    ann = rule.adapt(net).double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, BatchNorm):
                module.weight.add_(torch.linspace(-0.3, 0.3, len(module.weight)))
                module.bias.add_(torch.linspace(-0.2, 0.4, len(module.bias)))
        for _ in range(20):
            ann(images().expand(3, -1, -1, -1, -1))
    return ann.eval()


def constant(net: nn.Module, x: Tensor, steps: int) -> Tensor:
    return net(x.expand(steps, *x.shape))


@pytest.mark.parametrize(("activation", "kind"), [("relu", ReLU), ("qcfs", QCFS)])
def test_activations_take_the_place_of_neurons_and_one_step_is_run(activation, kind):
    rule = Conversion(activation=activation)
    net = convnet()
    ann = rule.adapt(net)
    found = [layer.neuron for _, layer in layers(ann)]
    assert [type(n) for n in found] == [kind, kind, kind, nn.Identity]
    assert all(isinstance(n.neuron, IF) for n in found[:-1])
    out = constant(ann.double(), images(), 7)
    assert out.shape == (1, 20, 4)
    learned = [name for name, _ in ann.named_parameters() if name.endswith("neuron.threshold")]
    assert len(learned) == (3 if activation == "qcfs" else 0)


def test_folding_batch_norm_changes_nothing():
    for bias in (False, True):
        ann = trained(Conversion(), convnet(bias=bias))
        folded = copy.deepcopy(ann)
        with torch.no_grad():
            fold_norms(folded)
            torch.testing.assert_close(constant(folded, images(), 1), constant(ann, images(), 1))
        assert not [m for m in folded.modules() if isinstance(m, BatchNorm)]


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize(
    ("neuron", "settings"),
    [
        (soft_if, {"scale": "max"}),
        (soft_if, {"scale": "percentile", "p": 0.999, "pool": "lateral"}),
        (soft_if, {"scale": "channel", "p": 0.999}),
        (lambda c: Burst(ATan()), {"scale": "percentile", "p": 0.99}),
        (lambda c: MSAT(ATan(), tau_mp=0.1, tau_rd=0.1), {"scale": "max"}),
        (lambda c: MSAT(ATan(), unit="normalised"), {"scale": "max"}),
    ],
    ids=["max", "percentile", "channel", "burst", "msat", "msat-normalised"],
)
def test_the_mean_over_time_approaches_the_ann(pool, neuron, settings):
    rule = Conversion(**settings)
    ann = trained(rule, convnet(neuron, pool=pool))
    x = images()
    expected = constant(ann, x, 1)[0].detach()
    out = constant(rule.deploy(ann, [x]), x, 400)
    assert not torch.equal(out[10], out[11])
    errors = [(out[:t].mean(0) - expected).abs().mean().item() for t in (10, 100, 400)]
    # a percentile clips what is larger, which only bursts make up for; MSAT's threshold bounds the rate
    bound = 0.03 if settings == {"scale": "max"} and neuron is soft_if else 0.1
    assert errors[2] < bound * expected.std().item() and errors[2] < errors[0]


def test_residual_networks():
    rule = Conversion(scale="max")
    torch.manual_seed(0)
    net = SpikingResNet(soft_if, BatchNorm, Readout().head, (2, 4, 4), 4, depth=20)
    x = images()[..., :4, :4]
    ann = rule.adapt(net).double()
    for _ in range(10):
        constant(ann, x, 1)
    ann.eval()
    expected = constant(ann, x, 1)[0].detach()
    out = constant(rule.deploy(ann, [x]), x, 200)
    errors = [(out[:t].mean(0) - expected).abs().mean().item() for t in (20, 200)]
    assert errors[1] < 0.1 * expected.std().item() < errors[0]


def test_what_is_deployed():
    rule = Conversion(scale="max", confidence=[0.9, 0.8], confidence_steps=3, pool="gate")
    ann = trained(rule, convnet(pool="max"))
    before = copy.deepcopy(ann.state_dict())
    net = rule.deploy(ann, [images()])
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    assert all(isinstance(n.neuron, ReLU) for _, n in [*layers(ann)][:-1])
    neurons = [layer.neuron for _, layer in layers(net)]
    assert [type(n) for n in neurons] == [Scaled, Scaled, Scaled, nn.Identity]
    assert not [m for m in net.modules() if isinstance(m, BatchNorm | ReLU)]
    assert not [p for p in net.parameters() if p.requires_grad] and not net.training
    pools = [m for m in net.modules() if isinstance(m, Pool)]
    assert [type(p) for p in pools] == [SpikingMaxPool] * 2 and {p.by for p in pools} == {"gate"}
    drops = [(m.confidence, m.steps) for m in net.modules() if isinstance(m, SpikeConfidence)]
    assert drops == [(0.9, 3), (0.8, 3)]
    kinds = [type(m) for m in net.net.body if isinstance(m, nn.Sequential)]
    assert len(kinds) == 2  # the last two spiking layers, of three


def test_scales_by_sorting():
    values = torch.randn(9, 6, 4, 4, generator=torch.Generator().manual_seed(0)).relu()
    values[0, 3] = 50
    net = nn.Sequential(Layer(nn.Identity(), None, ReLU(soft_if(6))))
    first = values[:7]

    def measured(**settings: Any) -> Tensor:
        found = Conversion(calibration=7, **settings).measure(net, [values[:4], values[4:]])
        return next(iter(found.values()))

    ordered = first.flatten().sort().values
    assert measured(scale="max").tolist() == [50]
    for p in (0.5, 0.9, 0.29):
        place = int(first.numel() * p) - 1
        if ordered[place] > 0:
            assert measured(scale="percentile", p=p).tolist() == [ordered[place].item()]
    channels = measured(scale="channel", p=0.9)
    batches = [v.transpose(0, 1).flatten(1).sort(1).values for v in (values[:4], values[4:7])]
    expected = torch.maximum(*[b[:, int((b.shape[1] - 1) * 0.9)] for b in batches])
    torch.testing.assert_close(channels, expected, rtol=0, atol=1e-9)


def test_calibration_takes_no_more_batches_than_it_needs():
    taken = []

    def batches():
        for number in range(9):
            taken.append(number)
            yield images(8)

    rule = Conversion(calibration=20)
    rule.deploy(trained(rule, convnet()), batches())
    assert taken == [0, 1, 2]


def test_qcfs_takes_its_learned_scale_and_starts_at_half_of_it():
    rule = Conversion(activation="qcfs", levels=16, bound=3.0)
    ann = trained(rule, convnet(pool="avg"))
    net = rule.deploy(ann, [])
    units = [layer.neuron for _, layer in layers(net)][:-1]
    for unit in units:
        assert isinstance(unit, Scaled) and unit.scale.tolist() == [3.0]
        assert unit.init_state(torch.zeros(2, 3))[0].eq(0.5).all()
    x = images()
    layer, activation = next(iter(layers(net)))[1], next(iter(layers(ann)))[1]
    rate = layer(x.expand(16, *x.shape)).mean(0)
    torch.testing.assert_close(rate, activation(x.unsqueeze(0))[0].detach())


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_factor_and_start(factor):
    rule = Conversion(scale="max", scale_factor=factor, start=0.25)
    ann = trained(rule, convnet(lambda c: MSAT(ATan())))
    scales = rule.measure(copy.deepcopy(ann.net), [images()])
    for (_, layer), scale in zip(
        layers(rule.deploy(ann, [images()])), scales.values(), strict=False
    ):
        assert isinstance(layer.neuron, MSAT) and isinstance(layer.neuron.threshold, Tensor)
        torch.testing.assert_close(layer.neuron.threshold, scale * factor)
        assert layer.neuron.reset_value == 0.25


def test_samples_in_parts_give_what_all_give_at_once(monkeypatch):
    rule = Conversion()
    ann = trained(rule, convnet(pool="max"))
    net = rule.deploy(ann, [images()])
    assert isinstance(ann, Still) and isinstance(net, InParts)
    whole = constant(net, images(), 9)
    monkeypatch.setattr("snnrun.rule.conversion.SLOTS", 30)  # three samples of nine steps
    seen = []
    net.net.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    torch.testing.assert_close(constant(net, images(), 9), whole, rtol=1e-12, atol=1e-12)
    assert seen == [3] * 6 + [2]
    assert constant(net, images(), 100).shape == (100, 20, 4)


def test_published_initial_weights():
    net = convnet(bias=True, norm=lambda c: None)
    Conversion(init="kaiming").adapt(net)
    for _, layer in layers(net):
        if isinstance(layer.synapse, nn.Linear):
            assert not layer.synapse.bias.any()
        else:
            fan_out = layer.synapse.weight.shape[0] * 9  # pyright: ignore
            assert layer.synapse.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.3)  # pyright: ignore


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: convnet(norm=lambda c: BNTT(c, 4)), "choose norm=batch or norm=none"),
        (lambda: convnet(lambda c: IF(ATan(), 0.5)), "use rule.scale_factor"),
        (
            lambda: SEWResNet(
                soft_if, BatchNorm, Readout().head, (2, 8, 8), 4, depth=20, connect="and"
            ),
            "needs model.connect=add",
        ),
    ],
    ids=["norm", "threshold", "connect"],
)
def test_networks_that_have_no_counterpart(net, message):
    with pytest.raises(ValueError, match=message):
        Conversion().adapt(net())


def test_an_activation_that_is_silent():
    rule = Conversion(p=0.1)
    with pytest.raises(ValueError, match=r"The scale of body\.0 is 0: .* larger rule\.p"):
        rule.deploy(trained(rule, convnet()), [images()])
    rule = Conversion(confidence=[0.5] * 4)
    with pytest.raises(ValueError, match=r"rule\.confidence has 4 values, for 3 spiking layers"):
        rule.deploy(trained(rule, convnet()), [images()])


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "tanh"},
        {"scale": "min"},
        {"pool": "avg"},
        {"init": "zero"},
        {"levels": 0},
        {"bound": 0.0},
        {"p": 0.0},
        {"p": 1.5},
        {"calibration": 0},
        {"scale_factor": -1.0},
        {"confidence": [0.5, 0.0]},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=f"rule.{next(iter(settings))} must"):
        Conversion(**settings)


def test_neurons_run_as_the_configuration_wants(monkeypatch):
    rule = Conversion()
    ann = trained(rule, convnet())
    calls = []

    def kernel(neuron, x, state):
        calls.append(neuron)
        return x, state

    for module in ann.modules():
        if isinstance(module, Neuron):
            module.kernel = kernel
    constant(rule.deploy(ann, [images()]), images(2), 3)
    assert len(calls) == 3
