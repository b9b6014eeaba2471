"""STDBP: against a plain form by autograd, what it makes of a network, and that it trains under every switch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun.check import composed, without_hydra
from snnrun.config import BadRequest, Choices
from snnrun.encoder import SpikeTime
from snnrun.loss import FirstSpike as Loss
from snnrun.model import MLP, ConvNet, Pool, layers
from snnrun.neuron import RelPSP
from snnrun.readout import FirstSpikeReadout
from snnrun.rule import STDBP

CHOICES = Choices()
INF = float("inf")


class Learner:
    """What the rule sees of the learner."""

    def __init__(self, net: nn.Module):
        self.net, self.encoder, self.readout = net, SpikeTime(), FirstSpikeReadout()
        self.criterion, self.out = Loss(5.0), torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = self.net(self.encoder(x))
        return self.out

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return self.criterion(out, y, readout=self.readout)


def network(rule: STDBP, kind: type = MLP, horizon: float | None = 3.0, **how: Any) -> nn.Module:
    torch.manual_seed(0)

    def neuron(channels: int) -> RelPSP:
        return RelPSP(horizon=horizon)

    head = FirstSpikeReadout(neuron=neuron).head
    net = rule.adapt(kind(neuron, lambda c: None, head, (1, 8, 8), 4, **how).double())
    for module in net.modules():
        if isinstance(module, RelPSP):
            module.kernel = rule.kernel(module)
    return net


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, 1, 8, 8, dtype=torch.float64, generator=generator)
    return x.where(x > 0.3, 0), torch.arange(size) % 4


def plain(times: Tensor, weight: Tensor) -> Tensor:
    """Spike times as expressions of what caused them, one neuron after the other: autograd does the rest."""
    rows = []
    for row in times:
        order = sorted((j for j in range(len(row)) if row[j] < INF), key=row.tolist().__getitem__)
        out = []
        for w in weight:
            s, q, at = torch.zeros(()), torch.zeros(()), row.new_tensor(INF)
            for k, j in enumerate(order):
                s, q = s + w[j], q + w[j] * row[j]
                following = row[order[k + 1]] if k + 1 < len(order) else INF
                if s > 0 and row[j] <= (1 + q) / s <= following:
                    at = (1 + q) / s
                    break
            out.append(at)
        rows.append(torch.stack(out))
    return torch.stack(rows)


def test_gradients_of_a_network_are_those_of_the_plain_form():
    rule = STDBP(grad_clip=None, silent_penalty=0.0, init_mean=3.0)
    net = network(rule, horizon=None, spec="9-7")
    learner, (x, y) = Learner(net), batch()
    loss = rule.loss(learner, x, y)
    rule.backward(learner, loss)
    weights = [layer.synapse.weight for _, layer in layers(net)]
    times = learner.encoder(x)[0].flatten(1)
    copies = [weight.detach().clone().requires_grad_() for weight in weights]
    for weight in copies:
        times = plain(times, weight)
    torch.testing.assert_close(learner.out[0], times, rtol=1e-12, atol=0)
    expected = Loss(5.0)(times[None], y, readout=FirstSpikeReadout())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for weight, grad in zip(weights, torch.autograd.grad(expected, copies), strict=True):
        assert grad.any()
        torch.testing.assert_close(weight.grad, grad, rtol=1e-9, atol=1e-12)


def test_a_batch_is_the_mean_of_its_samples():
    rule = STDBP()
    net, (x, y) = network(rule, spec="9"), batch()
    net.head.synapse.weight.data[1] = -1  # a silent output
    found = []
    for part in (slice(None), *(slice(i, i + 1) for i in range(len(y)))):
        net.zero_grad()
        rule.loss(Learner(net), x[part], y[part]).backward()
        found.append([p.grad.clone() for p in net.parameters()])
    for i, whole in enumerate(found[0]):
        mean = torch.stack([one[i] for one in found[1:]]).mean(0)
        torch.testing.assert_close(whole, mean, rtol=1e-10, atol=1e-14)


def test_a_silent_right_output_is_raised_and_no_other():
    for penalty in (0.0, 2.0):
        rule = STDBP(silent_penalty=penalty)
        net, (x, _) = network(rule, spec="9"), batch()
        net.head.synapse.weight.data[1:] = -0.1
        y = torch.tensor([0, 0, 1, 1, 1, 2])
        learner = Learner(net)
        loss = rule.loss(learner, x, y)
        told = learner.score(learner.out, y)
        assert torch.isclose(loss, told + penalty * 4 / 6)
        loss.backward()
        grad = net.head.synapse.weight.grad
        hidden = net.body(learner.encoder(x).flatten(2))[0]
        potential = (3.0 - hidden).clamp(min=0)  # at the horizon, of a weight of 1
        expected = -penalty / 6 * torch.stack([potential[2:5].sum(0), potential[5]])
        torch.testing.assert_close(grad[1:3], expected)
        assert potential.any() and not grad[3].any() and grad[0].any()


def test_pools_hand_on_the_earliest_spike_and_there_are_no_biases():
    rule = STDBP()
    net = network(rule, ConvNet, spec="6C3-P2-9C3-M2-20", bias=True)
    pools = [part.kind for part in net.modules() if isinstance(part, Pool)]
    assert pools == ["min", "min"]
    assert all(layer.synapse.bias is None for _, layer in layers(net))
    learner, (x, y) = Learner(net), batch()
    rule.loss(learner, x, y).backward()
    assert learner.out.shape == (1, 6, 4) and learner.out.isfinite().any()
    for p in net.parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any()


def test_initial_weights():
    net = network(STDBP(init_mean=5.0, init_std=2.0), spec="300-300")
    weight = net.body[1].synapse.weight
    assert weight.sum(1).mean().item() == pytest.approx(5, abs=0.4)
    assert weight.std().item() * 300**0.5 == pytest.approx(2, rel=0.05)
    kept = network(STDBP(init="keep"), spec="300-300").body[1].synapse.weight
    assert kept.std().item() == pytest.approx((1 / 900) ** 0.5, rel=0.05)


def test_neurons_fire_before_training():
    data, learner = built("dataset.batch_size=50")
    data.setup()
    x, *_ = next(iter(data.loader("train")))
    with torch.no_grad():
        hidden = learner.net.body(learner.encoder(learner.prepare(x, train=False)).flatten(2))
    assert hidden.isfinite().float().mean() > 0.9


def built(*words: str) -> Any:
    from snnrun.run import build  # needs lightning, which takes seconds to import

    return build(without_hydra(CHOICES.compose(["rule=stdbp", *words])))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["norm=batch"], "body.0 is normalised, and spike times are no currents: set norm=none."),
        (["model.dropout=0.5"], "body.1 would scale spike times by what it drops."),
        (["model=convnet", "model.spec=8C3-A2"], "body.1 is a pool of kind avg"),
        (["neuron.horizon=null"], "body.0 never ends a sample: rule.silent_penalty needs"),
        (["model=recurrent", "model.spec=R8"], "body.0 feeds itself."),
        (["model=plain_net"], "is a pool of kind avg"),
        (["readout=mean"], "head gives out no spike times: set neuron=rel_psp readout=first_spike"),
    ],
)
def test_refuses_networks(words, message):
    with pytest.raises(BadRequest) as error:
        built(*words)
    assert message in str(error.value)


def test_a_misfit_says_what_is_missing():
    with pytest.raises(BadRequest) as error:
        composed(CHOICES, ["rule=stdbp", "loss=cross_entropy"])
    assert "needs loss_of_times" in str(error.value)
    with pytest.raises(BadRequest) as error:
        composed(CHOICES, ["neuron=rel_psp"])
    for line in ("encoder: spike_time", "readout: first_spike", "rule=bptt needs stepped"):
        assert line in str(error.value)
    with pytest.raises(BadRequest) as error:
        composed(CHOICES, ["rule=stdbp", "model=convnet", "model.pool=avg"])
    assert str(error.value) == (
        "neuron=rel_psp needs passes_times, which none of the chosen parts has.\n"
        "  model: convnet, mlp   (now convnet)"
    )


@pytest.mark.parametrize(
    "settings",
    [{"grad_clip": 0.0}, {"silent_penalty": -1.0}, {"init": "zero"}, {"init_std": -1.0}],
)
def test_refuses_settings(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=rf"rule.{name} must be .*got"):
        STDBP(**settings)


SHORT = ("dataset.batch_size=16", "model.spec=40", "dataset.val_size=0", "scheduler=constant")


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.lightning_module.parameters(), other.lightning_module.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_resumes_where_it_stopped_and_bfloat16_changes_nothing(tmp_path, fit):
    """With accumulation, clipping and an average of the weights: two epochs, the second again, and in bf16."""
    make = lambda: built(*SHORT)  # noqa: E731
    how = {"limit_train_batches": 30, "gradient_clip_val": 0.5}
    whole = fit(make, tmp_path, **how)
    parts = fit(make, tmp_path, tmp_path / "epoch=0.ckpt", **how)
    assert whole.global_step == parts.global_step == 30 and same_weights(whole, parts)
    row = whole.lightning_module.history[-1]
    assert row == pytest.approx({**parts.lightning_module.history[-1], "seconds": row["seconds"]})
    assert row["train/acc"] > 1.2 * whole.lightning_module.history[0]["train/acc"] > 0
    assert 0.02 < row["spikes/rate/body.0"] <= 1
    mixed = fit(make, tmp_path / "mixed", precision="bf16-mixed", **how)  # spike times stay float32
    assert same_weights(whole, mixed)


def test_weights_that_are_not_finite_are_told_though_silence_hides_them():
    from lightning.pytorch import Trainer

    from snnrun.finite import NotFinite
    from snnrun.run import quiet

    quiet()
    data, learner = built(*SHORT)
    learner.net.body[0].synapse.weight.data[0, 0] = float("nan")
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        limit_train_batches=2,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with pytest.raises(NotFinite, match=r"body.0.synapse.weight is not finite after epoch 0"):
        trainer.fit(learner, datamodule=data)


def test_a_loss_that_is_no_number_is_not_blamed_on_silence(monkeypatch):
    """Infinite times are silence; the first layer that gives out NaN is what is looked for."""
    _, learner = built("encoder.black=silent")
    x = torch.zeros(2, 1, 8, 8)
    monkeypatch.setattr(type(learner), "current_epoch", 0)
    monkeypatch.setattr(type(learner), "global_step", 0)
    message = str(learner.not_finite(torch.tensor(INF), x))
    assert "though every layer's output is finite" in message
