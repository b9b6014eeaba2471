"""Golden arrays of SPIDE and IDE: the network's spikes, rates and scores, and the gradients of both rules."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnrun.encoder import Direct
from snnrun.loss import CrossEntropy
from snnrun.model import FeedbackSNN, Layer
from snnrun.neuron import FeedbackLIF
from snnrun.norm import BatchNorm
from snnrun.readout import RateReadout
from snnrun.rule import IDE, SPIDE
from snnrun.rule.equilibrium import Chain, EquilibriumRule
from snnrun.surrogate import ATan

SYSTEM = "spide"
Case = dict[str, np.ndarray]
MAP = re.compile(r"w\.(?:ide\.snn_)?func\.network_(x|s)(?:_list\.(\d+))?\.(\w+)\.(\w+)")
KINDS = {"fc": nn.Linear, "conv": nn.Conv2d, "convT": nn.ConvTranspose2d}


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    return "meta" in case and meta(case).get("kind") in ("spide", "ide")


def built(case: Case) -> Iterator[str]:
    yield "float64"
    if meta(case).get("margin", 0) > 1e-4:
        yield "float32"


def not_built(case: Case) -> Iterator[str]:
    return iter(())


class Scaled(nn.Module):
    """A weight times a constant."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, w: Tensor) -> Tensor:
        return w * self.scale


class Network:
    """The network of a case, and where its arrays have gone."""

    def __init__(self, case: Case, dtype: torch.dtype):
        self.case, self.known = case, meta(case)
        self.places: dict[str, tuple[Any, str]] = {}  # of a parameter: its module and name there
        found: dict[int | str, dict[str, str]] = {}  # of a map: the names of its modules
        for key in case:
            if part := MAP.fullmatch(key):
                place: int | str = "x" if part[1] == "x" else int(part[2] or 0)
                found.setdefault(place, {})[part[3]] = key.rpartition(".")[0][2:]
        self.net = self._built(found).to(dtype)
        for place, modules in found.items():
            layer = self._layer(place)
            for kind, prefix in modules.items():
                self._fill(layer.norm if kind == "bn" else layer.synapse, prefix)
        self._fill(self.net.head.synapse, "classifier")
        if "const.feedback_scale" in case:
            scale = Scaled(float(case["const.feedback_scale"]))
            parametrize.register_parametrization(self.net.feedback.synapse, "weight", scale)

    def _built(self, found: dict[int | str, dict[str, str]]) -> Any:
        known = self.known
        multilayer = known.get("multilayer", any("s_list" in key for key in self.case))
        last = max(
            [place for place in found if isinstance(place, int)]
            + [int(m[1]) for key in self.case if (m := re.fullmatch(r"out\.spikes\.pop(\d+)", key))]
        )
        if not multilayer:
            assert last == 0
        words = [self._word(found["x"], halved=False)]
        for place in range(last):
            halved = place == 0 and "convT" in found.get(last, ())
            words.append(self._word(found[place], halved=halved) if place in found else "P2")
        if last in found:
            kernel = self._weight(found[last]).shape[-1] if "fc" not in found[last] else 1
        threshold, decay = known["vth"], known["leaky"] or 1.0
        neuron = lambda c: FeedbackLIF(ATan(), threshold, known.get("u_rest", 0.0), decay)  # noqa: E731
        norm = BatchNorm if known.get("batchnorm") else (lambda c: None)
        shape = self.case["in.x"].shape[1:]
        shape = shape[:-1] if known.get("input_type") == "spikes" else shape
        spec, feedback = "-".join(words), int(kernel) if last in found else 0
        net: Any = FeedbackSNN(
            neuron,
            norm,
            RateReadout().head,
            shape,
            len(self.case["w.classifier.bias"]),
            spec=spec,
            feedback=feedback,
        )
        self._complete(net, found)
        return net

    def _complete(self, net: Any, found: dict[int | str, dict[str, str]]) -> None:
        """Take away biases that a case has not, and give the feedback what it has."""
        for place, modules in found.items():
            layer = self._layer(place, net)
            prefix = next(prefix for kind, prefix in modules.items() if kind != "bn")
            has = f"w.{prefix}.bias" in self.case
            if not has:
                layer.synapse.bias = None
            elif layer.synapse.bias is None:
                layer.synapse.bias = nn.Parameter(torch.zeros(self.case[f"w.{prefix}.bias"].shape))
            if "bn" not in modules:
                layer.norm = None
            elif layer.norm is None:
                layer.norm = BatchNorm(len(self.case[f"w.{modules['bn']}.weight"]))

    def _word(self, modules: dict[str, str], *, halved: bool) -> str:
        shape = self._weight(modules).shape
        return str(shape[0]) if "fc" in modules else f"{shape[0]}C{shape[2]}" + "s2" * halved

    def _weight(self, modules: dict[str, str]) -> np.ndarray:
        prefix = next(prefix for kind, prefix in modules.items() if kind != "bn")
        return self.case.get(f"w.{prefix}.weight", self.case.get(f"w.{prefix}.weight_w"))

    def _layer(self, place: int | str, net: Any = None) -> Layer:
        net = net or self.net
        drives = [part for part in net.body if isinstance(part, Layer)]
        if place == "x":
            return net.input
        return drives[place + 1] if int(place) + 1 < len(drives) else net.feedback

    @torch.no_grad()
    def _fill(self, module: Any, prefix: str) -> None:
        for group in ("w", "buf_before"):
            for key, value in self.case.items():
                if key.startswith(f"{group}.{prefix}."):
                    name = key.rpartition(".")[2]
                    own = name.removesuffix("_w")
                    getattr(module, own).copy_(torch.from_numpy(value))
                    self.places[key.partition(".")[2]] = (module, own)

    def parameter(self, name: str) -> Tensor:
        """What the array of this name has become."""
        module, own = self.places[name]
        parametrized = getattr(module, "parametrizations", {})
        return parametrized[own].original if own in parametrized else getattr(module, own)


