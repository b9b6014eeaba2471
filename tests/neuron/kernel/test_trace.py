"""Steps made at random from the table of operations; steps that cannot be printed; what a program depends on."""

import copy
import warnings

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snnrun.neuron import LIF, Neuron, State, scan
from snnrun.neuron.kernel import Fused
from snnrun.neuron.kernel.aten import Unprintable
from snnrun.neuron.kernel.cut import cut
from snnrun.neuron.kernel.graph import Graph
from snnrun.neuron.kernel.program import program
from snnrun.neuron.kernel.trace import trace
from snnrun.surrogate import ATan, Surrogate

UNARY = {
    "neg": torch.neg,
    "abs": torch.abs,
    "relu": torch.relu,
    "square": lambda a: a**2,
    "cube": lambda a: a**3,
    "root": lambda a: (a.abs() + 0.1).sqrt(),
    "floor": torch.floor,
    "round": torch.round,
    "clamp": lambda a: a.clamp(-0.5, 1.5),
    "exp": lambda a: torch.exp(-a.abs()),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "log": lambda a: torch.log(a.abs() + 1),
    "scale": lambda a: 0.3 * a + 0.1,
    "softplus": nn.functional.softplus,
}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (b.abs() + 1),
    "max": torch.maximum,
    "min": torch.minimum,
    "where": lambda a, b: torch.where((a > b) | (a < -1), a, 0.5 * b),
    "below": lambda a, b: (a <= b).to(a.dtype) * b,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
}
operation = st.one_of(
    st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 30), st.just(0)),
    st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 30), st.integers(0, 30)),
)


class Random(Neuron):
    """A neuron whose step is a list of operations, each on earlier values; the last ones come out."""

    def __init__(self, operations: list[tuple[str, int, int]], count: int):
        super().__init__()
        self.operations, self.count = tuple(operations), count
        self.w = nn.Parameter(torch.tensor([0.4, -0.2, 0.9]))

    def init_state(self, x: Tensor) -> State:
        return tuple(torch.full_like(x, 0.1 * i) for i in range(self.count))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        w = torch.tanh(self.w)
        values = [x, *state, w.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else w]
        for name, a, b in self.operations:
            one, other = values[a % len(values)], values[b % len(values)]
            values.append(UNARY[name](one) if name in UNARY else BINARY[name](one, other))
        # bounded, so that errors do not grow over time
        ends = [
            torch.minimum(torch.maximum(v + 0.1 * x, -1 - x.abs()), 1 + x.abs()) for v in values
        ]
        return ends[-1], tuple(ends[-2 - i] for i in range(self.count))


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(st.lists(operation, min_size=3, max_size=9), st.integers(0, 3))
def test_random_steps(operations, count):
    neuron = Random(operations, count).double()
    x = torch.randn(4, 3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Fused().program(neuron, x) is not None
    found = []
    for kernel in (Fused(), scan):
        leaf = x.clone().requires_grad_()
        out, state = kernel(neuron, leaf, neuron.init_state(x[0]))
        loss = sum((o * torch.cos(3 * o.detach())).sum() for o in (out, *state))
        grads = torch.autograd.grad(loss, (leaf, neuron.w), allow_unused=True)
        zeros = (torch.zeros_like(leaf), torch.zeros_like(neuron.w))
        found.append(
            [out, *state, *(z if g is None else g for g, z in zip(grads, zeros, strict=True))]
        )
    for one, other in zip(*found, strict=True):
        largest = max(other.abs().max().item(), 1.0)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * largest)


class Mean(LIF):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x - x.mean(), state)


class Neighbour(LIF):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x - 0.5 * x.flip(-1), state)


class Noisy(LIF):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x + 0 * torch.rand_like(x), state)


class Branch(LIF):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x if x.sum() > 0 else -x, state)


class Reading(LIF):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x + self.shift, state)

    shift = torch.tensor(0.1)


class Shaped(LIF):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x * x.shape[1], state)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Mean, "mean"),
        (Neighbour, "flip"),
        (Noisy, "rand_like"),
        (Branch, "_local_scalar_dense"),
        (Reading, "a tensor that is neither parameter nor buffer"),
        (Shaped, "IndexError"),
    ],
)
def test_what_cannot_be_printed_runs_step_by_step_and_says_so_once(kind, named):
    neuron, x = kind(ATan()), torch.randn(3, 4, 5)
    with pytest.warns(UserWarning, match=rf"^{kind.__name__} runs step by step.* {named}") as told:
        out = neuron(x)
        neuron(x)
        kind(ATan())(x)
    assert len(told) == 1
    assert torch.equal(out, scan(neuron, x, neuron.init_state(x[0]))[0])


def test_a_sum_over_one_element_is_found_out():
    class Sum(LIF):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            return super().step(x.sum(), state)

    with pytest.raises(Unprintable, match=r"(across the elements|another shape)"):
        program(Sum(ATan()), torch.float32, 2)


