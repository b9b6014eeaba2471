"""What holds of every neuron, whatever its option and switches; and of the base: scan, carry, per_channel."""

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.autograd import gradcheck

from snnrun.config import Choices, Factory, instantiate
from snnrun.neuron import LI, LIF, Neuron, carry, scan
from snnrun.neuron.base import per_channel, recall, wide
from snnrun.source import conforms, definition
from snnrun.surrogate import ATan

CHOICES = Choices()
# those without a step, which read spike times, have tests of their own
STEPPED = [o for o in CHOICES.options("neuron") if o != "rel_psp"]
CHANNELS = 3
# settings under which a neuron must keep its promises, where it has them
SWITCHES: dict[str, tuple[Any, ...]] = {
    "reset": ("hard", "soft", "none", "subtract"),
    "reset_value": (0.0, -0.25),
    "detach_reset": (True, False),
    "decay_input": (True, False),
    "learnable": (False, True),
    "per_channel": (False, True),
}


def settings() -> list[tuple[str, dict[str, Any]]]:
    """Every option as it is, with each switch turned alone, and with all turned."""
    found = []
    for option in STEPPED:
        own = CHOICES.load("neuron", option)
        known = definition(own["_target_"])
        assert known is not None
        turned = [
            {key: value}
            for key, values in SWITCHES.items()
            for value in values
            if key in own
            and value != own[key]
            and conforms(value, known.arguments[key], known.module)
        ]
        turned.append({k: v for change in turned for k, v in change.items()})
        if {"learnable", "per_channel"} <= own.keys():
            turned.append({"learnable": True, "per_channel": True})
        changes = [{}, *(c for i, c in enumerate(turned) if c and c not in turned[:i])]
        found += [(option, change) for change in changes]
    return found


def name(setting: tuple[str, dict[str, Any]]) -> str:
    option, change = setting
    return "-".join([option, *(f"{k}={v}" for k, v in change.items())])


@functools.cache
def composed(option: str) -> DictConfig:
    cfg = CHOICES.compose([f"neuron={option}", "surrogate=atan"])
    whole = OmegaConf.to_container(cfg, resolve=False)
    return OmegaConf.create({group: whole[group] for group in ("surrogate", "neuron")})


def build(setting: tuple[str, dict[str, Any]], **surrogate: Any) -> Neuron:
    option, change = setting
    cfg = OmegaConf.merge(composed(option), {"neuron": change})
    if surrogate:
        cfg.surrogate = surrogate
    return instantiate(cfg.neuron, channels=CHANNELS)


def currents(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype) + 0.6


def scatter(neuron: Neuron) -> None:
    """Move the parameters off their start, each channel elsewhere."""
    with torch.no_grad():
        for p in neuron.parameters():
            p.add_(torch.linspace(-0.3, 0.4, p.numel(), dtype=p.dtype))


every_setting = pytest.mark.parametrize("setting", settings(), ids=name)


