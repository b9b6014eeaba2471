"""Golden arrays of differentiation on spike representation: neurons, and small pre-activation ResNets."""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.loss import CrossEntropy
from snnrun.model import Layer, PreActResNet
from snnrun.model.preact_resnet import PreActBlock, convolutions
from snnrun.neuron import DSRIF, DSRLIF
from snnrun.neuron.dsr import Clamping
from snnrun.neuron.kernel import Choice, choose
from snnrun.norm import BatchNorm
from snnrun.readout import RepresentationReadout
from snnrun.rule import DSR
from snnrun.surrogate import ATan

SYSTEM = "dsr"
KINDS = ("neuron_if", "neuron_lif", "tiny_if", "tiny_lif")
TOLERANCE: dict[str, dict[str, float]] = {
    "float64": {"rtol": 1e-9, "atol": 1e-10},
    "float32": {"rtol": 1e-4, "atol": 1e-6},
}
# published names of the parts of a network, and ours
PLACES = (
    (r"^layer(\d+)\.(?:(\d+)\.)?", lambda m: f"stages.{int(m[1]) - 1}.{m[2] or 0}."),
    (r"(?<=\d\.)(bn|relu)1", lambda m: f"pre.{PART[m[1]]}"),
    (r"(?<=\d\.)(bn|relu)(\d)", lambda m: f"path.{int(m[2]) - 2}.{PART[m[1]]}"),
    (r"(?<=\d\.)conv(\d)", lambda m: f"path.{int(m[1]) - 1}.synapse"),
    (r"(?<=\d\.)shortcut", "shortcut.synapse"),
    (r"^conv1", "stem.synapse"),
    (r"^bn1", "last.norm"),
    (r"^relu1", "last.neuron"),
    (r"^relu2", "pooled.neuron"),
    (r"^linear", "head.synapse"),
    (r"^bn2", "head.norm"),
    (r"^relu3", "head.neuron"),
    (r"Vth$", "threshold"),
)
PART = {"bn": "norm", "relu": "neuron"}
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    return "meta" in case and {"Vth_bound", "alpha", "delta_t"} <= set(meta(case))


def built(case: Case) -> Iterator[str]:
    if meta(case)["kind"] in KINDS:
        yield from ("float64", "float64-scan", "float32")


def not_built(case: Case) -> Iterator[str]:
    if meta(case)["kind"] not in KINDS:
        yield meta(case)["kind"]


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


def test_case(case, part):
    known = meta(case)
    dtype, _, how = part.partition("-")
    if dtype == "float32" and not known.get("margin", 0) > 1e-4:
        pytest.skip(f"float32: the margin {known.get('margin')} is not above 1e-4")
    check = neuron if known["kind"].startswith("neuron") else tiny
    check(case, dtype, "scan" if how else "auto")


def make(known: dict[str, Any], rule: DSR, kernel: Choice) -> Clamping:
    """The neuron of a case, run and differentiated by the rule."""
    common = {"alpha": known["alpha"], "bound": known["Vth_bound"]}
    common["threshold"] = max(1.0, common["bound"])  # until the case's own is filled in
    made: Clamping
    if known["kind"].endswith("_lif"):
        made = DSRLIF(ATan(), known["tau"], known["delta_t"], **common)
    else:
        made = DSRIF(ATan(), **common)
    made.kernel = choose(rule.kernel(made), kernel)
    return made


def tensor(array: np.ndarray, dtype: str) -> Tensor:
    return torch.from_numpy(np.asarray(array)).to(getattr(torch, dtype))


def close(ours: Tensor | None, expected: np.ndarray, dtype: str, name: str) -> None:
    assert ours is not None and ours.shape == expected.shape, name
    np.testing.assert_allclose(ours.detach().numpy(), expected, err_msg=name, **TOLERANCE[dtype])


