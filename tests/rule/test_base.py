"""Backpropagation through time, its truncation, and what holds of every rule."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snnrun.check import composed, without_hydra
from snnrun.config import Choices
from snnrun.encoder import Direct
from snnrun.loss import CrossEntropy
from snnrun.model import MLP, Recurrent
from snnrun.neuron import LIF, PLIF, Ternary
from snnrun.neuron.base import recall
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.rule import BPTT, STDBP, STRSBP, DesireBP, Rule
from snnrun.surrogate import ATan

CHOICES = Choices()


class Learner:
    """What a rule sees of the learner."""

    def __init__(self, net: nn.Module, encoder: nn.Module | None = None):
        self.net, self.encoder = net, encoder or Direct(6, static=False)
        self.readout, self.criterion = Readout("mean"), CrossEntropy()
        self.calls = self.scored = 0

    def __call__(self, x: Tensor, chunk: int = 0) -> Tensor:
        self.calls += 1
        parts = self.encoder(x).split(chunk) if chunk else [self.encoder(x)]
        return torch.cat([self.net(part) for part in parts])

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        self.scored += 1
        return self.criterion(out, y, readout=self.readout)

    def sync_gradients(self) -> None:
        pass


def mlp(norm: Callable[[int], nn.Module | None] = lambda channels: None) -> MLP:
    torch.manual_seed(0)
    net = MLP(lambda channels: LIF(ATan()), norm, Readout().head, (3,), 4, spec="8-8")
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.5)
        for layer in net.body:
            layer.synapse.bias.add_(1)
    return net.double()


def recurrent() -> Recurrent:
    torch.manual_seed(0)
    neuron = lambda channels: PLIF(ATan(), threshold=0.4)  # noqa: E731
    return Recurrent(neuron, lambda c: None, Readout().head, (3,), 4, spec="R8").double()


def batch(steps: int = 6, size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(steps, size, 3, dtype=torch.float64, generator=generator) * 2
    return x, torch.arange(size) % 4


def gradients(rule: Rule, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    net.zero_grad()
    learner = Learner(net)
    loss = rule.loss(learner, x, y)
    rule.backward(learner, loss)
    assert learner.scored == 1
    found = [p.grad for p in net.parameters()]
    assert all(g is not None and g.any() for g in found)
    return loss.detach(), [g.clone() for g in found if g is not None]


def by_hand(net: MLP, x: Tensor, y: Tensor, truncate: int) -> tuple[Tensor, list[Tensor]]:
    """The same network as a plain loop over time, its potentials detached at every chunk's start."""
    spike, first, second = ATan(), net.body[0].synapse, net.body[1].synapse
    v = u = torch.zeros(x.shape[1], 8, dtype=torch.float64)
    out, rate = [], []
    for t, x_t in enumerate(x):
        if truncate and t % truncate == 0:
            v, u = v.detach(), u.detach()
        h = v + (first(x_t) - v) / 2
        s = spike(h - 1)
        v = h * (1 - s.detach())
        g = u + (second(s) - u) / 2
        z = spike(g - 1)
        u = g * (1 - z.detach())
        rate.append(z.mean())
        out.append(net.head.synapse(z))
    assert torch.stack(rate).mean() > 0.02
    loss = nn.functional.cross_entropy(torch.stack(out).mean(0), y)
    return loss.detach(), list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("truncate", [0, 1, 2, 4, 6, 10])
def test_gradients_equal_a_loop_by_hand(truncate):
    net, (x, y) = mlp(), batch()
    loss, found = gradients(BPTT(truncate), net, x, y)
    expected_loss, expected = by_hand(net, x, y, truncate)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("make", [mlp, recurrent])
def test_truncation_changes_gradients_only(make):
    net, (x, y) = make(), batch()
    results = {n: gradients(BPTT(n), net, x, y) for n in (0, 1, 3, 6, 9)}
    whole_loss, whole = results[0]
    for n, (loss, found) in results.items():
        torch.testing.assert_close(loss, whole_loss, rtol=1e-12, atol=0)
        same = all(
            torch.allclose(a, b, rtol=1e-9, atol=1e-13) for a, b in zip(found, whole, strict=True)
        )
        assert same == (n in (0, 6, 9)), f"truncate={n}"


def test_nothing_is_left_behind_by_truncation():
    net, (x, y) = mlp(), batch()
    first = gradients(BPTT(2), net, x, y)
    assert all(recall(part) is None for part in net.modules())
    second = gradients(BPTT(2), net, x, y)
    assert torch.equal(first[0], second[0])


def test_truncation_encodes_a_static_batch_once():
    net = mlp()
    x, y = batch(steps=1)

    class Encoder(Direct):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    encoder = Encoder(6, static=True)
    loss = BPTT(4).loss(Learner(net, encoder), x[0], y)
    assert encoder.calls == 1
    whole = BPTT().loss(Learner(net, encoder), x[0], y)
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)


