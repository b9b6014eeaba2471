"""What holds of both rules that differentiate an equilibrium: what is estimated, and what training does around it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun.loss import CrossEntropy, TraceCount
from snnrun.model import Dropout
from snnrun.neuron import FeedbackLIF, carry
from snnrun.norm import BNTT, BatchNorm
from snnrun.rule import IDE, SPIDE
from snnrun.rule.equilibrium import Chain, EquilibriumRule, Rates
from snnrun.surrogate import ATan

KINDS: list[type[EquilibriumRule]] = [IDE, SPIDE]
both = pytest.mark.parametrize("kind", KINDS)


@both
def test_the_loss_is_the_criterion_of_what_the_network_says(feedback, kind):
    net, (x, y) = feedback.network(), feedback.batch(5)
    learner = feedback.Learner(net)
    loss = kind().loss(learner, x, y)
    out = learner.readout(net(learner.encoder(x)))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(out, y), rtol=1e-12, atol=0)


@both
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_batch_is_the_mean_of_its_samples(feedback, kind, decay):
    """No matter how a batch is split among processes or accumulated, the estimate is the same."""
    net, (x, y) = feedback.network(decay=decay), feedback.batch(5)
    rule = kind(feedback_bound=None)
    whole = feedback.gradients(rule, net, x, y, decay=decay)
    assert all(g.any() for g in whole.values())
    alone = [
        feedback.gradients(rule, net, x[i : i + 1], y[i : i + 1], decay=decay)
        for i in range(len(y))
    ]
    feedback.same(
        whole, {name: torch.stack([g[name] for g in alone]).mean(0) for name in whole}, atol=1e-8
    )


@both
def test_a_loss_that_is_scaled_scales_the_estimate(feedback, kind):
    net, (x, y) = feedback.network(), feedback.batch(5)
    rule, whole = kind(), feedback.gradients(kind(), net, x, y)
    net.zero_grad()
    (0.25 * rule.loss(feedback.Learner(net), x, y)).backward()
    feedback.same(
        {n: 0.25 * g for n, g in whole.items()}, {n: p.grad for n, p in net.named_parameters()}
    )


@both
def test_a_loss_that_is_a_sum(feedback, kind):
    class Sum(CrossEntropy):
        sums = TraceCount.sums

        def forward(self, out: Tensor, y: Tensor, *, readout: Any) -> Tensor:
            return len(y) * super().forward(out, y, readout=readout)

    net, (x, y) = feedback.network(), feedback.batch(5)
    mean = feedback.gradients(kind(), net, x, y)
    net.zero_grad()
    learner = feedback.Learner(net)
    learner.criterion = Sum()
    kind().loss(learner, x, y).backward()
    total = {n: p.grad / len(y) for n, p in net.named_parameters()}
    feedback.same(mean, total, rtol=1e-7, atol=1e-9)


@both
def test_a_bounded_feedback_is_trained(feedback, kind):
    net, (x, y) = feedback.network("7"), feedback.batch(5)
    with torch.no_grad():
        net.feedback.synapse.weight.mul_(5)
    rule = kind(feedback_bound=0.5)
    net = rule.adapt(net)
    found = feedback.gradients(rule, net, x, y)
    assert found["feedback.synapse.parametrizations.weight.original"].any()
    with torch.no_grad():
        before = [b.clone() for b in net.buffers()]
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    rule.constrain(net)
    assert len(before) == (kind is IDE)
    assert all(not torch.equal(b, other) for b, other in zip(before, net.buffers(), strict=True))


@both
def test_one_dropout_mask_for_everything(feedback, kind):
    """The estimate is that of the network without the dropped neurons, the others scaled."""
    net, (x, y) = feedback.network("12-8", dropout=0.5), feedback.batch(5, size=1)
    torch.manual_seed(5)
    found = feedback.gradients(kind(feedback_bound=None), net, x, y)
    torch.manual_seed(5)
    masks = [nn.functional.dropout(torch.ones(1, n, dtype=torch.float64), 0.5) for n in (12, 8)]
    assert all((m == 0).any() and (m > 0).any() for m in masks)
    plain = feedback.network("12-8")
    plain.load_state_dict({k.replace("body.2", "body.1"): v for k, v in net.state_dict().items()})
    with torch.no_grad():  # masks become part of the weights that read the spikes
        for layer, mask in (
            (plain.body[1], masks[0]),
            (plain.feedback, masks[1]),
            (plain.head, masks[1]),
        ):
            layer.synapse.weight.mul_(mask)
    expected = feedback.gradients(kind(feedback_bound=None), plain, x, y)
    for name, mask in (("body.1", masks[0]), ("feedback", masks[1]), ("head", masks[1])):
        expected[f"{name}.synapse.weight"] *= mask
    feedback.same(found, {k.replace("body.1", "body.2"): v for k, v in expected.items()}, atol=1e-9)


@both
def test_no_gradient_reaches_the_input_and_none_is_kept_of_the_steps(feedback, kind):
    net, (x, y) = feedback.network(), feedback.batch(5)
    x.requires_grad_()
    learner, seen = feedback.Learner(net), []
    for layer in net.body:
        layer.register_forward_hook(lambda m, given, out: seen.append(out.requires_grad))
    kind().loss(learner, x, y).backward()
    assert x.grad is None or not x.grad.any()
    assert len(seen) == feedback.steps * 3 and not any(seen)


@both
def test_activity_is_watched_where_it_should_be(feedback, kind):
    net, (x, y) = feedback.network(), feedback.batch(5)
    learner = feedback.Learner(net)
    kind().loss(learner, x, y)
    assert learner.calls == 0
    learner.watching = True
    kind().loss(learner, x, y)
    assert learner.calls == 1


@both
def test_without_feedback(feedback, kind):
    net, (x, y) = feedback.network("3C3-P2-6", (1, 6, 6), feedback=0), feedback.batch(1, 6, 6)
    found = feedback.gradients(kind(), net, x, y)
    assert all(g.isfinite().all() for g in found.values())
    assert sum(g.any().item() for g in found.values()) >= 6


@both
def test_norms_move_their_statistics_once(feedback, kind):
    """Those between populations use the running ones in the simulation."""
    net, (x, y) = feedback.network("4C3-5C3", (2, 6, 6), BatchNorm), feedback.batch(2, 6, 6)
    norms = [net.input.norm, net.body[1].norm]
    before = copy.deepcopy(net)
    found = feedback.gradients(kind(), net, x, y)
    assert found["body.1.norm.weight"].any() and found["input.norm.bias"].any()
    assert all(norm.training for norm in norms)
    current = before.input.synapse(x)
    mean = current.mean((0, 2, 3))
    times = 2 if kind is IDE else 1  # of the input, f and its Jacobian, as in the authors' code
    torch.testing.assert_close(norms[0].running_mean, mean * (1 - 0.9**times))
    if kind is IDE:
        return  # which takes the others of f(z), and not of the rates on the way
    # by hand: the batch's statistics for the input, the running ones, 0 and 1, behind the next map
    z = before.input.norm(current.unsqueeze(0)).squeeze(0)
    rate, back, u, v = 0.0, 0.0, 0.0, 0.0
    for _ in range(feedback.steps):
        h = u + z + back
        s = (h >= 1).double()
        u, rate = h - 2 * s, rate + s / feedback.steps
        h = v + net.body[1].synapse(s) / (1 + 1e-5) ** 0.5
        s = (h >= 1).double()
        v, back = h - 2 * s, net.feedback.synapse(s)
    mean = net.body[1].synapse(rate).mean((0, 2, 3))
    torch.testing.assert_close(norms[1].running_mean, 0.1 * mean)


@both
def test_mixed_precision(feedback, kind):
    net, (x, y) = feedback.network().float(), feedback.batch(5)
    x = x.float()
    whole = feedback.gradients(kind(), net, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = feedback.gradients(kind(), net, x, y)
    for name, g in coarse.items():
        assert g.dtype == torch.float32 and g.isfinite().all() and g.any()
        cosine = nn.functional.cosine_similarity(g.flatten(), whole[name].flatten(), dim=0)
        assert cosine > 0.8, name


@both
def test_weights_of_16_bits_are_refused(feedback, kind):
    net, (x, y) = feedback.network().bfloat16(), feedback.batch(5)
    with pytest.raises(ValueError, match=r"trainer.precision=32-true, 64-true or bf16-mixed"):
        kind().loss(feedback.Learner(net), x.bfloat16(), y)


@both
def test_what_is_refused(feedback, kind):
    with pytest.raises(
        ValueError, match=r"rule.feedback_bound must be above 0, or null for none; got 0"
    ):
        kind(feedback_bound=0.0)
    rule = kind()
    rule.adapt(feedback.network(norm=lambda channels: BNTT(channels, 4)))
    with pytest.raises(ValueError, match=r"the same at every step, not BNTT; use norm=batch"):
        rule.validate((5,), 4)
    rule.adapt(feedback.network(norm=BatchNorm))
    rule.validate((5,), 4)
    net = feedback.network()
    net.head.neuron = FeedbackLIF(ATan())
    rule.adapt(net)
    with pytest.raises(
        ValueError, match=r"reads a rate through a plain Linear head; set readout.neuron"
    ):
        rule.validate((5,), 4)


@pytest.mark.parametrize("decay", [1.0, 0.8])
@pytest.mark.parametrize("chunks", [[9], [2, 4, 3]])
def test_rates_and_masks(feedback, decay, chunks):
    net = feedback.network("6", (5,), decay=decay)
    chain = Chain(net)
    rates = Rates(chain, weighted_input=True)
    population = chain.populations[0]
    with torch.no_grad():
        net.feedback.synapse.weight.zero_()
    x = torch.randn(
        feedback.steps, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x[:, 0] = 100 * x[:1, 0]  # neurons that never fire, and neurons that always do
    spikes: list[Tensor] = []
    population.register_forward_hook(lambda m, given, out: spikes.append(out))
    with rates.watch():
        if len(chunks) == 1:
            net(x)
        else:
            with carry(net):
                for chunk in x.split(chunks):
                    net(chunk)
    s = torch.cat(spikes)
    weights = decay ** torch.arange(feedback.steps - 1, -1, -1, dtype=torch.float64)
    mean = lambda v: torch.tensordot(weights, v, 1) / weights.sum()  # noqa: E731
    torch.testing.assert_close(rates.rate(population), mean(s), rtol=1e-12, atol=0)
    torch.testing.assert_close(rates.rate(net.input), mean(x), rtol=1e-12, atol=1e-14)
    count = s.sum(0)
    expected = ((count > 0) & (count < feedback.steps)).double()
    assert torch.equal(rates.between(population), expected)
    assert (count == feedback.steps).any() and (count == 0).any() and expected.any()


def test_dropout_is_a_part_between_populations(feedback):
    chain = Chain(feedback.network("9-8", dropout=0.2))
    assert [type(p) for p in chain.maps[1].between] == [Dropout]
    assert [type(p) for p in chain.last] == [Dropout]
