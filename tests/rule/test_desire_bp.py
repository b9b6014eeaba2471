"""Desire backpropagation: kernels against arrays, batches against single samples, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun.check import composed, without_hydra
from snnrun.config import BadRequest, Choices
from snnrun.encoder import Integrate
from snnrun.loss import CrossEntropy
from snnrun.model import MLP
from snnrun.neuron import DesireLIF, scan
from snnrun.readout import SpikingReadout
from snnrun.rule import DesireBP
from snnrun.rule.desire_engine import Arrays, Events
from snnrun.surrogate import ATan

CHOICES = Choices()
STEPS = 10


def network(rule: DesireBP, dropout: float = 0.0, spec: str = "30-20-9") -> MLP:
    torch.manual_seed(0)
    neuron = lambda channels: DesireLIF(ATan())  # noqa: E731
    head = SpikingReadout("sum", neuron).head
    net = MLP(neuron, lambda c: None, head, (1, 5, 5), 4, spec=spec, dropout=dropout)
    return rule.adapt(net.double())  # pyright: ignore[reportReturnType]


class Learner:
    """What the rule sees of the learner, and an optimiser."""

    def __init__(self, net: nn.Module, lr: float = 0.02, **options: Any):
        self.net, self.encoder, self.readout = net, Integrate(STEPS), SpikingReadout("sum")
        self.criterion, self.out = CrossEntropy(), torch.empty(0)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=lr, **options)
        self.synced = 0

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(self.encoder(x))

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        self.out = out
        return self.criterion(out, y, readout=self.readout)

    def sync_gradients(self) -> None:
        self.synced += 1

    def optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer


def batch(size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, 1, 5, 5, dtype=torch.float64, generator=generator)
    return x, torch.arange(size) % 4


def step(rule: DesireBP, learner: Learner, x: Tensor, y: Tensor) -> list[Tensor]:
    learner.optimizer.zero_grad()
    torch.manual_seed(5)
    rule.backward(learner, rule.loss(learner, x, y))
    learner.optimizer.step()
    return [p.grad for p in learner.net.parameters() if p.grad is not None]


@pytest.mark.parametrize("how", ["accumulate", "sequential"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_kernels_equal_arrays(how, dropout):
    found = []
    for kernel, engine in ((DesireLIF.kernel, Events), (scan, Arrays)):
        rule = DesireBP(input_dropout=dropout / 4, batch=how)
        net = network(rule, dropout)
        for module in net.modules():
            if isinstance(module, DesireLIF):
                module.kernel = kernel
        learner = Learner(net)
        assert type(rule.engine([net.head], learner.encoder(batch()[0]))) is engine
        found.append((step(rule, learner, *batch()), learner.out))
    (given, out), (expected, other) = found
    assert out.any() and torch.equal(out, other) and out.dtype == other.dtype
    assert all(g.any() for g in expected)
    for one, two in zip(given, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_batch_is_the_mean_of_its_samples():
    rule = DesireBP()
    net, (x, y) = network(rule), batch()
    whole = step(rule, Learner(copy.deepcopy(net)), x, y)
    alone = [
        step(rule, Learner(copy.deepcopy(net)), x[b : b + 1], y[b : b + 1]) for b in range(len(y))
    ]
    for i, mean in enumerate(whole):
        torch.testing.assert_close(mean, torch.stack([one[i] for one in alone]).mean(0))


def test_in_turn_a_batch_is_a_run_over_its_samples():
    """Under plain SGD; and the samples of a batch do see each other's changes."""
    x, y = batch()
    single, turn, frozen = DesireBP(), DesireBP(batch="sequential"), DesireBP()
    nets = [network(rule) for rule in (single, turn, frozen)]
    learner = Learner(nets[0])
    outs = []
    for b in range(len(y)):
        step(single, learner, x[b : b + 1], y[b : b + 1])
        outs.append(learner.out)
    learner = Learner(nets[1])
    step(turn, learner, x, y)
    assert torch.equal(learner.out, torch.cat(outs, 1))
    learner = Learner(nets[2], lr=0.02 * len(y))  # the sum of changes at the first weights
    step(frozen, learner, x, y)
    for one, two, _ in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
    assert not all(
        torch.allclose(a, b)
        for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True)
    )


def test_a_rate_of_zero_changes_nothing():
    rule = DesireBP(batch="sequential")
    assert all(not g.any() for g in step(rule, Learner(network(rule), lr=0.0), *batch()))


