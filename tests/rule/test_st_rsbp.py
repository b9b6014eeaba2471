"""ST-RSBP: what it makes of networks, what it refuses, and runs that are cut, clipped, averaged and resumed."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from snnrun.check import composed, without_hydra
from snnrun.config import BadRequest, Choices
from snnrun.encoder import Poisson
from snnrun.loss import CountMargin
from snnrun.model import MLP, ConvNet, Recurrent, layers
from snnrun.neuron import RefractoryLIF, scan
from snnrun.readout import SpikingReadout
from snnrun.rule import STRSBP
from snnrun.rule.lateral import Inhibition, Reservoir
from snnrun.rule.train_head import TrainHead
from snnrun.rule.train_image import TrainConv, TrainPool
from snnrun.rule.train_layer import TrainLayer
from snnrun.surrogate import ATan

CHOICES = Choices()


def neuron(channels: int) -> RefractoryLIF:
    return RefractoryLIF(ATan(), threshold=0.5)


def recurrent(spec: str = "12-R8", **more: Any) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(
        neuron, lambda c: None, SpikingReadout("sum", neuron).head, (1, 3, 3), 4, spec=spec, **more
    )


def images(spec: str = "3C3-P2-5") -> ConvNet:
    torch.manual_seed(0)
    head = SpikingReadout("sum", neuron).head
    return ConvNet(neuron, lambda c: None, head, (1, 6, 6), 4, spec=spec)


def kinds(net: nn.Module) -> list[type]:
    return [type(layer) for _, layer in layers(net)]


def test_what_becomes_of_a_network():
    net = STRSBP(thresholds=[2, 5, 1.5], inhibition=0.5).adapt(recurrent())
    assert kinds(net) == [TrainLayer, TrainLayer, TrainHead]
    first, second, head = (layer for _, layer in layers(net))
    assert [layer.neuron.threshold for layer in (first, second, head)] == [2, 5, 1.5]
    assert first.recurrent is None and isinstance(head.recurrent, Inhibition)
    assert head.recurrent.strength == 0.5 and isinstance(second.recurrent, Reservoir)
    for layer in (first, second, head):
        assert layer.synapse.bias is None
        weight = layer.synapse.weight
        assert weight.abs().max() < 1 and weight.std().item() == pytest.approx(3**-0.5, rel=0.25)
    inner = second.recurrent.weight
    assert torch.equal(inner != 0, second.recurrent.connected) and inner.abs().max() > 0.6
    kept = recurrent()
    before = kept.body[0].synapse.weight.clone()
    STRSBP(init="keep").adapt(kept)
    assert torch.equal(kept.body[0].synapse.weight, before)


def test_what_becomes_of_images():
    net = STRSBP(thresholds=[1, 2, 3, 4], quirks="reference").adapt(images())
    assert kinds(net) == [TrainConv, TrainPool, TrainLayer, TrainHead]
    found = [layer.neuron for _, layer in layers(net)]
    assert [n.threshold for n in found] == [1, 2, 3, 4]
    assert [n.tolerance for n in found] == [0, 0, 1e-6, 1e-6]
    assert net.body[0].first and net.body[0].reference
    out = net((torch.rand(50, 2, 1, 6, 6) < 0.5).float())
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "rule", "message"),
    [
        (lambda: recurrent(dropout=0.2), {}, "body.1 drops spikes: set model.dropout=0."),
        (lambda: recurrent(), {"grid": [2, 2, 3]}, "rule.grid=2x2x3 has no place for the 8 rec"),
        (lambda: recurrent(), {"thresholds": [1.0]}, "has 1 numbers; there are 3 layers and pools"),
        (
            lambda: MLP(neuron, nn.BatchNorm1d, SpikingReadout("sum", neuron).head, (3,), 4),
            {},
            "body.0 is normalised: set norm=none.",
        ),
        (
            lambda: MLP(neuron, lambda c: None, SpikingReadout("sum").head, (3,), 4),
            {},
            "head has no neuron=refractory_lif.",
        ),
    ],
)
def test_refuses_networks(net, rule, message):
    with pytest.raises(ValueError) as error:
        STRSBP(**rule).adapt(net())
    assert message in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        *({"grid": [1, 2]}, {"thresholds": [0.0]}, {"encouragement": 0}, {"weight_limit": 0}),
        *({"table_rows": 0}, {"init": "zero"}, {"quirks": "all"}),
    ],
)
def test_refuses_settings(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=rf"rule.{name} must be .*got"):
        STRSBP(**settings)


def test_a_misfit_says_what_is_missing():
    words = ["rule=st_rsbp", "model=sew_resnet", "neuron=lif", "encoder=direct", "readout=mean"]
    with pytest.raises(BadRequest) as error:
        composed(CHOICES, words)
    told = str(error.value)
    for line in (
        *("needs chain", "  model: convnet, mlp, recurrent   (now sew_resnet)"),
        *("needs refractory", "neuron: refractory_lif", "needs spiking_output"),
        *("needs input_spikes", "poisson"),
    ):
        assert line in told
    composed(CHOICES, ["rule=st_rsbp", "model=convnet"])


class Learner:
    """What the rule sees of the learner."""

    def __init__(self, net: nn.Module):
        self.net, self.encoder, self.places = net, Poisson(60), None
        self.readout, self.criterion = SpikingReadout("sum"), CountMargin(12, 2, 2)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.encoder(x))

    def score(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(out, y, readout=self.readout)


def step(rule: STRSBP, learner: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    learner.net.zero_grad()
    torch.manual_seed(1)
    loss = rule.loss(learner, x, y)
    rule.backward(learner, loss)
    return loss


def test_the_penalty_moves_weights_and_is_not_told():
    x, y = torch.rand(3, 1, 3, 3), torch.tensor([0, 1, 2])
    net = STRSBP().adapt(recurrent())
    plain, pulled = STRSBP(penalty=0.0), STRSBP(penalty=10.0, penalty_slope=0.5)
    loss = step(plain, Learner(net), x, y)
    bare = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert torch.equal(step(pulled, Learner(net), x, y), loss)
    layer = net.body[1]
    inner, weight = layer.recurrent.weight.detach(), layer.synapse.weight.detach()
    n = weight.shape[1] + 1 + int(layer.recurrent.connected.sum())
    s = (weight.square().sum(1) + inner.square().sum(1)) / 64
    pull = 10 * 0.5 / 8 * torch.exp(0.5 * (s / n - 1))
    for p, before in ((layer.synapse.weight, bare[1]), (layer.recurrent.weight, bare[2])):
        torch.testing.assert_close(p.grad - before, pull[:, None] * p.detach())
    reference = STRSBP(penalty=10.0, penalty_slope=0.5, quirks="reference")
    net.zero_grad()
    reference.pull(net).backward()
    assert not layer.recurrent.weight.grad.diagonal().any() and layer.recurrent.weight.grad.any()


def test_a_weighted_sample_counts_as_so_many():
    x, y = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    rule = STRSBP(penalty=0.0)
    net = rule.adapt(recurrent())
    found = []
    for weight in ([1.0, 0.0], [0.0, 1.0], [2.0, 0.5]):
        learner = Learner(copy.deepcopy(net))
        learner.places = torch.tensor([4, 2])  # pyright: ignore[reportAttributeAccessIssue]
        learner.over_ranks = lambda count, how="sum": count  # pyright: ignore[reportAttributeAccessIssue]
        rule.boosting.weight = torch.zeros(6)
        rule.boosting.drawn = torch.zeros(6, dtype=torch.int32)
        rule.boosting.weight[learner.places] = torch.tensor(weight)
        step(rule, learner, x, y)
        found.append([p.grad for p in learner.net.parameters()])
    for first, second, both in zip(*found, strict=True):
        torch.testing.assert_close(both, 2 * first + 0.5 * second, rtol=1e-4, atol=1e-5)
    assert sum(bool(g.any()) for g in found[0]) == sum(bool(g.any()) for g in found[1]) == 4


def test_float32_and_kernels_agree_with_arrays_in_float64():
    x, y = torch.rand(3, 1, 3, 3), torch.tensor([0, 1, 2])
    rule = STRSBP()
    net = rule.adapt(recurrent())
    wide = copy.deepcopy(net).double()
    for _, layer in layers(wide):
        layer.neuron.kernel = scan
    step(rule, Learner(net), x, y)
    encoder = Poisson(60)
    learner = Learner(wide)
    learner.encoder = lambda x: encoder(x.float()).double()  # pyright: ignore
    step(rule, learner, x.double(), y)
    for one, other in zip(net.parameters(), wide.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=2e-4 * scale)


def test_refuses_16_bits():
    rule = STRSBP()
    learner = Learner(rule.adapt(recurrent()))
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    message = "rule=st_rsbp needs trainer.precision=32-true or 64-true"
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=message),
    ):
        rule.loss(learner, x, y)  # pyright: ignore[reportArgumentType]
    learner.net.bfloat16()
    with pytest.raises(ValueError, match=message):
        rule.loss(learner, x, y)  # pyright: ignore[reportArgumentType]


SHORT = (
    *(
        "rule=st_rsbp",
        "model=recurrent",
        "model.spec=60-R40",
        "dataset.steps=60",
        "neuron.tau_m=20",
    ),
    *("dataset.batch_size=4", "neuron.threshold=2", "loss.true_count=15", "loss.false_count=2"),
    *("optimizer.lr=2e-2", "dataset.val_size=0", "rule.boosting=1.0", "rule.penalty=10"),
)


def test_resumes_where_it_stopped(tmp_path, fit):
    """With accumulation, clipping, an average of the weights and weighted samples."""
    from snnrun.run import build

    make = lambda: build(without_hydra(CHOICES.compose(SHORT)))  # noqa: E731
    how = {"limit_train_batches": 120, "gradient_clip_val": 50.0}
    whole = fit(make, tmp_path, **how)
    parts = fit(make, tmp_path, tmp_path / "epoch=0.ckpt", **how)
    assert whole.global_step == parts.global_step == 120
    one, other = whole.lightning_module, parts.lightning_module
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    weight = one.rule.boosting.weight
    assert torch.equal(weight, other.rule.boosting.weight)
    assert 40 < int((weight > 1).sum()) < 480 and weight.max() > 1.2
    row = one.history[-1]
    assert row == pytest.approx({**other.history[-1], "seconds": row["seconds"]})
    assert row["lr"] == pytest.approx(2e-2 / 2**0.5)
    assert row["train/acc"] > 1.3 * one.history[0]["train/acc"] > 0
    assert row["spikes/rate"] > 0.02
