"""Golden arrays of SEW ResNet: neurons, blocks, event nets and whole networks, each with its gradients."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.model import EventResNet, Layer, PlainNet, SEWResNet, SpikingResNet
from snnrun.model.keymap import keymap, places
from snnrun.model.residual import Convolution, SEWBlock, SpikingBlock
from snnrun.neuron import IF, PLIF, Neuron
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan, Sigmoid, Surrogate

SYSTEM = "sew_resnet"
SURROGATES = {"atan": ATan, "sigmoid": Sigmoid}
NETS = {"sew_resnet": SEWResNet, "spiking_resnet": SpikingResNet, "plain_net": PlainNet}
KINDS = ("neuron_", "sew_", "spiking_", "resnetn", "full_net")
TOLERANCE: dict[str, dict[str, float]] = {
    "float64": {"rtol": 1e-9, "atol": 1e-10},
    "float32": {"rtol": 1e-4, "atol": 1e-6},
}
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    if "meta" not in case or "Vth_bound" in meta(
        case
    ):  # of another system, with kinds of the same names
        return False
    return str(meta(case).get("kind")).startswith(KINDS)


def lacks(case: Case) -> str | None:
    """What a case needs that is not built."""
    known = meta(case)
    if check_of(known["kind"]) is None:
        return known["kind"]
    if known.get("surrogate", "atan") not in SURROGATES:
        return known["surrogate"]
    if known["kind"] == "full_net" and known["model"].rstrip("0123456789") not in NETS:
        return known["model"]
    if len({entry["block_type"] for entry in known.get("layer_list", ())}) > 1:
        return "blocks of several types in one net"
    return None


def built(case: Case) -> Iterator[str]:
    if lacks(case):
        return
    yield "float64"
    if meta(case)["kind"].startswith("neuron_"):
        yield from ("float64-steps", "float32-steps")
    if meta(case)["kind"] != "full_net":
        yield "float32"


def not_built(case: Case) -> Iterator[str]:
    if missing := lacks(case):
        yield missing


def test_case(case, part):
    known = meta(case)
    dtype, _, how = part.partition("-")
    if dtype == "float32" and not known.get("margin", 0) > 1e-4:
        pytest.skip(f"float32: the margin {known.get('margin')} is not above 1e-4")
    check = check_of(known["kind"])
    assert check is not None
    check(case, dtype, **({"steps": True} if how else {}))


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


def check_of(kind: str) -> Callable[..., None] | None:
    if kind in ("neuron_if", "neuron_plif"):
        return neuron
    if kind in ("resnetn", "full_net"):
        return event_net if kind == "resnetn" else full_net
    return block if re.fullmatch(r"(sew|spiking)_(basic(_block)?|bottleneck)", kind) else None


def neuron_factory(known: dict[str, Any], kind: str) -> Callable[[int], Neuron]:
    """The neuron of a case with its constants."""
    surrogate: type[Surrogate] = SURROGATES[known.get("surrogate", "atan")]
    reset_value = known.get("v_reset", 0.0)
    switches: dict[str, Any] = {
        "threshold": known.get("v_threshold", 1.0),
        "reset": "soft" if reset_value is None else "hard",
        "reset_value": reset_value or 0.0,
        "detach_reset": known.get("detach_reset", True),
    }
    if kind == "plif":
        tau = known.get("init_tau") or float(known["neuron"].partition("init_tau=")[2])
        return lambda channels: PLIF(surrogate(known.get("alpha", 2.0)), tau=tau, **switches)
    return lambda channels: IF(surrogate(known.get("alpha", 2.0)), **switches)


def head(features: int, classes: int) -> Layer:
    return Layer(nn.Linear(features, classes), None, None)


def tensor(array: np.ndarray, dtype: str) -> Tensor:
    return torch.from_numpy(np.asarray(array)).to(getattr(torch, dtype))


def neuron(case: Case, dtype: str, steps: bool = False) -> None:
    """Spikes, potentials after the reset, and gradients of sum(spikes * grad_out)."""
    known = meta(case)
    layer = neuron_factory(known, known["kind"].removeprefix("neuron_"))(1)
    if "w.w" in case:
        assert isinstance(layer, PLIF) and layer.w is not None
        layer.w.data = tensor(case["w.w"], dtype)
    layer = layer.to(getattr(torch, dtype))
    x = tensor(case["in.x"], dtype).requires_grad_()
    if steps:
        state, out, potentials = layer.init_state(x[0]), [], []
        for x_t in x.unbind(0):
            s, state = layer.step(x_t, state)
            out.append(s)
            potentials.append(state[0])
        spikes = torch.stack(out)
        close(torch.stack(potentials), case["out.v"], dtype, "v")
    else:
        spikes = layer(x)
    np.testing.assert_array_equal(spikes.detach().numpy(), case["out.spikes"])
    (spikes * tensor(case["in.grad_out"], dtype)).sum().backward()
    gradients = {f"grad.{name}": p.grad for name, p in layer.named_parameters()}
    compare_gradients(case, gradients | {"grad.x": x.grad}, dtype)


def block(case: Case, dtype: str) -> None:
    """One residual block, in the place of the first block of a network."""
    known = meta(case)
    kernels = [f"w.conv{k}.module.0.weight" for k in (1, 2, 3)]
    weights = [case[key] for key in kernels if key in case]
    stride = -(-case["in.x"].shape[-1] // case["out.y"].shape[-1])
    strided = 0 if "basic" in known["kind"] else 1  # the 3x3 of a bottleneck
    path = [
        Convolution(w.shape[0], w.shape[-1], stride if k == strided else 1)
        for k, w in enumerate(weights)
    ]
    made: Any = SpikingBlock
    if known["kind"].startswith("sew"):
        made = partial(SEWBlock, connect=known["connect_f"].lower())
    net = nn.Module()
    net.stages = nn.Sequential(
        nn.Sequential(made(neuron_factory(known, "if"), BatchNorm, weights[0].shape[1], path))
    )
    names = Names(net, strip="layer1.0.")
    names.load(case, dtype)
    net.train(known["train"])
    x = tensor(case["in.x"], dtype).requires_grad_()
    with names.spikes() as spikes:
        y = net.stages(x)
    close(y, case["out.y"], dtype, "y")
    (y * tensor(case["in.grad_out"], dtype)).sum().backward()
    names.check(case, dtype, spikes)
    compare_gradients(case, names.gradients() | {"grad.x": x.grad}, dtype)


def event_net(case: Case, dtype: str) -> None:
    """A small net of blocks and pools on frames of events."""
    known = meta(case)
    x = tensor(case["in.x"], dtype).transpose(0, 1)
    words, channels = [], x.shape[2]
    for entry in known["layer_list"]:
        if entry["channels"] != channels:
            channels = entry["channels"]
            words.append(f"{channels}C{entry['up_kernel_size']}")
        words += [f"B{entry['mid_channels']}"] * entry["num_blocks"] + [f"P{entry['k_pool']}"]
    kind = {"basic": "spiking"}.get(entry["block_type"], entry["block_type"])
    net = EventResNet(
        neuron_factory(known, known["neuron"].split()[0]),
        BatchNorm,
        head,
        tuple(x.shape[2:]),
        known["num_classes"],
        spec="-".join(words),
        block=kind,
        connect=(known.get("connect_f") or "add").lower(),
    )
    names = Names(net)
    names.load(case, dtype)
    net.train(known["train"])
    with names.spikes() as spikes:
        out = net(x).mean(0)
    close(out, case["out.y"], dtype, "y")
    loss = nn.functional.cross_entropy(out, torch.from_numpy(case["in.labels"]))
    close(loss, case["out.loss"], dtype, "loss")
    loss.backward()
    names.check(case, dtype, spikes)
    compare_gradients(case, names.gradients(), dtype)


def full_net(case: Case, dtype: str) -> None:
    """A published network with weights from the README's recipe."""
    known = meta(case)
    name, depth = re.fullmatch(r"([a-z_]+)(\d+)", known["model"]).groups()  # pyright: ignore[reportOptionalMemberAccess]
    more = {"connect": known["connect_f"].lower()} if known.get("connect_f") else {}
    x = tensor(case["in.x"], dtype).requires_grad_()
    net = NETS[name](
        neuron_factory(known, "if"),
        BatchNorm,
        head,
        tuple(x.shape[1:]),
        known["num_classes"],
        depth=int(depth),
        stem="imagenet",
        **more,
    ).to(getattr(torch, dtype))
    net.train(known["train"])
    names = Names(net)
    parameters = dict(net.named_parameters())
    ordered = [key for key, ours in names.keys.items() if ours in parameters]
    assert ordered == case["out.param_names"].tolist()
    random = np.random.RandomState(known["seed"])
    for key in ordered:
        p = parameters[names.keys[key]]
        if p.dim() > 1:
            drawn = random.standard_normal(p.shape) * np.sqrt(2 / np.prod(p.shape[1:]))
        else:
            drawn = random.uniform(*((0.6, 1.6) if key.endswith("weight") else (0, 0.6)), p.shape)
        p.data.copy_(torch.from_numpy(np.round(drawn * 65536) / 65536))
    with names.spikes() as spikes:
        out = net(x.expand(known["T"], *x.shape)).mean(0)
    counts = [spikes[layer].sum((1, 2, 3, 4)).numpy() for layer in case["out.spike_layers"]]
    np.testing.assert_array_equal(np.stack(counts), case["out.spike_counts"])
    assert len(spikes) == len(counts)
    close(out, case["out.y"], dtype, "y")
    loss = nn.functional.cross_entropy(out, torch.from_numpy(case["in.labels"]))
    close(loss, case["out.loss"], dtype, "loss")
    loss.backward()
    assert x.grad is not None
    close(x.grad, case["grad.x"], dtype, "grad.x")
    gradients = [names.gradients()[f"grad.{key}"] for key in ordered]
    close(torch.stack([g.norm() for g in gradients]), case["out.grad_norms"], dtype, "norms")
    close(torch.stack([g.sum() for g in gradients]), case["out.grad_sums"], dtype, "sums")


