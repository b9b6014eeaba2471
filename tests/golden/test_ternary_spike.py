"""Golden arrays of the ternary spike: neurons, blocks, small ResNets with their gradients, and a folded chain."""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer, Pool, SpikingResNet, residual
from snnrun.model.residual import Convolution, SpikingBlock
from snnrun.neuron import Neuron, Ternary
from snnrun.norm import BatchNorm
from snnrun.rule.fold import fold_amplitudes

SYSTEM = "ternary_spike"
KINDS = ("neuron", "neuron_edge", "spike_basic_block", "tiny_static", "tiny_dynamic", "fold")
TOLERANCE: dict[str, dict[str, float]] = {
    "float64": {"rtol": 1e-9, "atol": 1e-10},
    "float32": {"rtol": 1e-4, "atol": 1e-6},
}
# published names of a block's parts and ours; a folded chain has no blocks, its convolutions are numbered alike
PLACES = (
    (r"model\.layer(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.{m[2]}."),
    (r"^block\.", ""),
    (r"^model\.conv1\.pool", "stem.synapse"),
    (r"^model\.bn1\.conv", "stem.norm"),
    (r"^model\.relu(?=$|\.)", "stem.neuron"),
    (r"^model\.fc\.conv", "head.synapse"),
    (r"conv(\d)\.pool", lambda m: f"path.{int(m[1]) - 1}.synapse"),
    (r"bn(\d)\.bn", lambda m: f"path.{int(m[1]) - 1}.norm"),
    (r"relu(\d)", lambda m: f"path.{int(m[1]) - 1}.neuron"),
    (r"downsample\.0\.pool", "shortcut.synapse"),
    (r"downsample\.1\.bn", "shortcut.norm"),
    (r"downsample\.1\.pool", "shortcut.1.synapse"),
    (r"downsample\.2\.bn", "shortcut.1.norm"),
    (r"output_act", "out.neuron"),
    (r"fire_ratio", "amplitude"),
)
CHAIN = (
    (r"model\.conv(\d)\.pool", lambda m: f"{int(m[1]) - 1}.synapse"),
    (r"model\.bn(\d)\.conv", lambda m: f"{int(m[1]) - 1}.norm"),
    (r"model\.relu(\d)", lambda m: f"{int(m[1]) - 1}.neuron"),
    (r"model\.fc\.conv", "head.synapse"),
    (r"fire_ratio", "amplitude"),
)
Case = dict[str, np.ndarray]
TRAINED: list[Case] = []  # blocks in training: see gradients()


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    if "meta" not in case or meta(case).get("kind") not in KINDS:
        return False
    ternary = meta(case)["kind"] == "neuron_edge" and "v_th" in meta(case)
    return ternary or any("amplitude" in key or "fire_ratio" in key for key in case)


def built(case: Case) -> Iterator[str]:
    kind = meta(case)["kind"]
    if kind == "spike_basic_block" and meta(case)["train"]:
        TRAINED.append(case)
    if kind in KINDS:
        yield from ("float64", "float32")
        if kind.startswith("neuron"):
            yield from ("float64-steps", "float32-steps")


def not_built(case: Case) -> Iterator[str]:
    if meta(case)["kind"] not in KINDS:
        yield meta(case)["kind"]


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


def test_case(case, part, monkeypatch):
    known = meta(case)
    dtype, _, how = part.partition("-")
    exact = known["kind"] == "neuron_edge"  # few bits in every number
    if dtype == "float32" and not exact and not known.get("margin", 0) > 1e-4:
        pytest.skip(f"float32: the margin {known.get('margin')} is not above 1e-4")
    match known["kind"]:
        case "neuron":
            neuron(case, dtype, steps=bool(how))
        case "neuron_edge":
            edge(case, dtype, steps=bool(how))
        case "spike_basic_block":
            block(case, dtype)
        case "fold":
            fold(case, dtype)
        case _:
            tiny(case, dtype, monkeypatch)


