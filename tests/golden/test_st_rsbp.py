"""Golden arrays of ST-RSBP: one layer at a time, by the compiled kernels and by arrays, as specified and as coded."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnrun.loss import CountMargin
from snnrun.model import Layer
from snnrun.neuron import RefractoryLIF, scan
from snnrun.rule import STRSBP
from snnrun.rule.lateral import Reservoir
from snnrun.rule.spike_train import effects, ratios, side_effect
from snnrun.rule.train_head import TrainHead
from snnrun.rule.train_image import SILENT, TrainConv, TrainPool, closed_marks, traces
from snnrun.rule.train_layer import TrainLayer
from snnrun.surrogate import ATan

SYSTEM = "st_rsbp"
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    return "meta" in case and {"kind", "t_ref", "tau_m", "tau_s"} <= set(meta(case))


def built(case: Case) -> Iterator[str]:
    images = meta(case)["kind"] in ("conv", "pool", "effect")
    hows = ("arrays",) if images else ("loops", "arrays")
    quirks = ("clean", "reference") if meta(case)["kind"] in ("recurrent", "conv") else ("clean",)
    return (f"{how}-{quirk}" for how in hows for quirk in quirks)


def not_built(case: Case) -> Iterator[str]:
    return iter(())


def test_case(case, part):
    how, _, quirks = part.partition("-")
    kinds = {"dense": dense, "recurrent": recurrent, "output": output, "conv": conv, "pool": pool}
    {**kinds, "effect": effect}[meta(case)["kind"]](case, how, quirks)


# --- fully connected


def dense(case: Case, how: str, quirks: str) -> None:
    layer, x = TrainLayer(made(case, how)), trains(case["spikes_in"])
    spikes = run(layer, case, x)
    learn(layer, x, spikes, case, "grad_W", "delta_in")
    with torch.no_grad():
        close(effects(x, spikes, layer.neuron)[0], case["effect"])
        close(layer.denominator(x, spikes)[0], case["denominator"])
    close(sent(layer, x), case["effect_ratio"])
    pulled(layer, case, "")


def recurrent(case: Case, how: str, quirks: str) -> None:
    inner = torch.from_numpy(case["W_lat"])
    known, coded = meta(case), "_as_coded" if quirks == "reference" else ""
    reservoir = Reservoir(inner != 0)
    reservoir.weight = nn.Parameter(inner.clone())
    assert len(reservoir.ways().target) == known["n_connections"]
    layer = TrainLayer(made(case, how, reservoir), reference=bool(coded))
    x = trains(case["spikes_in"])
    spikes = run(layer, case, x)
    learn(layer, x, spikes, case, "grad_W", f"delta_in{coded}")
    moved = np.eye(len(inner)) == 0 if coded else 1  # the authors' self-connections stay
    close(reservoir.weight.grad, case["grad_W_lat"] * moved)
    close(sent(layer, x), case[f"effect_ratio{coded}"])
    pulled(layer, case, coded)
    with torch.no_grad():
        exists, count = inner != 0, spikes.sum(0)
        close(effects(x, spikes, layer.neuron)[0], case["effect"])
        close(
            effects(spikes, spikes, layer.neuron)[0] * exists, case["effect_lat"] * exists.numpy()
        )
        bottom = layer.denominator(x, spikes)
        close(bottom[0], case["denominator"])
        table, clipped = torch.from_numpy(case["poly"]), count.clamp(1, len(case["poly"]))
        for name, weight, pre in (
            ("sum_in", layer.synapse.weight, x.sum(0)),
            ("sum_lat", reservoir.weight, count),
        ):
            close(side_effect(weight, pre, clipped, table)[0] / known["vth"], case[name])
        coupling = layer.coupling(layer.inner(spikes, reservoir.ways(), count.any(1)), count)
        close(layer.system(bottom, coupling)[0].mT, case["system_lhs"])
        share = ratios(effects(x, spikes, layer.neuron), x.sum(0)[:, None], count[:, :, None])
        close((layer.synapse.weight * share)[0], case["system_rhs"])


def output(case: Case, how: str, quirks: str) -> None:
    known, classes = meta(case), len(case["W"])
    label = torch.tensor([known["label"]])
    layer = TrainHead(made(case, how), inhibition=known["w0"], encouragement=known["desired"])
    layer.right = nn.functional.one_hot(label, classes).bool()
    x = trains(case["spikes_in"])
    spikes = run(layer, case, x)
    same(layer.recurrent.weight, case["W_lat"])
    same(layer.encouraged(spikes, layer.right)[:, 0], case["spikes_out_bwd"])
    same(layer.encouraged(spikes, layer.right)[:, 0].sum(0), case["count_out_bwd"])
    close(layer.lateral_factor(spikes, layer.right)[0], case["lateral_factor"])
    # the given error, then the one that the loss makes
    learn(layer, x, spikes, case, "grad_W", "delta_in")
    layer.share = torch.tensor([known["sample_weight"]], dtype=torch.float64)
    layer.synapse.weight.grad = x.grad = None
    criterion = CountMargin(known["desired"], known["undesired"], known["margin"])
    loss = criterion(layer(x), label, readout=lambda out: out.sum(0))
    assert abs(2 * loss.item() - case["cost"]) <= 1e-9 * abs(case["cost"])
    loss.backward()
    close(layer.synapse.weight.grad, case["grad_W"])
    assert x.grad is not None
    close(x.grad[0, 0], case["delta_in"])
    pulled(layer, case, "")
    with torch.no_grad():
        changed = layer.encouraged(spikes, layer.right)
        close(effects(x, changed, layer.neuron)[0], case["effect"])
        close(layer.denominator(x, changed)[0], case["denominator"])
    layer.share = None
    close(sent(layer, x), case["effect_ratio"])


def made(case: Case, how: str, inner: nn.Module | None = None) -> Layer:
    weight = torch.from_numpy(case["W"])
    synapse = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    synapse.weight = nn.Parameter(weight.clone())
    return Layer(synapse, None, neuron(case, how), inner)


def neuron(case: Case, how: str, tolerance: float = 1e-6) -> RefractoryLIF:
    known = meta(case)
    times = known["tau_m"], known["tau_s"]
    found = RefractoryLIF(ATan(), *times, known.get("vth", 1.0), tolerance, known["t_ref"])
    if how == "arrays":
        found.kernel = scan
    return found


def run(layer: Any, case: Case, x: Tensor) -> Tensor:
    """The layer's spikes, compared; the table of effects is the case's."""
    layer.double().table = torch.from_numpy(case["poly"])
    spikes = layer(x).detach()
    same(spikes[:, 0], case["spikes_out"])
    same(x.sum(0)[0], case["count_in"])
    same(spikes.sum(0)[0], case["count_out"])
    return spikes


def learn(layer: Any, x: Tensor, spikes: Tensor, case: Case, grad: str, delta: str) -> None:
    layer(x).backward(torch.from_numpy(case["delta"]).expand_as(spikes))
    if grad:
        close(layer.synapse.weight.grad, case[grad])
    assert x.grad is not None
    for step in (x.grad[0, 0], x.grad[-1, 0]):
        close(step, case[delta])


def sent(layer: Any, x: Tensor) -> Tensor:
    """What an error of one neuron after the other sends down, as a batch: the matrix of effects and weights."""
    size, right = layer.synapse.out_features, getattr(layer, "right", None)
    whole = x.detach().expand(-1, size, -1).requires_grad_()
    if right is not None:
        layer.right = right.expand(size, -1)
    unit = torch.eye(size, dtype=x.dtype) * layer.neuron.threshold
    (found,) = torch.autograd.grad(layer(whole), whole, unit.expand(len(x), -1, -1))
    layer.right = right
    return found[0]


def pulled(layer: Any, case: Case, coded: str) -> None:
    """The gradient of the weights with that of the penalty."""
    known = meta(case)
    how = "reference" if coded else "clean"
    rule = STRSBP(
        penalty=known["lam"],
        penalty_slope=known["beta"],
        weight_limit=known["weight_limit"],
        quirks=how,
    )
    rule.pull(layer).backward()
    close(layer.synapse.weight.grad, case["grad_W_reg"])
    if "grad_W_lat_reg" in case:
        moved = np.eye(len(case["W_lat"])) == 0 if coded else 1
        close(layer.recurrent.weight.grad, case["grad_W_lat_reg"] * moved)


# --- images


def conv(case: Case, how: str, quirks: str) -> None:
    weight, known = torch.from_numpy(case["W"]), meta(case)
    coded = "_as_coded" if quirks == "reference" else ""
    outside, inside, *kernel = weight.shape
    synapse = nn.Conv2d(inside, outside, tuple(kernel), padding=known["padding"], bias=False)
    synapse.weight = nn.Parameter(weight.clone())
    layer = TrainConv(
        Layer(synapse, None, neuron(case, how, 0.0)),
        reference=bool(coded),
        first=known["first_layer"],
    )
    x = trains(case["spikes_in"])
    spikes = run(layer, case, x)
    learn(layer, x, spikes, case, f"grad_W{coded}", f"delta_in{coded}")
    with torch.no_grad():
        found = layer.side_effect(len(x), x.sum(0), spikes.sum(0))
    close(found[0], case[f"side_effect{coded}"])
    shape, given = case["effect"].shape, closed(x.flatten(2), spikes.flatten(2), layer.neuron)
    np.testing.assert_allclose(given[0].view(shape).detach().numpy(), case["effect"], 1e-6, 1e-6)


def pool(case: Case, how: str, quirks: str) -> None:
    layer = TrainPool(meta(case)["size"], neuron(case, how, 0.0), ceil=True)
    x = trains(case["spikes_in"])
    spikes = layer(x).detach()
    same(spikes[:, 0], case["spikes_out"])
    learn(layer, x, spikes, case, "", "delta_in")


def effect(case: Case, how: str, quirks: str) -> None:
    pre, post = trains(case["spikes_in"]), trains(case["spikes_out"])
    close(effects(pre, post, neuron(case, how))[0], case["effect"])
    close(closed(pre, post, neuron(case, how))[0], case["effect_closed_form"])


@torch.no_grad()
def closed(pre: Tensor, post: Tensor, neuron: RefractoryLIF) -> Tensor:
    """Effects in closed form."""
    terms = zip(closed_marks(post, neuron), traces(pre, neuron), strict=True)
    found = sum(torch.einsum("tbi,tbj->bij", mark, trace) for mark, trace in terms)
    silent = ~post.any(0)[:, :, None] & pre.any(0)[:, None]
    return torch.where(silent, SILENT, found)  # pyright: ignore[reportArgumentType]


# --- comparison


def trains(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)[:, None].double().requires_grad_()


def same(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.detach().numpy(), expected)


def close(found: Tensor | None, expected: np.ndarray) -> None:
    assert found is not None
    bound = 1e-9 * max(np.abs(expected).max(), np.finfo(float).tiny)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=bound)