def neuron(case: Case, dtype: str, kernel: Choice) -> None:
    """Spikes and sizes, averages, and gradients of input and threshold."""
    known = meta(case)
    rule = DSR(threshold_grad_scale=0.001 if known["variant"] == "imagenet" else 1.0)
    layer = make(known, rule, kernel).to(getattr(torch, dtype))
    layer.threshold.data = tensor(case["w.Vth_before"], dtype).view(1)
    steps = known["timesteps"]
    x = tensor(case["in.x"], dtype).unflatten(0, (steps, -1)).requires_grad_()
    out = layer(x)
    np.testing.assert_array_equal(layer.spikes(out).flatten(0, 1).detach(), case["out.spikes"])
    close(out.flatten(0, 1), case["out.y"], dtype, "y")
    readout = RepresentationReadout(neuron=lambda channels: layer)
    readout.head(1, 1)
    close(readout(out), case["out.output_rep"], dtype, "output_rep")
    close(readout(x), case["out.input_rep"], dtype, "input_rep")
    (out.flatten(0, 1) * tensor(case["in.grad_out"], dtype)).sum().backward()
    assert x.grad is not None and layer.threshold.grad is not None
    close(x.grad.flatten(0, 1), case["grad.x"], dtype, "grad.x")
    close(layer.threshold.grad.view(()), case["grad.Vth"], dtype, "grad.Vth")
    with torch.no_grad():
        rule.constrain(layer)
    assert layer.threshold.item() == tensor(case["w.Vth"], dtype).item()


def tiny(case: Case, dtype: str, kernel: Choice) -> None:
    """A small network: logits, spikes of all neurons, running statistics and every gradient."""
    known, rule = meta(case), DSR()
    net = network(case, partial(make, known, rule, kernel)).to(getattr(torch, dtype))
    weights = {
        ours(key): tensor(array, dtype)
        for key, array in case.items()
        if key.startswith(("w.", "buf_before."))
    }
    weights = {k: w.view(1) if k.endswith("threshold") else w for k, w in weights.items()}
    net.load_state_dict(weights, strict=True)
    net.train(known["train"])
    seen: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, Clamping):
            keep = lambda m, args, out, name=name: seen.update({name: m.spikes(out)})  # noqa: E731
            module.register_forward_hook(keep)
    x = tensor(case["in.x"], dtype).requires_grad_()
    out = net(x.expand(known["timesteps"], *x.shape))
    y = net.readout(out)
    close(y, case["out.y"], dtype, "y")
    loss = CrossEntropy()(out, torch.from_numpy(case["in.labels"]), readout=net.readout)
    close(loss, case["out.loss"], dtype, "loss")
    loss.backward()
    close(x.grad, case["grad.x"], dtype, "grad.x")
    spikes = {k.removeprefix("out.spikes."): a for k, a in case.items() if "out.spikes." in k}
    assert {ours(name) for name in spikes} == set(seen)
    for name, array in spikes.items():
        found = seen[ours(name)].detach()
        np.testing.assert_array_equal(found.flatten(0, 1), array, err_msg=name)
        assert found.mean().item() == pytest.approx(known["firing_rate"][name])
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    gradients = {k for k in case if k.startswith("grad.") and k != "grad.x"}
    assert {ours(key) for key in gradients} == set(parameters)
    for key in gradients:
        grad = parameters[ours(key)].grad
        assert grad is not None, key
        close(grad.view(case[key].shape), case[key], dtype, key)
    for key in (k for k in case if k.startswith("buf_after.")):
        close(buffers[ours(key)], case[key], dtype, key)


def network(case: Case, neuron: Any) -> Any:
    """A pre-activation ResNet whose stages are those of the case."""
    known = meta(case)
    readout = RepresentationReadout(neuron=lambda channels: neuron(), norm=BatchNorm)
    make_neuron = lambda channels: neuron()  # noqa: E731
    channels = case["w.conv1.weight"].shape[0]
    classes, features = case["w.linear.weight"].shape
    shape = case["in.x"].shape[1:]
    net: Any = PreActResNet(
        make_neuron, BatchNorm, readout.head, shape, classes, width=channels, stem="small"
    )
    stages = []
    for stage in range(1, 1 + len({m[0] for key in case if (m := re.match(r"w\.layer\d+", key))})):
        width = case[f"w.layer{stage}.conv1.weight"].shape[0]
        path = convolutions(width, 1 if stage == 1 else 2, known["bottleneck"], bias=True)
        stages.append(nn.Sequential(PreActBlock(make_neuron, BatchNorm, channels, path)))
        channels = path[-1].channels
    net.stages = nn.Sequential(*stages)
    net.last = Layer(nn.Identity(), BatchNorm(features), neuron())
    net.head, net.readout = readout.head(features, classes), readout
    return net


def ours(key: str) -> str:
    """Our name of a published one."""
    key = re.sub(r"^(w|buf_before|buf_after|grad)\.", "", key)
    for pattern, replacement in PLACES:
        key = re.sub(pattern, replacement, key)
    return key