@every_setting
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((5, 8, CHANNELS), torch.float32),
        ((5, 4, CHANNELS, 2, 3), torch.bfloat16),
        ((5, 4, CHANNELS, 6), torch.float64),
    ],
    ids=["float32", "bfloat16", "float64"],
)
def test_output_has_shape_and_dtype_of_the_input(setting, shape, dtype):
    neuron = build(setting).to(dtype if dtype == torch.float64 else torch.float32)
    x = currents(*shape, dtype=dtype)
    before = x.clone()
    out = neuron(x)
    assert out.shape == x.shape and out.dtype == dtype and out.device == x.device
    assert out.isfinite().all()
    assert torch.equal(x, before)
    events = neuron.spikes(out)
    assert events.shape == out.shape
    if "spikes" in neuron.traits:
        assert set(out.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(events, out)
    elif "signed_spikes" in neuron.traits:  # amplitudes start at 1
        assert set(out.unique().tolist()) == {-1.0, 0.0, 1.0}
        assert torch.equal(events, out.abs())
    elif "clamped_rate" in neuron.traits:
        assert len(out.unique()) == 2 and out.min() == 0 < out.max()
        assert torch.equal(events, (out > 0).to(dtype))
    elif "graded" in neuron.traits:
        assert (out >= 0).all() and torch.equal(events > 0, out > 0) and out.any()
        assert torch.equal(events, events.round())
    elif "trace" in neuron.traits:
        assert events.dtype == dtype and set(events.unique().tolist()) == {0.0, 1.0}
    else:
        assert not events.any()


@every_setting
def test_device_is_kept(setting):
    neuron = build(setting).to("meta")
    x = torch.empty(4, 2, CHANNELS, device="meta", requires_grad=True)
    out = neuron(x)
    assert out.device.type == "meta" and out.shape == x.shape
    out.sum().backward()
    assert x.grad is not None and x.grad.device.type == "meta"


@every_setting
def test_state_is_float32_under_mixed_precision(setting):
    neuron = build(setting)
    scatter(neuron)
    x = currents(6, 4, CHANNELS, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16), carry(neuron):
        out = neuron(x)
        state = recall(neuron)
    assert out.dtype == torch.bfloat16
    assert state and all(s.dtype == torch.float32 for s in state)
    assert torch.equal(out, neuron(x.float()).bfloat16())


@every_setting
def test_gradients_are_finite_and_reach_every_step_and_parameter(setting):
    neuron = build(setting)
    x = currents(6, 4, CHANNELS, 2, 2).requires_grad_()
    weights = currents(6, 4, CHANNELS, 2, 2, seed=1)
    (neuron(x) * weights).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert x.grad.flatten(1).abs().sum(1).min() > 0
    for key, p in neuron.named_parameters():
        assert p.grad is not None, key
        assert p.grad.shape == p.shape and p.grad.isfinite().all()
        assert p.grad.all(), f"{key} has a channel without gradient"


@every_setting
def test_parameters_are_one_a_layer_or_one_a_channel(setting):
    neuron = build(setting)
    own = {**CHOICES.load("neuron", setting[0]), **setting[1]}
    count = CHANNELS if own.get("per_channel") else 1
    assert all(p.shape == (count,) for p in neuron.parameters())
    if "learnable" in own:
        assert bool(list(neuron.parameters())) == own["learnable"]


@every_setting
@pytest.mark.parametrize("chunks", [[1] * 7, [3, 1, 2, 1], [6, 1], [7]], ids=str)
def test_streaming_equals_the_whole_sequence(setting, chunks):
    neuron = build(setting)
    scatter(neuron)
    x = currents(7, 4, CHANNELS)
    whole = neuron(x)
    with carry(neuron):
        parts = torch.cat([neuron(chunk) for chunk in x.split(chunks)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


@every_setting
def test_streaming_has_the_gradient_of_the_whole_sequence(setting):
    neuron = build(setting).double()
    weights = currents(7, 4, CHANNELS, dtype=torch.float64, seed=1)
    gradients = []
    for chunks in ([7], [3, 1, 2, 1]):
        x = currents(7, 4, CHANNELS, dtype=torch.float64).requires_grad_()
        with carry(neuron):
            out = torch.cat([neuron(chunk) for chunk in x.split(chunks)])
        gradients.append(torch.autograd.grad((out * weights).sum(), (x, *neuron.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every_setting
def test_carry_with_detach_cuts_the_gradient_between_calls_only(setting):
    neuron = build(setting)
    x = currents(6, 4, CHANNELS).requires_grad_()
    with carry(neuron, detach=True):
        first, second = neuron(x[:4]), neuron(x[4:])
    torch.testing.assert_close(torch.cat([first, second]), neuron(x), rtol=0, atol=0)
    (grad,) = torch.autograd.grad((second * currents(2, 4, CHANNELS, seed=1)).sum(), x)
    assert not grad[:4].any() and grad[4:].any()
    (grad,) = torch.autograd.grad((first * currents(4, 4, CHANNELS, seed=1)).sum(), x)
    assert grad[0].any()


@every_setting
def test_no_state_outlives_a_call_or_a_carry(setting):
    neuron = build(setting)
    x = currents(5, 8, CHANNELS, 4)
    keys = set(neuron.state_dict())
    first = neuron(x)
    with carry(neuron):
        neuron(x)
        inside = neuron(x)
    assert torch.equal(neuron(x), first)
    assert not torch.equal(inside, first)
    own = {key for key, _ in (*neuron.named_parameters(), *neuron.named_buffers())}
    assert set(neuron.state_dict()) == keys == own
    assert recall(neuron) is None


@every_setting
def test_samples_do_not_see_each_other(setting):
    neuron = build(setting)
    scatter(neuron)
    x = currents(5, 4, CHANNELS, 2, 2)
    alone = torch.cat([neuron(sample) for sample in x.split(1, dim=1)], dim=1)
    assert torch.equal(neuron(x), alone)


@every_setting
def test_output_does_not_depend_on_the_future(setting):
    neuron = build(setting)
    x = currents(6, 4, CHANNELS)
    other = torch.cat([x[:3], currents(3, 4, CHANNELS, seed=2)])
    assert torch.equal(neuron(x)[:3], neuron(other)[:3])
    assert not torch.equal(neuron(x)[3:], neuron(other)[3:])


@every_setting
def test_step_is_pure(setting):
    neuron = build(setting)
    x = currents(4, CHANNELS)
    state = neuron.init_state(x)
    _, state = neuron.step(x, state)
    kept = [x.clone(), *(s.clone() for s in state)]
    first = neuron.step(x, state)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, *state), strict=True))
    second = neuron.step(x, state)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    assert [s.shape for s in first[1]] == [s.shape for s in state]


@every_setting
def test_forward_is_the_loop_over_step(setting):
    neuron = build(setting)
    scatter(neuron)
    x = currents(6, 4, CHANNELS)
    state, out = neuron.init_state(x[0]), []
    for t in range(6):
        out_t, state = neuron.step(x[t], state)
        out.append(out_t)
    # sizes of spikes may come from exp, which libraries compute to 2 ulp
    near = 4e-7 if "graded" in neuron.traits else 0
    torch.testing.assert_close(neuron(x), torch.stack(out), rtol=near, atol=near)


@every_setting
def test_input_repeated_without_copy(setting):
    neuron = build(setting)
    x = currents(4, CHANNELS)
    repeated = neuron(x.expand(6, 4, CHANNELS))
    assert torch.equal(repeated, neuron(x.repeat(6, 1, 1)))


@every_setting
def test_state_dict_round_trip(setting):
    one, other = build(setting), build(setting)
    scatter(one)
    other.load_state_dict(one.state_dict(), strict=True)
    x = currents(6, 4, CHANNELS)
    assert torch.equal(one(x), other(x))
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@every_setting
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron))],
    ids=["deepcopy", "pickle"],
)
def test_copy_after_use_is_independent(setting, copied):
    neuron = build(setting)
    x = currents(6, 4, CHANNELS).requires_grad_()
    out = neuron(x)
    (out * x).sum().backward()
    other = copied(neuron)
    assert torch.equal(other(x), out)
    scatter(other)
    assert torch.equal(neuron(x), out)
    assert other.kernel is neuron.kernel


