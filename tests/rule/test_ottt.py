"""Online training through time, against the online algorithm written down step by step, and against BPTT."""

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.catalogue import fitting
from snnrun.check import composed
from snnrun.config import BadRequest, Choices
from snnrun.loss import TET
from snnrun.model import MLP, ConvNet, layers
from snnrun.neuron import IF, LI, LIF, PLIF, CubaLIF, Neuron
from snnrun.neuron.kernel import choose
from snnrun.readout import Readout
from snnrun.rule import BPTT
from snnrun.rule.ottt import OTTT, TracedLayer, leak
from snnrun.surrogate import ATan

NEURONS = {
    "lif": lambda: LIF(ATan(), tau=1.6, reset="soft", decay_input=False),
    "scaled": lambda: LIF(ATan(), tau=2.5, threshold=0.4, reset="soft"),
    "if": lambda: IF(ATan(), threshold=1.2, reset="soft"),
}
SHAPE = (2, 6, 6)


def network(kind: str, spec: str = "4C3-P2-5C3s2-7", made: type = ConvNet, **options):
    torch.manual_seed(0)
    neuron = lambda channels: NEURONS[kind]()  # noqa: E731
    shape = SHAPE if made is ConvNet else (SHAPE[0],)
    norm = lambda channels: None  # noqa: E731
    net = made(neuron, norm, Readout().head, shape, 3, spec=spec, bias=True, **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.5)
    return net


def adapted(net: nn.Module, rule: OTTT | BPTT, kernel="auto") -> nn.Module:
    net = rule.adapt(net)
    for module in net.modules():
        if isinstance(module, Neuron):
            module.kernel = choose(rule.kernel(module), kernel)
    return net


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    loss = TET(lam=0.0)(net(x), y, readout=Readout())
    found = torch.autograd.grad(loss, list(net.parameters()))
    return dict(zip((name for name, _ in net.named_parameters()), found, strict=True))


def online(net: ConvNet, x: Tensor, y: Tensor, *, trace: bool) -> dict[str, Tensor]:
    """The published algorithm: forward one step, the loss of the step, its gradients, then the next step."""
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    traces: dict[str, Tensor] = {}
    potentials: dict[str, Tensor] = {}
    names = {layer: name for name, layer in layers(net)}
    for x_t in x:
        probes, a = {}, x_t
        for part in [*net.body, net.head]:
            if part not in names:
                a = part(a.unsqueeze(0))[0]
                continue
            name, neuron = names[part], part.neuron
            lam = 0.0
            if isinstance(neuron, LIF):
                lam = 1 - 1 / neuron.tau
            elif isinstance(neuron, IF):
                lam = 1.0
            before = traces.get(name, torch.zeros_like(a)) if trace else 0.0
            traces[name] = lam * before + a.detach()
            weights = {n: p.detach() for n, p in part.synapse.named_parameters()}
            current = torch.func.functional_call(part.synapse, weights, a)
            probes[name] = torch.zeros_like(current).requires_grad_()
            a = current + probes[name]
            if isinstance(neuron, Neuron):
                gain = 1 / neuron.tau if getattr(neuron, "decay_input", False) else 1.0
                u = lam * potentials.get(name, torch.zeros_like(a)) + gain * a
                a = neuron.surrogate(u - neuron.threshold)
                potentials[name] = (u - neuron.threshold * a).detach()
        loss = functional.cross_entropy(a, y) / len(x)
        for name, delta in zip(
            probes, torch.autograd.grad(loss, list(probes.values())), strict=True
        ):
            synapse = net.get_submodule(name).synapse
            if isinstance(synapse, nn.Conv2d):
                how = (synapse.weight.shape, delta, synapse.stride, synapse.padding)
                total[f"{name}.synapse.weight"] += nn.grad.conv2d_weight(traces[name], *how)
                total[f"{name}.synapse.bias"] += delta.sum((0, 2, 3))
            else:
                total[f"{name}.synapse.weight"] += delta.T @ traces[name]
                total[f"{name}.synapse.bias"] += delta.sum(0)
    return total


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("trace", [True, False], ids=["OTTT", "SLTT"])
def test_gradients_are_those_of_the_online_algorithm(kind, trace):
    x, y = 2 * draw(6, 5, *SHAPE), torch.arange(5) % 3
    expected = online(network(kind, pool="avg"), x, y, trace=trace)
    for kernel in ("auto", "scan"):
        found = gradients(adapted(network(kind, pool="avg"), OTTT(trace), kernel), x, y)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.any(), name
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", NEURONS)
def test_one_hidden_layer_has_the_gradient_of_backpropagation_through_time(kind):
    x, y = 2 * draw(6, 5, SHAPE[0]), torch.arange(5) % 3
    expected = gradients(adapted(network(kind, "8", MLP), BPTT()), x, y)
    found = gradients(adapted(network(kind, "8", MLP), OTTT()), x, y)
    present = gradients(adapted(network(kind, "8", MLP), OTTT(trace=False)), x, y)
    for name in ("body.0.synapse.weight", "head.synapse.weight", "head.synapse.bias"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)
        assert torch.allclose(present[name], expected[name]) == name.startswith("head")