def make(known: dict[str, Any], **more: Any) -> Ternary:
    return Ternary(known["decay"], known["v_th"], **more)


def tensor(array: np.ndarray, dtype: str) -> Tensor:
    return torch.from_numpy(np.asarray(array)).to(getattr(torch, dtype))


def over_time(layer: Ternary, x: Tensor, *, steps: bool) -> tuple[Tensor, Tensor | None]:
    """Output by the printed kernel; or step by step, with the potentials after the reset."""
    if not steps:
        return layer(x), None
    state, out, potentials = layer.init_state(x[0]), [], []
    for x_t in x.unbind(0):
        o, state = layer.step(x_t, state)
        out.append(o)
        potentials.append(state[0])
    return torch.stack(out), torch.stack(potentials)


def neuron(case: Case, dtype: str, *, steps: bool) -> None:
    """Spikes, outputs and potentials, and gradients of input and amplitude."""
    layer = make(meta(case)).to(getattr(torch, dtype))
    assert layer.amplitude is not None
    layer.amplitude.data = tensor(case["w.amplitude"], dtype).view(1)
    x = tensor(case["in.x"], dtype).requires_grad_()
    y, u = over_time(layer, x, steps=steps)
    close(y, case["out.y"], dtype, "y")
    spikes = layer.amplitude.detach().numpy() * case["out.spikes"].astype(dtype)
    np.testing.assert_array_equal(y.detach().numpy(), spikes)
    np.testing.assert_array_equal(layer.spikes(y.detach()).numpy(), np.abs(case["out.spikes"]))
    if u is not None:
        close(u, case["out.u"], dtype, "u")
    (y * tensor(case["in.grad_out"], dtype)).sum().backward()
    assert x.grad is not None and layer.amplitude.grad is not None
    close(x.grad, case["grad.x"], dtype, "grad.x")
    close(layer.amplitude.grad.view(()), case["grad.amplitude"], dtype, "grad.amplitude")


def edge(case: Case, dtype: str, *, steps: bool) -> None:
    """Values exactly on the levels, without an amplitude.

    The derivative at r = -1 and r = 1 is 1 in the spec and was in torch's clamp of the paper's time; arrays that were
    computed with a newer clamp have 0 there. A case must agree with one of the two everywhere.
    """
    grads = []
    for ends in (True, False):
        layer = make(meta(case), learnable=False).to(getattr(torch, dtype))
        layer.ends = ends
        x = tensor(case["in.x"], dtype).requires_grad_()
        y, u = over_time(layer, x, steps=steps)
        np.testing.assert_array_equal(y.detach().numpy(), case["out.y"])
        if u is not None:
            close(u[-1], case["out.u_last"], dtype, "u")
        (y * tensor(case["in.grad_out"], dtype)).sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    fits = [np.allclose(g.numpy(), case["grad.x"], **TOLERANCE[dtype]) for g in grads]
    assert any(fits), (grads, case["grad.x"])


def block(case: Case, dtype: str) -> None:
    """One block on ternary spikes, in training or evaluation."""
    known = meta(case)
    first, second = (case[f"w.block.conv{k}.pool.weight"].shape for k in (1, 2))
    path = Convolution(first[0], first[2], known["stride"]), Convolution(second[0], second[2])
    net: Any = SpikingBlock(
        lambda channels: make(known), BatchNorm, first[1], path, down=down(case)
    )
    load(net, case, dtype, PLACES)
    net.train(known["train"])
    x = tensor(case["in.x"], dtype).requires_grad_()
    with Watch(net) as seen:
        y = net(x)
    close(y, case["out.y"], dtype, "y")
    (y * tensor(case["in.grad_out"], dtype)).sum().backward()
    check(net, case, dtype, seen, x)


