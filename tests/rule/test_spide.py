"""SPIDE's spiking backward pass against a dense solve, and what its spikes can and cannot say."""

import pytest
import torch
from torch import Tensor, nn

from snnrun.rule import SPIDE
from snnrun.rule.equilibrium import Chain, Rates


def populations(net: nn.Module, x: Tensor, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Rates and masks of dense populations, from a plain loop over time."""
    maps = [net.feedback.synapse.weight, *(layer.synapse for layer in net.body[1:])]
    u = [0.0] * len(maps)
    spikes: list[list[Tensor]] = [[] for _ in maps]
    for t in range(steps):
        for k in range(len(maps)):
            if k == 0:
                c = net.input.synapse(x) + (spikes[-1][-1] @ maps[0].T if t else 0)
            else:
                c = maps[k](spikes[k - 1][-1])
            h = u[k] + c
            spikes[k].append((h >= 1).double())
            u[k] = h - 2 * spikes[k][-1]
    counts = [torch.stack(s).sum(0) for s in spikes]
    masks = [((n > 0) & (n < steps)).double() for n in counts]
    return [n / steps for n in counts], masks


@pytest.mark.parametrize(("spec", "rest"), [("7", -0.5), ("9-8", 0.0), ("9-8-7", -0.5)])
def test_tends_to_the_solution_of_the_implicit_equation(feedback, spec, rest):
    r"""With J the masked maps once around, $\beta = (I - J^\top)^{-1} g$ up to O(1/steps)."""
    net, (x, y) = feedback.network(spec), feedback.batch(5)
    with torch.no_grad():
        rates, masks = populations(net, x, feedback.steps)
    z = rates[-1].clone().requires_grad_()
    (g,) = torch.autograd.grad(
        nn.functional.cross_entropy(net.head.synapse(z), y, reduction="sum"), z
    )
    maps = [net.feedback.synapse.weight, *(layer.synapse.weight for layer in net.body[1:])]
    estimates = []
    for i in range(len(y)):
        back = [m[i][:, None] * w / 2 for m, w in zip(masks, maps, strict=True)]
        around = torch.linalg.multi_dot([*back[::-1], torch.eye(len(g[i]), dtype=g.dtype)])
        beta = [torch.linalg.solve(torch.eye(len(g[i]), dtype=g.dtype) - around.T, g[i])]
        for matrix in back[:0:-1]:  # from the last population down to the first
            beta.insert(0, matrix.T @ beta[0])
        estimates.append([m[i] * b for m, b in zip(masks, beta, strict=True)])
    expected = [torch.stack(rows) for rows in zip(*estimates, strict=True)]
    scale = 0.2 / max(e.abs().max().item() for e in [*expected, g])  # nothing saturates
    found: dict[int, float] = {}
    for steps in (200, 1600):
        rule = SPIDE(steps, 0.5, rest, scale, None)
        chain = Chain(net)
        beta, _ = rule.backward_pass(chain, rates, masks, scale * g)
        found[steps] = max(
            (m * b / scale - e).abs().max().item()
            for m, b, e in zip(masks, beta, expected, strict=True)
        )
    size = max(e.abs().max().item() for e in expected)
    assert size > 0.05
    assert found[1600] < 0.03 * size and found[1600] < found[200] / 4, (found, size)


def test_gradients_are_local_products(feedback):
    """Estimate of a weight: what came back to its target times the rate of its source, the mean over the batch."""
    net, (x, y) = feedback.network("9-8"), feedback.batch(5)
    rule, kept = SPIDE(scale=0.7, feedback_bound=None), []
    run = rule.backward_pass
    rule.backward_pass = lambda *given: kept.append((given, run(*given))) or kept[-1][1]
    found = feedback.gradients(rule, net, x, y)
    ((_, rates, masks, g), (beta, counts)) = kept[0]
    assert len(counts) == 2
    expected_rates, expected_masks = populations(net, x, feedback.steps)
    for one, other in zip([*rates, *masks], [*expected_rates, *expected_masks], strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=0)
    z = rates[-1].clone().requires_grad_()
    (own,) = torch.autograd.grad(nn.functional.cross_entropy(net.head.synapse(z), y), z)
    torch.testing.assert_close(g, 0.7 * len(y) * own, rtol=1e-12, atol=0)
    e = [m * b / (2 * 0.7 * len(y)) for m, b in zip(masks, beta, strict=True)]
    for name, target, source in (
        ("input", e[0], x),
        ("body.1", e[1], rates[0]),
        ("feedback", e[0], rates[1]),
    ):
        torch.testing.assert_close(found[f"{name}.synapse.weight"], target.T @ source)
    torch.testing.assert_close(found["input.synapse.bias"], e[0].sum(0))


def test_spikes_cut_what_is_large_and_lose_what_is_small(feedback):
    net, (x, _) = feedback.network("7"), feedback.batch(5)
    rates, masks = populations(net, x, feedback.steps)
    with torch.no_grad():
        net.feedback.synapse.weight.zero_()
    rule = SPIDE(steps=50, feedback_bound=None)
    g = torch.tensor([5.0, 1.0, 0.25, 0.004, -0.25, -7.0, 0.0], dtype=torch.float64).expand(6, 7)
    (beta,), (count,) = rule.backward_pass(Chain(net), rates, masks, g)
    assert beta[0].tolist() == pytest.approx([1, 1, 0.26, 0, -0.26, -1, 0], abs=0.021)
    assert count[0, 0] == 50 and count[0, 3] == 0


def test_backward_spikes_are_counted_over_the_epoch(feedback):
    net, (x, y) = feedback.network("9-8"), feedback.batch(5)
    rule, row = SPIDE(steps=20, feedback_bound=None), {}
    rates = []
    for size in (6, 4):
        one = SPIDE(steps=20, feedback_bound=None)
        for counting in (rule, one):
            counting.loss(feedback.Learner(net), x[:size], y[:size])
        rates.append(one.progress["fired"] / one.progress["slots"])
    other = SPIDE(steps=20)
    other.prepare_load(net, {"snnrun": {"rule": dict(rule.progress)}})
    for counting in (rule, other):
        counting.epoch_end(feedback.Learner(net), row)
        mean = (6 * rates[0] + 4 * rates[1]) / 10
        assert row.pop("rule/backward_rate") == pytest.approx(mean)
        assert 0 < mean < 1
    rule.epoch_end(feedback.Learner(net), row)
    assert row == {}


def test_event_input_is_averaged_plainly(feedback):
    net, (x, _) = feedback.network("7", decay=0.5), feedback.batch(5)
    chain = Chain(net)
    rates = Rates(chain, weighted_input=SPIDE.weighted_input)
    sequence = torch.stack([x * t for t in range(feedback.steps)])
    with rates.watch():
        net(sequence)
    torch.testing.assert_close(rates.rate(net.input), sequence.mean(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "rule.steps must be at least 1, got 0."),
        (
            {"threshold": 0.0},
            "rule.threshold must be above 0 and above rule.rest, got 0.0 and -0.5.",
        ),
        ({"rest": 0.5}, "rule.threshold must be above 0 and above rule.rest, got 0.5 and 0.5."),
        ({"scale": 0.0}, "rule.scale must be above 0, got 0.0."),
        ({"norm": "spectral"}, "rule.norm must be exact or estimate, got 'spectral'."),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        SPIDE(**options)
    assert str(error.value) == message
