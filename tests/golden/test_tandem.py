"""Golden arrays of tandem and progressive tandem learning: layers with gradients, and the schedule of conversions."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.encoder import Direct, ZeroExpand
from snnrun.loss import CrossEntropy
from snnrun.model import MLP, ConvNet
from snnrun.neuron import IF, Leaky, Neuron
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.rule import ProgressiveTandem, Tandem
from snnrun.rule.progressive_tandem import hidden
from snnrun.rule.tandem import TandemLayer, tandem_layers
from snnrun.surrogate import ATan

SYSTEM = "tandem"
NAMES = {"synapse.weight": "w", "synapse.bias": "b", "norm.weight": "g", "norm.bias": "be"}
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    layers = {"vthr", "l0_g", "head_w", "train_spikes0"}
    return layers <= set(case) or {"val_acc", "epoch_convert", "frozen"} <= set(case)


def built(case: Case) -> Iterator[str]:
    if "val_acc" in case:
        yield "schedule"
    elif "vthr" in case:
        yield from ("neuron", "layer")


def not_built(case: Case) -> Iterator[str]:
    if "val_acc" not in case and "vthr" not in case:
        yield "unknown"


def test_case(case, part):
    if part == "schedule":
        schedule(case)
    else:
        halves(case, part)


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


# --- the two halves


def network(case: Case, where: str) -> tuple[nn.Module, nn.Module]:
    """Encoder and adapted network, with the thresholds in the neurons or in the layers."""
    known, thresholds = meta(case), case["vthr"].tolist()
    given = iter(thresholds if where == "neuron" else [1.0] * len(thresholds))

    def neuron(channels: int) -> Neuron:
        threshold = next(given)
        if known["neuron"].upper() == "LIF":
            return Leaky(ATan(), beta=known["leak"], threshold=threshold)
        return IF(ATan(), threshold=threshold, reset="soft")

    def norm(channels: int) -> BatchNorm:
        return BatchNorm(channels, known["bn_eps"], known["bn_momentum"])

    words = []
    for i in range(len(thresholds)):
        weight, before = case[f"l{i}_w"], case["x"] if i == 0 else case[f"train_ann{i - 1}"]
        if weight.ndim == 4:
            stride = -(-before.shape[-1] // case[f"train_ann{i}"].shape[-1])
            words.append(f"{len(weight)}C{weight.shape[-1]}s{stride}")
        else:
            words.append(str(len(weight)))
    made: Any = ConvNet if known["conv"] else MLP
    head, spec = Readout().head, "-".join(words)
    net = made(neuron, norm, head, case["x"].shape[1:], len(case["head_b"]), spec=spec, bias=True)
    net = Tandem(fold_eps=0.0).adapt(net).double()
    duplicate = known["encoding"] == "duplicate"
    encoder = Direct(known["T"], static=True) if duplicate else ZeroExpand(known["T"])
    *found, output = tandem_layers(net).values()
    for i, layer in enumerate(found):
        for ours, theirs in {**NAMES, "norm.running_mean": "rm", "norm.running_var": "rv"}.items():
            put(layer, ours, case[f"l{i}_{theirs}"])
        if where == "layer":
            layer.threshold.fill_(thresholds[i])
    put(output, "synapse.weight", case["head_w"])
    put(output, "synapse.bias", case["head_b"])
    return encoder, net


def put(module: nn.Module, name: str, value: np.ndarray) -> None:
    held = module.get_parameter(name) if "running" not in name else module.get_buffer(name)
    assert held.shape == value.shape
    held.data.copy_(torch.from_numpy(value))


def halves(case: Case, where: str) -> None:
    """Spikes, rate units and scores in training and then in evaluation; loss and gradients of the first."""
    encoder, net = network(case, where)
    *found, output = tandem_layers(net).values()
    seen: dict[str, Tensor] = {}
    for i, layer in enumerate(found):
        layer.register_forward_hook(lambda m, args, out, i=i: seen.update({f"spikes{i}": out}))
        layer.resting.register_forward_hook(lambda m, args, out, i=i: seen.update({f"ann{i}": out}))
    x, y = torch.from_numpy(case["x"]), torch.from_numpy(case["y"])
    readout, criterion = Readout("sum"), CrossEntropy()
    for mode in ("train", "eval"):
        net.train(mode == "train")
        seen.clear()
        out = net(encoder(x))
        assert len(seen) == 2 * len(found)
        for name, value in seen.items():
            expected = case[f"{mode}_{name}"]
            if name.startswith("spikes"):
                ours = value.detach().transpose(0, 1).numpy()
                np.testing.assert_array_equal(ours, expected, err_msg=name)
            else:
                close(value, expected, f"{mode}_{name}")
        close(readout(out).log_softmax(1), case[f"{mode}_logp"], f"{mode}_logp")
        if mode == "train":
            loss = criterion(out, y, readout=readout)
            close(loss, case["loss"], "loss")
            loss.backward()
            for i, layer in enumerate(found):
                for ours, theirs in NAMES.items():
                    name = f"l{i}_{theirs}"
                    close(layer.get_parameter(ours).grad, case[f"grad_{name}"], name)
                for ours, theirs in (("norm.running_mean", "rm"), ("norm.running_var", "rv")):
                    close(layer.get_buffer(ours), case[f"after_l{i}_{theirs}"], theirs)
            close(output.get_parameter("synapse.weight").grad, case["grad_head_w"], "head_w")
            close(output.get_parameter("synapse.bias").grad, case["grad_head_b"], "head_b")


def close(ours: Tensor | None, expected: np.ndarray, name: str) -> None:
    assert ours is not None and ours.shape == expected.shape, name
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-9, atol=1e-9, err_msg=name)


# --- the schedule


class Learner:
    """Notes what the rule asks for at the end of an epoch."""

    def __init__(self, net: nn.Module, lr: float):
        self.net, self.encoder, self.lr = net, ZeroExpand(4), lr
        self.loaded: list[bool] = []

    def training_batch(self) -> tuple[Tensor, Tensor]:
        return torch.rand(8, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(8)

    def load_best(self, *, restart: bool = False) -> None:
        self.loaded.append(restart)

    def reset_optimizer(self, params: list[nn.Parameter], lr: float) -> None:
        assert {id(p) for p in params} == {id(p) for p in self.net.parameters() if p.requires_grad}
        self.lr = lr


def schedule(case: Case) -> None:
    """The rule's own bookkeeping on a network of as many layers, epoch by epoch."""
    known = meta(case)
    rule = ProgressiveTandem(pretrain_epochs=1, patience=known["patience"], lr=known["lr"])
    spec = "-".join(["4"] * (known["n_layers"] - 1))
    neuron = lambda channels: IF(ATan(), reset="soft")  # noqa: E731
    net = MLP(neuron, BatchNorm, Readout().head, (5,), 3, spec=spec)
    learner: Any = Learner(rule.adapt(net), known["lr"])
    rule.epoch_end(learner, {"epoch": 0, "val/acc": 0.5})  # the ANN is trained
    assert learner.loaded == [True]
    converted, states, frozen = [0], [], []
    for epoch, score in enumerate(case["val_acc"].tolist()):
        before = dict(rule.progress)
        row = {"epoch": epoch + 1, "val/acc": score}
        rule.epoch_end(learner, row)
        now = rule.progress
        assert row["rule/stage"] == before["stage"]
        moved = now["stage"] != before["stage"]
        replaced = moved and now["stage"] < known["n_layers"] - 1
        best = now["best"] or 0.0
        saved = best > (before["best"] or 0.0)
        states.append((now["stage"], now["waited"], best, saved, replaced, learner.lr))
        layers = list(tandem_layers(net).values())
        frozen.append([not any(p.requires_grad for p in layer.parameters()) for layer in layers])
        converted += [epoch] if moved else []
        assert [layer.spiking for layer in hidden(net).values()] == [
            k <= now["stage"] for k in range(known["n_layers"] - 1)
        ]
    close(torch.tensor(states, dtype=torch.float64), case["state"], "state")
    np.testing.assert_array_equal(frozen, case["frozen"])
    np.testing.assert_array_equal(converted, case["epoch_convert"])
    assert isinstance(layers[0], TandemLayer)
