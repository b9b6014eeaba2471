"""IDE against dense solves and against differentiating a fixed point."""

import pytest
import torch
from torch import Tensor, nn

from snnrun.rule import IDE
from snnrun.rule.equilibrium import Chain, Rates


def around(net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """f, written out for dense populations with D = 2."""
    a = z
    for k, layer in enumerate([net.feedback, *net.body[1:]]):
        c = layer.synapse(a) + (net.input.synapse(x) if k == 0 else 0)
        a = torch.where((c >= 0) & (c <= 2), c / 2, (c / 2).clamp(0, 1).detach())
    return a


def simulated(net: nn.Module, x: Tensor, steps: int) -> Tensor:
    """The rate of the last population."""
    seen: list[Tensor] = []
    hook = net.body[-1].register_forward_hook(lambda m, given, out: seen.append(out))
    with torch.no_grad():
        net(x.expand(steps, *x.shape))
    hook.remove()
    return torch.cat(seen).mean(0)


@pytest.mark.parametrize("spec", ["7", "9-8", "9-8-7"])
@pytest.mark.parametrize("solver", ["broyden", "fixed_point"])
def test_equals_a_dense_solve(feedback, spec, solver):
    net, (x, y) = feedback.network(spec), feedback.batch(5)
    rule = IDE(solver, max_iter=300, feedback_bound=None)
    found = feedback.gradients(rule, net, x, y)
    z = simulated(net, x, feedback.steps).requires_grad_()
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(net.head.synapse(z), y), z)
    with torch.no_grad():
        at = z if len(net.body) == 1 else around(net, x, z)
    q = torch.zeros_like(g)
    for i in range(len(y)):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=i: around(net, x[i : i + 1], v[None])[0], at[i].detach()
        )
        assert isinstance(jacobian, Tensor) and jacobian.any()
        q[i] = torch.linalg.solve(torch.eye(len(jacobian), dtype=q.dtype) - jacobian.T, g[i])
    net.zero_grad()
    (q * around(net, x, z.detach())).sum().backward()
    nn.functional.cross_entropy(net.head.synapse(z.detach()), y).backward()
    feedback.same(found, {n: p.grad for n, p in net.named_parameters()}, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("spec", ["7", "9-8"])
def test_at_a_fixed_point_it_is_the_derivative_of_the_fixed_point(feedback, spec, monkeypatch):
    """What the network would say after infinitely many steps, differentiated by finite differences."""
    net, (x, y) = feedback.network(spec), feedback.batch(5)

    def settled() -> Tensor:
        z = torch.full((len(y), net.head.synapse.in_features), 0.3, dtype=torch.float64)
        with torch.no_grad():
            for _ in range(100):
                z = around(net, x, z)
            assert torch.equal(around(net, x, z), z) or (around(net, x, z) - z).abs().max() < 1e-14
        return z

    def value() -> float:
        return nn.functional.cross_entropy(net.head.synapse(settled()), y).item()

    last = Chain(net).populations[-1]
    rate = Rates.rate
    monkeypatch.setattr(
        Rates, "rate", lambda self, layer: settled() if layer is last else rate(self, layer)
    )
    found = feedback.gradients(IDE(max_iter=100, feedback_bound=None), net, x, y)
    for name, p in net.named_parameters():
        for place in range(0, p.numel(), max(1, p.numel() // 3)):
            with torch.no_grad():
                flat, values = p.view(-1), []
                before = flat[place].item()
                for change in (1e-6, -1e-6):
                    flat[place] = before + change
                    values.append(value())
                flat[place] = before
            numerical = (values[0] - values[1]) / 2e-6
            assert found[name].view(-1)[place].item() == pytest.approx(
                numerical, rel=1e-5, abs=1e-8
            ), name


def test_event_input_is_weighed_as_the_rates_are(feedback):
    """The mean input that f sees: with all its weight on one step, that step."""
    net, (x, y) = feedback.network("7", decay=0.5), feedback.batch(5)
    seen: list[Tensor] = []
    net.input.synapse.register_forward_hook(lambda m, given, out: seen.append(given[0]))
    sequence = torch.stack([x * t for t in range(feedback.steps)])
    IDE().loss(feedback.Learner(net, static=False, decay=0.5), sequence, y)
    weights = 0.5 ** torch.arange(feedback.steps - 1, -1, -1, dtype=torch.float64)
    mean = (weights @ torch.arange(feedback.steps, dtype=torch.float64) / weights.sum()) * x
    torch.testing.assert_close(seen[-1], mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "newton"}, "rule.solver must be broyden or fixed_point, got 'newton'."),
        ({"max_iter": 0}, "rule.max_iter must be at least 1, got 0."),
        ({"memory": 0}, "rule.memory must be at least 1, got 0."),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        IDE(**options)
    assert str(error.value) == message
