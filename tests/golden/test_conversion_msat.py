"""Golden arrays of ANN-to-SNN conversion: plain and burst networks, QCFS, MSAT neurons, maximum pooling of spikes."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Layer, Pool, layers
from snnrun.neuron import IF, MSAT, Burst, Neuron, scan
from snnrun.rule import Conversion
from snnrun.rule.activation import QCFS, ReLU
from snnrun.rule.spiking_parts import SpikeConfidence, SpikingMaxPool
from snnrun.surrogate import ATan

SYSTEM = "conversion_msat"
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def kind(case: Case) -> str:
    found = meta(case)
    if "gate" in case or "lateral" in case:
        return "maxpool"
    if "lam" in case:
        return "qcfs"
    if "vmax" in found:
        return "msat"
    return "plain" if "x_calibration" in case else "unknown"


def is_mine(case: Case) -> bool:
    return "meta" in case and kind(case) != "unknown"


def built(case: Case) -> Iterator[str]:
    match kind(case):
        case "maxpool":
            yield from ("lateral", "gate")
        case "qcfs":
            yield from ("ann", "snn")
        case "msat":
            yield from ("auto", "scan")
        case "plain":
            if meta(case)["gamma"] == 1:
                yield "if"
            yield "burst"


def not_built(case: Case) -> Iterator[str]:
    if kind(case) == "unknown":
        yield "unknown"


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


def test_case(case, part):
    {"maxpool": pool, "qcfs": qcfs, "msat": msat, "plain": plain}[kind(case)](case, part)


def given(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case[name])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach(), expected, rtol=tolerance, atol=tolerance)


class MLP(nn.Module):
    """The case's weights, with a neuron behind all layers but the last."""

    def __init__(self, case: Case, neuron: Neuron):
        super().__init__()
        count = sum(name[0] == "w" and name[1:].isdigit() for name in case)
        self.body = nn.Sequential()
        for i in range(count):
            weight = given(case, f"w{i}")
            synapse = nn.Linear(weight.shape[1], weight.shape[0]).double()
            with torch.no_grad():
                synapse.weight.copy_(weight)
                synapse.bias.copy_(given(case, f"b{i}"))
            self.body.append(Layer(synapse, None, neuron if i < count - 1 else None))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Layer, Tensor]]]:
    """What a network gives out, and what each of its layers does."""
    seen: list[tuple[Layer, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: seen.append((layer, out)))
        for _, layer in layers(net)
    ]
    out = net(x)
    for hook in hooks:
        hook.remove()
    return out, seen


def check_snn(case: Case, net: nn.Module, x: Tensor) -> None:
    steps = meta(case)["T"]
    out, seen = outputs(net, x.expand(steps, *x.shape))
    for i, (layer, spikes) in enumerate(seen[:-1]):
        assert isinstance(layer.neuron, Neuron)
        found = layer.neuron.spikes(spikes).round()
        np.testing.assert_array_equal(found.numpy(), case[f"spikes{i}"])
    mean = out.cumsum(0) / torch.arange(1, steps + 1).view(-1, 1, 1)
    close(mean, given(case, "snn_out"))


def plain(case: Case, part: str) -> None:
    known = meta(case)
    neuron = IF(ATan(), reset="soft") if part == "if" else Burst(ATan(), gamma=known["gamma"])
    assert known["v0"] == 0
    rule = Conversion(
        scale="percentile",
        p=known["p"],
        calibration=len(case["x_calibration"]),
        scale_factor=known["vth_scale"],
    )
    ann = rule.adapt(MLP(case, neuron))
    x = given(case, "x")
    out, seen = outputs(ann, x.unsqueeze(0))
    for i, (layer, act) in enumerate(seen[:-1]):
        assert isinstance(layer.neuron, ReLU)
        close(act[0], given(case, f"act{i}"))
    close(out[0], given(case, "ann_out"))
    batches = given(case, "x_calibration").split(3)
    scales = rule.measure(ann.net, batches)
    close(torch.cat([*scales.values()]), given(case, "scale"))
    close(torch.cat([*scales.values()]) * rule.scale_factor, given(case, "theta"))
    check_snn(case, rule.deploy(ann, batches), x)


def qcfs(case: Case, part: str) -> None:
    known = meta(case)
    rule = Conversion(activation="qcfs", levels=known["L"])
    ann = rule.adapt(MLP(case, IF(ATan(), reset="soft"))).double()
    activations = [m for m in ann.modules() if isinstance(m, QCFS)]
    with torch.no_grad():
        for activation, value in zip(activations, given(case, "lam"), strict=True):
            activation.threshold.fill_(value)
    x = given(case, "x")
    if part == "snn":
        assert known["v0"] == "theta/2"
        check_snn(case, rule.deploy(ann, []), x)
        return
    out, seen = outputs(ann, x.unsqueeze(0))
    for i, (_, act) in enumerate(seen[:-1]):
        close(act[0], given(case, f"act{i}"))
    close(out[0], given(case, "ann_logits"))
    loss = nn.functional.cross_entropy(out[0], given(case, "y"))
    close(loss, given(case, "loss"))
    loss.backward()
    for i, (layer, _) in enumerate(seen):
        close(layer.synapse.weight.grad, given(case, f"grad_w{i}"))  # pyright: ignore
        close(layer.synapse.bias.grad, given(case, f"grad_b{i}"))  # pyright: ignore
    grads = [a.threshold.grad for a in activations]
    close(torch.cat([g for g in grads if g is not None]), given(case, "grad_lam"))


def msat(case: Case, part: str) -> None:
    known = meta(case)
    names = ("alpha", "ka", "ki", "C", "tau_mp", "tau_rd", "use_dtt", "use_det", "gamma")
    neuron = MSAT(ATan(), **{name: known[name] for name in names})
    neuron = Conversion().unit(ReLU(neuron), torch.tensor([known["vmax"]], dtype=torch.float64))
    assert isinstance(neuron, MSAT)
    x = given(case, "x")
    state, rows = neuron.init_state(x[0]), []
    for x_t in x.unbind(0):
        threshold = neuron.threshold_at(x_t, state)
        out, state = neuron.step(x_t, state)
        rows.append((threshold, state[0], out / threshold))
    threshold, membrane, spikes = (torch.stack(row) for row in zip(*rows, strict=True))
    close(threshold, given(case, "threshold"))
    close(membrane, given(case, "membrane"))
    np.testing.assert_array_equal(spikes.round().numpy(), case["spikes"])
    if part == "scan":
        neuron.kernel = scan
    out = neuron(x)
    np.testing.assert_array_equal(neuron.spikes(out).numpy(), case["spikes"] > 0)
    if known["confidence"] is not None:
        drop = SpikeConfidence(known["confidence"], known["sc_steps"])
        drop.draw = lambda x: given(case, "uniform")[: len(x)]
        out = drop(out)
    close(out, given(case, "out"))


def pool(case: Case, part: Any) -> None:
    made = SpikingMaxPool(Pool("max", 2), part)
    close(made(given(case, "x")), given(case, part), 1e-6 if part == "gate" else 1e-9)
