"""Every neuron with every setting of its switches, through its printed kernel: the same as `scan`."""

import copy
import functools
import itertools
import pickle
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from snnrun.config import Choices, instantiate
from snnrun.neuron import Neuron, State, carry, scan
from snnrun.neuron.kernel import Fused
from snnrun.neuron.kernel.graph import ROUGH
from snnrun.neuron.kernel.plan import forward_outputs
from snnrun.neuron.kernel.program import Program, program
from snnrun.source import conforms, definition

CHOICES = Choices()
CHANNELS = 3
STEPPED = [o for o in CHOICES.options("neuron") if o != "rel_psp"]  # which has no step to print
SURROGATES = CHOICES.options("surrogate")
SWITCHES: dict[str, tuple[Any, ...]] = {
    "reset": ("hard", "soft", "none", "zero", "subtract"),
    "reset_value": (0.0, -0.25),
    "detach_reset": (True, False),
    "decay_input": (True, False),
    "learnable": (False, True),
    "per_channel": (False, True),
}
Setting = tuple[str, str, dict[str, Any]]


def every() -> list[Setting]:
    """Settings of all neurons, the surrogates dealt out to them; and each surrogate with one neuron."""
    found: list[Setting] = []
    surrogates = itertools.cycle(SURROGATES)
    for option in STEPPED:
        own = CHOICES.load("neuron", option)
        known = definition(own["_target_"])
        assert known is not None
        switches = {
            key: [v for v in values if conforms(v, known.arguments[key], known.module)]
            for key, values in SWITCHES.items()
            if key in own
        }
        turned = list(switches)
        settings = [*itertools.product(*switches.values())]
        if len(settings) > 24:  # every third: any two values of any two switches still meet
            settings = settings[::3]
        for values in settings:
            change = dict(zip(turned, values, strict=True))
            idle = change.get("per_channel") and not change.get("learnable", True)
            if not idle:
                found.append((option, next(surrogates), change))
    return found + [("lif", surrogate, {"detach_reset": False}) for surrogate in SURROGATES]


def name(setting: Setting) -> str:
    option, surrogate, change = setting
    own = CHOICES.load("neuron", option)
    return "-".join([option, surrogate, *(f"{k}={v}" for k, v in change.items() if own[k] != v)])


@functools.cache
def composed(option: str, surrogate: str) -> DictConfig:
    parts = {
        "surrogate": CHOICES.load("surrogate", surrogate),
        "neuron": CHOICES.load("neuron", option),
    }
    return OmegaConf.create(parts)


def build(setting: Setting) -> Neuron:
    option, surrogate, change = setting
    cfg = OmegaConf.merge(composed(option, surrogate), {"neuron": change})
    neuron = instantiate(cfg.neuron, channels=CHANNELS)
    with torch.no_grad():
        for p in neuron.parameters():
            p.add_(torch.linspace(-0.3, 0.4, p.numel(), dtype=p.dtype))
    return neuron


def currents(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Numbers in steps of 1/4, so that potentials meet the threshold exactly, and others."""
    x = (
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + 0.6
    )
    return torch.where(x.frac().abs() < 0.5, (x * 4).round() / 4, x).to(dtype)


def printed(neuron: Neuron, x: Tensor) -> Program:
    found = Fused().program(neuron, x)
    assert found is not None
    return found


def run(neuron: Neuron, x: Tensor, state: State, kernel: Any) -> list[Tensor]:
    """Output, final state, and the gradients of a weighted sum of both."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, *state)]
    out, final = kernel(neuron, inputs[0], tuple(inputs[1:]))
    weights = [currents(*o.shape, dtype=o.dtype, seed=5 + i) for i, o in enumerate((out, *final))]
    loss = sum(
        (o * w).sum() for o, w in zip((out, *final), weights, strict=True) if o.requires_grad
    )
    parameters = [*neuron.parameters()]
    grads = torch.autograd.grad(loss, [*inputs, *parameters], allow_unused=True)
    return [
        out,
        *final,
        *(
            torch.zeros_like(i) if g is None else g
            for g, i in zip(grads, [*inputs, *parameters], strict=True)
        ),
    ]


def check(neuron: Neuron, x: Tensor, state: State) -> None:
    """The kernel against scan, forward and backward."""
    graph = printed(neuron, x).graph
    given, expected = (run(neuron, x, state, kernel) for kernel in (Fused(), scan))
    forward = graph.needed(graph.outputs[o] for o in forward_outputs(graph))
    exact = not any(
        graph.nodes[place].op in ROUGH and graph.nodes[place].args
        for place in forward
        if graph.inputs([place]) - {f"leaf.{n}" for n in dict(neuron.named_parameters())}
    )
    for i, (one, other) in enumerate(zip(given, expected, strict=True)):
        assert one.shape == other.shape and one.dtype == other.dtype
        if i <= len(state) and exact:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            precise = 1e-12 if x.dtype == torch.float64 else 2e-5
            largest = other.nan_to_num(0, 0, 0).abs().max().item() if other.numel() else 0.0
            torch.testing.assert_close(
                one, other, rtol=0, atol=precise * max(largest, 1e-30), equal_nan=True
            )


def begin(neuron: Neuron, x: Tensor) -> State:
    return neuron.init_state(x[0].float() if x.dtype.itemsize < 4 else x[0])


def assert_same(one: Tensor, other: Tensor, neuron: Neuron) -> None:
    """Equal outputs; but for 2 ulp where a spike's size may come from exp."""
    near = 2 * torch.finfo(one.dtype).eps if "graded" in neuron.traits else 0
    torch.testing.assert_close(one, other, rtol=near, atol=near)


every_setting = pytest.mark.parametrize("setting", every(), ids=name)
each_neuron = pytest.mark.parametrize("option", STEPPED)


@every_setting
def test_kernel_equals_scan_in_float64(setting):
    neuron = build(setting).double()
    x = currents(5, 4, CHANNELS, 7, dtype=torch.float64)
    state = tuple(
        s + currents(*s.shape, dtype=s.dtype, seed=i) for i, s in enumerate(begin(neuron, x))
    )
    check(neuron, x, state)


def default(option: str, **change: Any) -> Setting:
    own = CHOICES.load("neuron", option)
    wanted = {"detach_reset": False, "learnable": True, "per_channel": True, **change}
    return option, "atan", {k: v for k, v in wanted.items() if k in own}


@each_neuron
@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, CHANNELS),
        (3, 1, CHANNELS),
        (4, 0, CHANNELS),
        (2, 5, CHANNELS, 1, 1),
        (33, 50, CHANNELS),
        (3, 11, CHANNELS, 13, 17),
        (200, 3, CHANNELS),
    ],
    ids=str,
)
def test_sizes(option, shape):
    neuron = build(default(option))
    x = currents(*shape)
    check(neuron, x, begin(neuron, x))