def test_meta_tensors_run_step_by_step_in_silence():
    x = torch.empty(3, 4, 5, device="meta")
    assert Fused().program(LIF(ATan()), x) is None
    assert LIF(ATan())(x).device.type == "meta"


def test_hooks_see_every_step():
    neuron, seen = LIF(ATan()), []
    neuron.surrogate.register_forward_hook(lambda *args: seen.append(args))
    neuron(torch.randn(3, 4, 5))
    assert len(seen) == 3


def test_a_setting_that_changes_is_followed():
    neuron, x = LIF(ATan()), torch.full((1, 1, 1), 1.5)
    assert neuron(x).item() == 0
    neuron.threshold = 0.5
    assert neuron(x).item() == 1


def test_a_buffer_is_read_at_every_call():
    class Annealed(LIF):
        def __init__(self, surrogate: Surrogate):
            super().__init__(surrogate)
            self.register_buffer("level", torch.tensor(0.0))

        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            return super().step(x - self.level, state)

    neuron, x = Annealed(ATan()), torch.full((1, 1, 1), 2.5)
    first = Fused().program(neuron, x)
    assert neuron(x).item() == 1
    neuron.level.fill_(1.0)
    assert neuron(x).item() == 0
    assert Fused().program(neuron, x) is first


def test_functional_calls_reach_the_kernel():
    neuron = LIF(ATan(), learnable=True)
    x = torch.full((1, 1, 1), 1.5)
    assert neuron(x).item() == 0
    (out,) = torch.func.functional_call(neuron, {"w": torch.tensor([9.0])}, (x,)).flatten()
    assert out.item() == 1


def test_transforms_of_functions_run_step_by_step():
    neuron, x = LIF(ATan()), torch.randn(3, 4, 5)
    gradient = torch.func.grad(lambda y: (neuron(y) * x).sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad((neuron(leaf) * x).sum(), leaf)[0])


def test_a_moving_average_of_a_used_network():
    net = nn.Sequential(LIF(ATan(), learnable=True))
    x = torch.randn(3, 4, 5)
    net(x).sum()
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    assert torch.equal(average(x), net(x))
    assert torch.equal(copy.deepcopy(average)(x), net(x))


def test_a_graph_survives_its_text():
    neuron = LIF(ATan(), learnable=True)
    graph = trace(neuron, dict(neuron.named_parameters()), torch.float32)
    again = Graph.load(graph.dump())
    assert again.nodes == graph.nodes and again.outputs == graph.outputs


def test_equal_nodes_are_one_and_signed_zeros_two():
    graph = Graph()
    x = graph.input("x")
    assert graph.add("neg", x) == graph.add("neg", x)
    assert graph.const(0.0) != graph.const(-0.0)
    assert graph.const(float("nan")) == graph.const(float("nan"))


@pytest.mark.parametrize(
    ("neuron", "count"),
    [(LIF(ATan()), 1), (LIF(ATan(), detach_reset=False), 1), (LIF(ATan(), learnable=True), 2)],
    ids=["lif", "lif, reset not detached", "learnable"],
)
def test_the_way_back_keeps_few_values(neuron, count):
    graph = trace(neuron, dict(neuron.named_parameters()), torch.float32)
    assert len(cut(graph)) == count


class Logarithm(Neuron):
    """Gives out a function of its input."""

    def __init__(self, function: str):
        super().__init__()
        self.function = function

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return getattr(torch, self.function)(x), (state[0] + 1,)


@pytest.mark.parametrize("function", ["log", "log1p"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_are_within_two_units_in_the_last_place(function, dtype):
    g, kind = torch.Generator().manual_seed(0), torch.finfo(dtype)
    wide = torch.exp(20 * torch.randn(100_000, generator=g, dtype=dtype))
    near = torch.randn(100_000, generator=g, dtype=dtype)
    x = torch.cat([wide, 1 + 1e-4 * near, 1e-8 * near, near - 1, kind.tiny * near[:1000]])
    special = [0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, kind.tiny, kind.max]
    x = torch.cat([x, torch.tensor(special, dtype=dtype)])
    neuron = Logarithm(function)
    neuron.kernel = Fused()
    assert neuron.kernel.program(neuron, x.view(1, 1, -1)) is not None
    found = neuron(x.view(1, 1, -1)).flatten()
    wanted = getattr(torch, function)(x.double()).to(dtype)
    unit = torch.nextafter(wanted.abs(), torch.tensor(torch.inf, dtype=dtype)) - wanted.abs()
    finite = wanted.isfinite()
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found[~finite & ~wanted.isnan()], wanted[~finite & ~wanted.isnan()])
    assert ((found - wanted).abs() <= 2 * unit)[finite].all()