@every_setting
@pytest.mark.parametrize("shape", [(1, 4, CHANNELS), (5, 0, CHANNELS), (1, 1, CHANNELS)])
def test_one_step_and_empty_batch(setting, shape):
    neuron = build(setting)
    x = currents(*shape).requires_grad_()
    out = neuron(x)
    assert out.shape == shape
    out.sum().backward()
    assert x.grad is not None and x.grad.shape == shape and x.grad.isfinite().all()


@every_setting
def test_no_steps_leave_the_state_alone(setting):
    neuron = build(setting)
    x = currents(4, 2, CHANNELS)
    assert neuron(x[:0]).shape == (0, 2, CHANNELS)
    with carry(neuron):
        parts = [neuron(chunk) for chunk in (x[:0], x[:2], x[2:2], x[2:])]
    assert torch.equal(torch.cat(parts), neuron(x))


@every_setting
def test_gradient_of_the_smooth_pieces(setting):
    """Where no potential is near the threshold, spikes are constant and all else is smooth."""
    neuron = build(setting, _target_="snnrun.surrogate.Rectangle", width=0.02).double()
    if not hasattr(neuron, "surrogate") and "potential" not in neuron.traits:
        pytest.skip("a spike with a derivative of its own: see the neuron's own tests")
    distances: list[float] = []
    if hasattr(neuron, "surrogate"):
        neuron.surrogate.register_forward_hook(
            lambda module, args, out: distances.append(args[0].abs().min().item())
        )

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        out, state = scan(neuron, x, neuron.init_state(x[0]))
        return (out, *state)

    for seed in range(100):
        distances.clear()
        x = currents(4, 1, CHANNELS, dtype=torch.float64, seed=seed).requires_grad_()
        run(x)
        if min(distances, default=1.0) > 0.02:
            break
    else:
        raise AssertionError("every input comes near the threshold")
    assert gradcheck(run, (x, *neuron.parameters()))