def tiny(case: Case, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small ResNet whose stem is normalised step by step, on an image or a sequence."""
    known = meta(case)
    found = [re.match(r"w\.model\.layer(\d+)\.(\d+)\.conv1", key) for key in case]
    last = {int(m[1]): int(m[2]) + 1 for m in found if m}
    monkeypatch.setitem(residual.CIFAR, 20, tuple(last[i] for i in sorted(last)))
    x = tensor(case["in.x"], dtype).requires_grad_()
    sequence = (
        x.transpose(0, 1) if known["kind"] == "tiny_dynamic" else x.expand(known["T"], *x.shape)
    )
    net = SpikingResNet(
        lambda channels: make(known),
        BatchNorm,
        lambda features, classes: Layer(nn.Linear(features, classes), None, None),
        tuple(sequence.shape[2:]),
        case["out.y"].shape[1],
        depth=20,
        width=case["w.model.conv1.pool.weight"].shape[0],
        stem_norm="step",
        down=down(case),
    )
    load(net, case, dtype, PLACES)
    net.train(known["train"])
    with Watch(net) as seen:
        y = net(sequence).mean(0)
    close(y, case["out.y"], dtype, "y")
    loss = nn.functional.cross_entropy(y, torch.from_numpy(case["in.labels"]))
    close(loss, case["out.loss"], dtype, "loss")
    loss.backward()
    check(net, case, dtype, seen, x)
    if not known["train"]:
        deployed = fold_amplitudes(net)
        with Watch(deployed) as after:
            folded = deployed(sequence).mean(0)
        close(folded, case["out.y"], dtype, "deployed y")
        for name, s in after.items():
            amplitude = net.get_submodule(name).neuron.amplitude.detach()
            assert torch.equal(s, seen[name].sign() * amplitude.sign())
        assert {s.abs().max().item() for s in after.values()} == {1.0}


def fold(case: Case, dtype: str) -> None:
    """A chain with amplitudes, and what it becomes when they are folded."""
    known = meta(case)
    shapes = [case[f"w.model.conv{k}.pool.weight"].shape for k in (1, 2)]
    classes, features = case["w.model.fc.conv.weight"].shape
    body = [
        Layer(nn.Conv2d(s[1], s[0], s[2], 1, s[2] // 2, bias=False), BatchNorm(s[0]), make(known))
        for s in shapes
    ]
    net = nn.Sequential(*body, Pool("avg", 2), Pool("avg", None), nn.Flatten(2))
    net.add_module("head", Layer(nn.Linear(features, classes), None, None))
    load(net, case, dtype, CHAIN)
    net.eval()
    x = tensor(case["in.x"], dtype).expand(known["T"], *case["in.x"].shape)
    with Watch(net) as seen:
        close(net(x).mean(0), case["out.y"], dtype, "y")
    deployed = fold_amplitudes(net)
    with Watch(deployed) as after:
        close(deployed(x).mean(0), case["out.y_folded"], dtype, "folded y")
    expected = {
        ours(key, CHAIN): array for key, array in case.items() if key.startswith("w_folded.")
    }
    state = deployed.state_dict()
    assert all((array == 1).all() for key, array in expected.items() if "amplitude" in key)
    for key, array in expected.items():
        if "amplitude" not in key:
            close(state[key], array, dtype, key)
    for key, array in case.items():
        if key.startswith("out.spikes."):
            name = ours(key.removeprefix("out.spikes."), CHAIN).removesuffix(".neuron")
            np.testing.assert_array_equal(after[name].numpy(), array)
            spikes = seen[name] / net.get_submodule(name).neuron.amplitude.detach()
            np.testing.assert_array_equal(spikes.numpy().round(), array)


def down(case: Case) -> Any:
    """Whether a shortcut strides by an average."""
    return "avg" if any("downsample.2." in key for key in case) else "conv"


def ours(key: str, places: Any) -> str:
    """Our name of a published one."""
    key = re.sub(r"^(w|w_folded|buf|buf_before|buf_after|grad)\.", "", key)
    for pattern, replacement in places:
        key = re.sub(pattern, replacement, key)
    return key


def load(net: nn.Module, case: Case, dtype: str, places: Any) -> None:
    """Every weight and buffer of a case, and no others."""
    net.to(getattr(torch, dtype))
    state = {
        ours(key, places): tensor(array, dtype)
        for key, array in case.items()
        if key.startswith(("w.", "buf_before.", "buf."))
    }
    state = {key: value.view(1) if "amplitude" in key else value for key, value in state.items()}
    net.load_state_dict(state, strict=True)


class Watch:
    """The output of every layer's neuron inside a `with`, by the layer's name."""

    def __init__(self, net: nn.Module):
        self.net, self.seen, self.hooks = net, {}, []

    def __enter__(self) -> dict[str, Tensor]:
        for name, layer in self.net.named_modules():
            if isinstance(layer, Layer) and isinstance(layer.neuron, Neuron):
                self.hooks.append(layer.register_forward_hook(partial(self._keep, name)))
        return self.seen

    def _keep(self, name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        self.seen[name] = out.detach()

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()


def check(net: nn.Module, case: Case, dtype: str, seen: dict[str, Tensor], x: Tensor) -> None:
    """Spikes of all neurons exactly, running statistics, and every gradient."""
    names = {
        key: ours(key.removeprefix("out.spikes."), PLACES) for key in case if "out.spikes." in key
    }
    assert {name.removesuffix(".neuron") for name in names.values()} == set(seen)
    parameters = dict(net.named_parameters())
    for key, name in names.items():
        a = parameters[f"{name}.amplitude"].detach().numpy()
        expected = a * case[key].astype(dtype)
        out = seen[name.removesuffix(".neuron")].numpy()
        np.testing.assert_array_equal(out, expected, err_msg=name)
    state = net.state_dict()
    after = "buf_after." if meta(case)["train"] else "buf_before."
    buffers = {ours(key, PLACES): array for key, array in case.items() if key.startswith(after)}
    assert buffers
    for key, expected in buffers.items():
        close(state[key], expected, dtype, key)
    grads = {"x": x.grad, **{name: p.grad for name, p in parameters.items()}}
    errors = []
    for expected in gradients(case):
        assert set(expected) == set(grads)
        largest = max(np.abs(array).max() for array in expected.values())
        try:
            for key, array in expected.items():
                grad = grads[key]
                assert grad is not None, key
                close(grad.view(array.shape), array, dtype, key, largest)
            return
        except AssertionError as error:
            errors.append(error)
    raise errors[0]


def gradients(case: Case) -> Iterator[Case]:
    """The gradients of a case under our names.

    Those of a block in evaluation may have been computed without clearing what convolutions and norms had from the
    block of the same shape in training; then the case holds the sum of both, and what is held against ours is the rest.
    """
    grads = {ours(key, PLACES): array for key, array in case.items() if key.startswith("grad.")}
    yield grads
    if meta(case)["kind"] != "spike_basic_block" or meta(case)["train"]:
        return
    for other in TRAINED:
        before = {ours(k, PLACES): array for k, array in other.items() if k.startswith("grad.")}
        if {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in grads.items()}:
            fresh = [key for key in grads if key == "x" or "amplitude" in key]
            yield {k: v if k in fresh else v - before[k] for k, v in grads.items()}


def close(ours: Tensor, expected: np.ndarray, dtype: str, name: str, largest: float = 0.0) -> None:
    expected, tolerance = np.asarray(expected), TOLERANCE[dtype]
    if dtype == "float32" and expected.size:  # where terms cancel, it is as exact as the largest
        largest = max(1.0, largest, float(np.abs(expected).max()))
        tolerance = tolerance | {"atol": tolerance["atol"] * largest}
    np.testing.assert_allclose(ours.detach().numpy(), expected, err_msg=name, **tolerance)