class Learner:
    """What a rule sees of the learner."""

    def __init__(self, net: Any, steps: int, static: bool, decay: float):
        self.net, self.encoder = net, Direct(steps, static=static)
        self.readout, self.criterion = RateReadout(decay), CrossEntropy()
        self.out: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(self.encoder(x))

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        self.out = self.readout(out).detach()
        return self.criterion(out, y, readout=self.readout)


def prepared(case: Case, dtype: torch.dtype) -> tuple[Network, Learner, Tensor, Tensor]:
    network, known = Network(case, dtype), meta(case)
    x, y = torch.from_numpy(case["in.x"]).to(dtype), torch.from_numpy(case["in.labels"])
    static = known.get("input_type") != "spikes"
    x = x if static else x.movedim(-1, 0).contiguous()
    return network, Learner(network.net.train(), known["T"], static, known["leaky"] or 1.0), x, y


class Kept:
    """What a rule hands to and gets from a method of its own."""

    def __init__(self, rule: EquilibriumRule, method: str):
        self.given: list[Any] = []
        self.got: Any = None
        run = getattr(rule, method)

        def keep(*given: Any) -> Any:
            self.given, self.got = list(given), run(*given)
            return self.got

        setattr(rule, method, keep)


def close(
    found: Tensor, expected: np.ndarray, dtype: torch.dtype, name: str, scale: float = 1
) -> None:
    rtol, atol = (1e-9, 1e-10) if dtype == torch.float64 else (1e-4, 1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(
        found.detach().double().numpy() * scale, expected, rtol=rtol, atol=atol, err_msg=name
    )


def test_case(case, part):
    dtype = getattr(torch, part)
    (spide if meta(case)["kind"] == "spide" else ide)(case, dtype)


def spide(case: Case, dtype: torch.dtype) -> None:
    known = meta(case)
    network, learner, x, y = prepared(case, dtype)
    chain = Chain(network.net)
    spikes: list[list[Tensor]] = [[] for _ in chain.populations]
    for seen, layer in zip(spikes, chain.populations, strict=True):
        layer.register_forward_hook(lambda m, given, out, seen=seen: seen.append(out))
    scale = known["loss_scale"] / len(y)
    rule = SPIDE(known["T_back"], known["vth_back"], known["u_rest_back"], scale, None)
    attached, turned = Kept(rule, "attach"), Kept(rule, "backward_pass")
    loss = rule.loss(learner, x, y)  # pyright: ignore[reportArgumentType]
    loss.backward()

    _, _, rates, _, g, _ = attached.given
    for k, layer in enumerate(chain.populations):
        np.testing.assert_array_equal(torch.cat(spikes[k]).numpy(), case[f"out.spikes.pop{k}"])
        close(rates.rate(layer), case[f"out.rate.pop{k}"], dtype, f"rate {k}")
        np.testing.assert_array_equal(rates.between(layer).numpy(), case[f"out.mask.pop{k}"])
    close(rates.rate(chain.net.input), case["out.presyn_rate.x"], dtype, "mean input")
    assert loss.item() * known["loss_scale"] == pytest.approx(
        float(case["out.loss_scaled"]), rel=1e-9 if dtype == torch.float64 else 1e-4
    )
    close(learner.out, case["out.y"], dtype, "scores")
    close(g, case["out.grad_z"], dtype, "gradient of the rate", known["loss_scale"])
    beta, counts = turned.got
    masks = turned.given[2]
    last = len(beta) - 1
    for k, (m, b, count) in enumerate(zip(masks, beta, counts, strict=True)):
        np.testing.assert_array_equal(
            count.numpy(), np.rint(case[f"out.back_spike_rate.rev{last - k}"] * known["T_back"])
        )
        place = k - 1 if k else last
        for name in (f"s{place}", *(() if k else ("x",))):
            close(m * b, case[f"out.beta_masked.{name}"], dtype, f"beta {name}")
            if name != "x":
                close(turned.given[1][k - 1], case[f"out.presyn_rate.{name}"], dtype, name)
    compare(network, case, "grad", dtype, known["loss_scale"])


def ide(case: Case, dtype: torch.dtype) -> None:
    known = meta(case)
    network, learner, x, y = prepared(case, dtype)
    rule = IDE(known["solver"].replace("-", "_"), known["max_iter"], feedback_bound=None)
    attached, solved = Kept(rule, "attach"), Kept(rule, "solve")
    loss = rule.loss(learner, x, y)  # pyright: ignore[reportArgumentType]
    loss.backward()

    _, _, _, z, g, _ = attached.given
    close(z, case["out.z_rate"], dtype, "rate")
    close(learner.out, case["out.y"], dtype, "scores")
    assert loss.item() == pytest.approx(float(case["out.loss"]), rel=1e-9)
    close(g, case["out.grad_z"], dtype, "gradient of the rate")
    compare(network, case, "grad", dtype)
    compare(network, case, "buf_after", dtype)
    if "out.implicit_grad_exact" in case:
        same = np.testing.assert_allclose
        same(solved.got.numpy(), case["out.implicit_grad_exact"], rtol=1e-6, atol=1e-8)
    compare(network, case, "grad_exact", dtype)


def compare(network: Network, case: Case, group: str, dtype: torch.dtype, scale: float = 1) -> None:
    """Gradients or buffers with the arrays of a group, and that no parameter was left out."""
    names = {key.partition(".")[2] for key in case if key.startswith(f"{group}.")}
    for name in sorted(names):
        own = network.parameter(name)
        found = own if group == "buf_after" else own.grad
        assert found is not None, name
        expected = case[f"{group}.{name}"]
        if scale == 1 and group.startswith("grad"):  # IDE's tolerance
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8, err_msg=name)
        else:
            close(found, expected, dtype, f"{group} {name}", scale)
    if group == "grad":
        assert {id(network.parameter(n)) for n in names} == {
            id(p) for p in network.net.parameters()
        }