class Names:
    """A network seen under the authors' names.

    **Arguments:**

    - `net`: the network.
    - `strip`: what the names of a case lack at their beginning.
    """

    def __init__(self, net: nn.Module, strip: str = ""):
        self.net = net
        self.keys = {k.removeprefix(strip): ours for k, ours in keymap(net, "original").items()}
        self.neurons = {
            place[2].removeprefix(strip): net.get_submodule(name).neuron
            for name, place in places(net, "original").items()
        }

    def load(self, case: Case, dtype: str) -> None:
        """Every weight and buffer of a case, and no others."""
        given = {
            key.partition(".")[2]: array
            for key, array in case.items()
            if key.startswith(("w.", "buf_before."))
        }
        self.net.to(getattr(torch, dtype))
        state = {ours: tensor(given.pop(key), dtype) for key, ours in self.keys.items()}
        assert not given
        self.net.load_state_dict(state, strict=True)

    def spikes(self) -> "Watch":
        return Watch(self.neurons)

    def gradients(self) -> dict[str, Tensor]:
        own = dict(self.net.named_parameters())
        grads = {key: own[ours].grad for key, ours in self.keys.items() if ours in own}
        return {f"grad.{key}": g for key, g in grads.items() if g is not None}

    def check(self, case: Case, dtype: str, spikes: dict[str, Tensor]) -> None:
        """Spikes of all neurons exactly, and the buffers after the forward pass."""
        assert set(spikes) == {k.removeprefix("out.spikes.") for k in case if "out.spikes." in k}
        for name, seen in spikes.items():
            np.testing.assert_array_equal(seen.numpy(), case[f"out.spikes.{name}"], err_msg=name)
        state = self.net.state_dict()
        after = "buf_after." if meta(case)["train"] else "buf_before."
        buffers = {k.removeprefix(after): v for k, v in case.items() if k.startswith(after)}
        assert buffers
        for key, expected in buffers.items():
            close(state[self.keys[key]], expected, dtype, key)