def test_batch_statistics_are_of_a_chunk():
    """What BPTT's docstring says of norm=batch: in training the forward pass differs, in evaluation not."""
    net, (x, y) = mlp(BatchNorm), batch()
    whole, cut = (BPTT(n).loss(Learner(net), x, y) for n in (0, 2))
    assert not torch.isclose(whole, cut)
    net.eval()
    whole, cut = (BPTT(n).loss(Learner(net), x, y) for n in (0, 2))
    torch.testing.assert_close(whole, cut, rtol=1e-12, atol=0)


@pytest.mark.parametrize("truncate", [-1, -10])
def test_negative_truncation(truncate):
    with pytest.raises(ValueError) as error:
        BPTT(truncate)
    assert str(error.value) == (
        f"rule.truncate must be 0 (whole sequence) or a number of steps, got {truncate}."
    )


def test_what_a_rule_does_by_default():
    rule, net = Rule(), mlp()
    x, y = batch()
    neuron = net.body[0].neuron
    assert rule.kernel(neuron) is type(neuron).kernel
    assert rule.adapt(net) is net and rule.deploy(net, []) is net
    assert list(rule.param_groups(net)) == list(net.parameters())
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    rule.constrain(net)
    rule.epoch_end(Learner(net), {})
    rule.prepare_load(net, kept)
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    learner = Learner(net)
    loss = rule.loss(learner, x, y)
    assert learner.calls == learner.scored == 1
    rule.backward(learner, loss)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("weights_only", [False, True])
def test_what_does_not_decay(weights_only):
    torch.manual_seed(0)
    neuron = lambda channels: Ternary()  # noqa: E731
    net = MLP(neuron, BatchNorm, Readout().head, (3,), 4, spec="8-8")
    rule = Rule()
    rule.decay_weights_only = weights_only
    decaying, spared = rule.param_groups(net)
    names = {id(p): name for name, p in net.named_parameters()}
    free = {names[id(p)] for p in spared["params"]}
    amplitudes = {f"body.{i}.neuron.amplitude" for i in (0, 1)}
    weights = {f"{layer}.synapse.weight" for layer in ("body.0", "body.1", "head")}
    assert free == (set(names.values()) - weights if weights_only else amplitudes)
    assert len(decaying["params"]) + len(spared["params"]) == len(names)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD([decaying, spared], lr=0.1, weight_decay=0.5)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        scale = 1 if name in free else 0.95
        torch.testing.assert_close(p, before[name] * scale, rtol=1e-6, atol=0, msg=name)


def test_without_weight_decay_on_biases_recurrent_weights_still_decay():
    rule, net = Rule(), recurrent()
    rule.decay_weights_only = True
    decaying, _ = rule.param_groups(net)
    assert {id(p) for p in decaying["params"]} == {
        *(id(net.body[0].synapse.weight), id(net.body[0].recurrent.weight)),
        id(net.head.synapse.weight),
    }


@pytest.mark.parametrize("words", [["optimizer.lr=0.01"], ["rule.truncate=2", "optimizer.lr=0.01"]])
@pytest.mark.parametrize("option", CHOICES.options("rule"))
def test_learns_synthetic_data(option, words):
    """Ten noisy patterns, in a network that the runner builds for the rule."""
    from snnrun.run import build  # needs lightning, which takes seconds to import

    if "rule.truncate=2" in words and "truncate" not in CHOICES.load("rule", option):
        pytest.skip(f"rule={option} has no truncation")
    cfg = without_hydra(CHOICES.compose([f"rule={option}", *words]))
    _, learner = build(cfg)
    rule, net = learner.rule, learner.net
    optimizer = learner.make_optimizer(rule.param_groups(net))
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(50) % 10
    x = torch.rand(10, 1, 8, 8, generator=generator)[y]
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    net.train()
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = rule.loss(learner, x, y)
        rule.backward(learner, loss)
        optimizer.step()
        with torch.no_grad():
            rule.constrain(net)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize(
    ("option", "rule"), [("desire_bp", DesireBP), ("st_rsbp", STRSBP), ("stdbp", STDBP)]
)
def test_what_is_advised_against_silence_can_be_set_under_the_rule(option, rule):
    cfg = composed(CHOICES, [f"rule={option}"], warn=False)
    advice = f"{rule.wakes} {rule.wakes_output or ''}"
    for group, key in re.findall(r"(\w+)\.(\w+)", advice):
        assert key in cfg[group], f"{group}.{key}"
    for setting in re.findall(r"[\w.]+=\w+", advice):
        composed(CHOICES, [f"rule={option}", setting], warn=False)
    assert "norm=" not in advice and "readout=" not in advice