@pytest.mark.parametrize("option", CHOICES.options("neuron"))
def test_layers_share_no_parts(option):
    make = Factory(composed(option).neuron)
    one, other = make(CHANNELS), make(CHANNELS)
    assert not set(one.modules()) & set(other.modules())
    assert pickle.loads(pickle.dumps(make))(CHANNELS).state_dict().keys() == one.state_dict().keys()


@pytest.mark.parametrize("option", CHOICES.options("neuron"))
def test_traits_are_stated_on_the_class(option):
    neuron = build((option, {}))
    assert ("stepped" in neuron.traits) == (option in STEPPED)
    kinds = {"spikes", "signed_spikes", "graded", "clamped_rate", "potential", "trace"}
    kinds |= {"spike_times"}
    assert len(kinds & neuron.traits) == 1


# the base itself


class Sum(Neuron):
    """A sum in float32."""

    def init_state(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        total = state[0] + x
        return total, (total,)


def test_scan_keeps_small_addends_that_bfloat16_loses():
    x = torch.full((257, 1, 1), 1.0, dtype=torch.bfloat16)
    out = Sum()(x)
    assert out.dtype == torch.bfloat16 and out[-1].item() == 256  # 257 rounds to even
    state = scan(Sum(), x, (torch.zeros(1, 1),))[1]
    assert state[0].item() == 257


@pytest.mark.parametrize(
    ("dtype", "seen"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_step_never_sees_half_precision(dtype, seen):
    dtypes = set()

    class Looking(Sum):
        def init_state(self, x: Tensor) -> tuple[Tensor, ...]:
            dtypes.add(x.dtype)
            return super().init_state(x)

        def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
            dtypes.add(x.dtype)
            return super().step(x, state)

    assert Looking()(torch.ones(2, 1, 1, dtype=dtype)).dtype == dtype
    assert dtypes == {seen}


def test_a_neuron_without_step_says_so():
    with pytest.raises(NotImplementedError) as error:
        Neuron()(torch.zeros(1, 1, 1))
    assert str(error.value) == "Neuron must define step(x, state)."
    assert Neuron().init_state(torch.zeros(1)) == ()
    out = torch.tensor([0.0, 1.0, 2.0])
    assert Neuron().spikes(out) is out


def test_kernel_can_be_exchanged():
    neuron = Sum()
    neuron.kernel = lambda neuron, x, state: (2 * x, state)
    x = torch.ones(2, 1, 1)
    assert torch.equal(neuron(x), 2 * x)
    assert torch.equal(Sum()(x).flatten(), torch.tensor([1.0, 2.0]))


def test_carries_nest_and_end_with_an_error():
    neuron, x = Sum(), torch.ones(1, 1, 1)
    with carry(neuron):
        assert neuron(x).item() == 1
        with carry(neuron):
            assert neuron(x).item() == 1
        assert neuron(x).item() == 2
    with pytest.raises(ZeroDivisionError), carry(neuron):
        neuron(x)
        raise ZeroDivisionError
    assert neuron(x).item() == 1


def test_carry_keeps_the_parts_of_a_network_apart():
    net, x = nn.Sequential(Sum(), Sum()), torch.ones(1, 1, 1)
    with carry(net):
        assert [net(x).item() for _ in range(4)] == [1, 3, 6, 10]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide(dtype):
    assert wide(torch.ones(1, dtype=dtype)).dtype == torch.float32
    for kept in (torch.float32, torch.float64):
        x = torch.ones(1, dtype=kept)
        assert wide(x) is x


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_a_parameter_belongs_to_dimension_one(shape):
    p = torch.tensor([1.0, 2.0, 3.0])
    given = per_channel(p, torch.zeros(shape)).expand(shape)
    for c, value in enumerate((1.0, 2.0, 3.0)):
        assert (given[:, c] == value).all()
    assert (per_channel(torch.tensor([7.0]), torch.zeros(shape)).expand(shape) == 7).all()


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("neuron", [LI(), LIF(ATan())], ids=["li", "lif"])
def test_carried_state_has_a_graph_unless_detached(neuron, detach):
    with carry(neuron, detach=detach):
        neuron(torch.ones(2, 1, 1, requires_grad=True))
        state = recall(neuron)
    assert state is not None and state[0].requires_grad == (not detach)