class Watch:
    """What the neurons give out inside a `with`, by name."""

    def __init__(self, neurons: dict[str, nn.Module]):
        self.neurons, self.seen, self.hooks = neurons, {}, []

    def __enter__(self) -> dict[str, Tensor]:
        for name, module in self.neurons.items():
            if isinstance(module, Neuron):
                hook = partial(self._keep, name)
                self.hooks.append(module.register_forward_hook(hook))
        return self.seen

    def _keep(self, name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        self.seen[name] = out.detach()

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()


def compare_gradients(case: Case, gradients: dict[str, Tensor | None], dtype: str) -> None:
    expected = {name: array for name, array in case.items() if name.startswith("grad.")}
    assert set(expected) <= set(gradients) and set(gradients) - set(expected) <= {"grad.x"}
    for name, array in expected.items():
        gradient = gradients[name]
        assert gradient is not None and gradient.shape == array.shape, name
        close(gradient, array, dtype, name)


def close(ours: Tensor, expected: np.ndarray, dtype: str, name: str) -> None:
    expected, tolerance = np.asarray(expected), TOLERANCE[dtype]
    if dtype == "float32" and expected.size:  # where terms cancel, it is as exact as the largest
        tolerance = tolerance | {"atol": tolerance["atol"] * max(1.0, np.abs(expected).max())}
    np.testing.assert_allclose(ours.detach().numpy(), expected, err_msg=name, **tolerance)