def test_the_network_computes_what_it_did_and_its_weights_keep_their_names():
    net, other = network("lif"), adapted(network("lif"), OTTT())
    assert list(net.state_dict()) == list(other.state_dict())
    assert [type(layer) for _, layer in layers(other)][:-1] == [TracedLayer] * 3
    x = 2 * draw(6, 5, *SHAPE)
    expected = net(x)
    assert torch.equal(other(x), expected)
    assert torch.equal(other(x[0].expand(6, *x[0].shape)), net(x[0].expand(6, *x[0].shape)))
    with torch.no_grad():
        torch.testing.assert_close(other(x), expected)


def test_how_much_of_a_potential_a_silent_step_leaves():
    assert leak(IF(ATan(), reset="soft")) == 1
    assert leak(LIF(ATan(), tau=4.0, reset="soft")) == 0.75
    assert leak(LIF(ATan(), tau=4.0, reset="soft", reset_value=-0.25)) == 0.75
    for neuron in (PLIF(ATan(), reset="soft"), CubaLIF(ATan())):
        with pytest.raises(ValueError, match=f"{type(neuron).__name__} is none"):
            leak(neuron)


def test_kernels():
    rule = OTTT()
    assert rule.kernel(LI()) is LI.kernel
    kernel = rule.kernel(NEURONS["lif"]())
    assert pickle.loads(pickle.dumps(kernel)) == kernel


def test_neurons_that_fit_are_listed():
    """With what the rule sets of a neuron."""
    assert fitting(Choices(), "neuron", ["rule=ottt"]) == ["lif"]
    given = ["rule=ottt", "~neuron.decay_input"]
    assert fitting(Choices(), "neuron", given) == ["if", "lif"]


def test_a_setting_that_another_neuron_does_not_take_can_be_taken_away():
    with pytest.raises(BadRequest) as error:
        composed(Choices(), ["rule=ottt", "neuron=if"])
    assert str(error.value) == (
        "neuron.decay_input: snnrun.neuron.IF takes no decay_input."
        " It is set by rule=ottt; '~neuron.decay_input' takes it away."
    )
    assert composed(Choices(), ["rule=ottt", "neuron=if", "~neuron.decay_input"])


def test_a_neuron_that_learns_its_leak_is_refused_before_anything_is_built():
    for words in (["neuron=plif", "neuron.reset=soft"], ["neuron.learnable=true"]):
        with pytest.raises(BadRequest, match="rule=ottt needs fixed_decay"):
            composed(Choices(), ["rule=ottt", *words])


def test_a_misfit_says_what_is_missing():
    with pytest.raises(BadRequest) as error:
        composed(Choices(), ["rule=ottt", "neuron.reset=hard"])
    assert str(error.value).startswith("rule=ottt needs soft_reset, which none of the chosen")