def test_what_is_evaluated_is_what_is_trained():
    rule = DesireBP()
    net, (x, y) = network(rule), batch()
    learner = Learner(net)
    rule.loss(learner, x, y)
    assert learner.out.any() and torch.equal(learner(x), learner.out)


def test_gradients_are_scaled_as_the_loss_is_and_add_up():
    rule = DesireBP()
    learner, (x, y) = Learner(network(rule), lr=0.0), batch()
    once = [g.clone() for g in step(rule, learner, x, y)]
    for _ in range(2):
        rule.backward(learner, rule.loss(learner, x, y) / 4)
    assert learner.synced == 3
    for p, g in zip(learner.net.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 1.5 * g)


def test_dropped_neurons_neither_fire_nor_learn():
    rule = DesireBP()
    net = network(rule, dropout=0.5)
    learner, (x, y) = Learner(net), batch(1)
    first, *_ = step(rule, learner, x, y)
    torch.manual_seed(5)
    kept = torch.rand(1, 30, dtype=torch.float64) >= 0.5
    assert not first[~kept[0]].any() and first[kept[0]].any()


def test_initial_weights():
    kept, drawn = DesireBP(init="keep"), DesireBP()
    for rule, deviation in ((kept, 1 / (3 * 200) ** 0.5), (drawn, (2 / 200) ** 0.5)):
        weight = network(rule, spec="200-100").body[1].synapse.weight
        assert weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert network(rule).head.synapse.bias is None


def built(*words: str) -> Any:
    from snnrun.run import build  # needs lightning, which takes seconds to import

    return build(without_hydra(CHOICES.compose(["rule=desire_bp", *words])))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["norm=batch"], "body.0 is normalised: set norm=none."),
        (["rule.margin=0.9", "dataset.steps=4"], "rule.margin=0.9 leaves no step of 4 to fire in."),
    ],
)
def test_refuses_networks_and_steps(words, message):
    with pytest.raises(BadRequest) as error:
        built(*words)
    assert message in str(error.value)


def test_a_misfit_says_what_is_missing():
    words = ["rule=desire_bp", "model=convnet", "neuron=lif", "readout=mean"]
    with pytest.raises(BadRequest) as error:
        composed(CHOICES, words)
    told = str(error.value)
    for line in (
        *("needs dense", "model: mlp", "needs spiking_output", "needs unit_reset"),
        "neuron: desire_lif",
    ):
        assert line in told
    assert "needs input_spikes" not in told


@pytest.mark.parametrize(
    "settings",
    [{"margin": 1.0}, {"input_dropout": -0.1}, {"init": "zero"}, {"batch": "mean"}],
)
def test_refuses_settings(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=rf"rule.{name} must be .*, got"):
        DesireBP(**settings)


@pytest.mark.parametrize("options", [{"momentum": 0.5}, {"weight_decay": 0.1}])
def test_in_turn_needs_plain_sgd(options):
    rule = DesireBP(batch="sequential")
    with pytest.raises(ValueError, match=r"needs plain SGD, whose step it foresees"):
        step(rule, Learner(network(rule), **options), *batch())


def test_refuses_16_bits():
    rule = DesireBP()
    learner = Learner(network(rule))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"needs trainer.precision=32-true or 64-true"),
    ):
        rule.loss(learner, *batch())
    learner.net.bfloat16()
    with pytest.raises(ValueError, match=r"needs trainer.precision=32-true or 64-true"):
        rule.loss(learner, *batch())


SHORT = (
    *("rule.batch=sequential", "dataset.batch_size=16", "model.dropout=0.2", "model.spec=40-30"),
    *("optimizer.lr=1e-3", "dataset.val_size=0"),
)


def test_resumes_where_it_stopped(tmp_path, fit):
    """With accumulation, clipping and an average of the weights: two epochs, and the second once more."""
    make = lambda: built(*SHORT)  # noqa: E731
    how = {"limit_train_batches": 20, "gradient_clip_val": 1e9}
    whole = fit(make, tmp_path, **how)
    parts = fit(make, tmp_path, tmp_path / "epoch=0.ckpt", **how)
    assert whole.global_step == parts.global_step == 20
    for one, other in zip(
        whole.lightning_module.parameters(), parts.lightning_module.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    row = whole.lightning_module.history[-1]
    assert row == pytest.approx({**parts.lightning_module.history[-1], "seconds": row["seconds"]})
    assert row["train/acc"] > 1.5 * whole.lightning_module.history[0]["train/acc"] > 0
    assert row["spikes/rate"] > 0.02