@each_neuron
def test_one_element(option):
    neuron = build((option, "atan", {}))
    x = currents(1, 1, 1)
    check(neuron, x, begin(neuron, x))


@each_neuron
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(option, dtype):
    neuron = build(default(option))
    x = currents(6, 4, CHANNELS, 9, dtype=dtype)
    given, expected = (run(neuron, x, begin(neuron, x), kernel) for kernel in (Fused(), scan))
    for i, (one, other) in enumerate(zip(given, expected, strict=True)):
        assert one.dtype == other.dtype
        if i == 0:
            assert_same(one, other, neuron)
        else:
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@each_neuron
@pytest.mark.parametrize(
    "layout",
    [
        "channels_last",
        "batch first",
        "broadcast over time",
        "every second",
        "broadcast over batch",
        "sliced",
    ],
)
def test_memory_layouts(option, layout):
    neuron = build(default(option)).double()
    x = currents(5, 4, CHANNELS, 6, 8, dtype=torch.float64)
    x = {
        "channels_last": lambda: x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        "batch first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
        "broadcast over time": lambda: x[0].expand(5, 4, CHANNELS, 6, 8),
        "every second": lambda: x[..., ::2],
        "broadcast over batch": lambda: x[:, :1].expand(5, 4, CHANNELS, 6, 8),
        "sliced": lambda: x[:, 1:3],
    }[layout]()
    grads = []
    for kernel in (Fused(), scan):
        leaf = x.detach().requires_grad_()
        out, _ = kernel(neuron, leaf, begin(neuron, leaf))
        weights = currents(*out.shape, dtype=torch.float64, seed=3)
        grads.append(
            (out, *torch.autograd.grad((out * weights).sum(), (leaf, *neuron.parameters())))
        )
    assert_same(grads[0][0], grads[1][0], neuron)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    if layout == "channels_last":
        assert grads[0][0].stride() == x.stride()


@each_neuron
def test_nan_and_infinity(option):
    neuron = build(default(option))
    x = currents(6, 4, CHANNELS)
    x[1, 0, 0], x[2, 1, 1], x[0, 2, 2] = float("nan"), float("inf"), float("-inf")
    given, expected = (run(neuron, x, begin(neuron, x), kernel) for kernel in (Fused(), scan))
    for one, other in zip(given[:-2], expected[:-2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


@each_neuron
def test_fresh_sequence_equals_one_from_its_start(option):
    neuron = build(default(option))
    x = currents(6, 4, CHANNELS).requires_grad_()
    out = neuron(x)
    assert_same(out, scan(neuron, x, begin(neuron, x))[0], neuron)
    with carry(neuron):
        parts = torch.cat([neuron(chunk) for chunk in x.split([1, 3, 2])])
    assert torch.equal(parts, out)
    whole, chunks = (
        torch.autograd.grad((o * x.detach()).sum(), (x, *neuron.parameters())) for o in (out, parts)
    )
    for one, other in zip(whole, chunks, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@each_neuron
def test_several_threads_share_the_work(option):
    neuron = build(default(option))
    x = currents(4, 64, CHANNELS, 200)
    one = run(neuron, x, begin(neuron, x), Fused())
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for y in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
            three = run(neuron, y, begin(neuron, y), Fused())
            for a, b in zip(one, three, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    finally:
        torch.set_num_threads(threads)


@each_neuron
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))], ids=["deepcopy", "pickle"]
)
def test_copies_of_a_used_neuron(option, copied):
    neuron = build(default(option))
    neuron.kernel = Fused()
    x = currents(6, 4, CHANNELS)
    out = neuron(x)
    other = copied(nn.Sequential(neuron))
    assert torch.equal(other(x), out)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.7)
    assert torch.equal(neuron(x), out)
    assert program(neuron, torch.float32, 2) is program(other[0], torch.float32, 2)


@each_neuron
def test_no_reference_is_run(option, monkeypatch):
    neuron = build((option, "atan", {}))
    neuron(currents(2, 2, CHANNELS))
    monkeypatch.setattr("snnrun.neuron.base.scan", None)
    neuron(currents(2, 2, CHANNELS))


@each_neuron
def test_any_two_values_of_any_two_switches_meet(option):
    found = [change for name, _, change in every() if name == option]
    found = [change for change in found if len(change) == len(found[0])]
    for one, other in itertools.combinations(found[0], 2):
        met = {(c[one], c[other]) for c in found if {one, other} <= c.keys()}
        values = {c[one] for c in found}, {c[other] for c in found}
        expected = {*itertools.product(*values)}
        if {one, other} == {"learnable", "per_channel"}:
            expected -= {(False, True)}
        assert met >= expected
