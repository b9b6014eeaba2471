"""Golden arrays of TSSL-BP: neurons, filter, pool, losses, layers, networks and their training. Files have T last."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.encoder import PSC
from snnrun.loss import Kernel, Softmax, TraceCount
from snnrun.model import Dropout, Layer, Pool, layers
from snnrun.neuron import PSCLIF
from snnrun.neuron.kernel import choose
from snnrun.readout import Readout
from snnrun.rule import TSSL
from snnrun.surrogate import ATan

SYSTEM = "tssl"
KINDS = ("neuron", "psp", "pool", "loss", "layer", "net", "dropout")
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    """Files of reset_bptt have kinds of the same names; what only TSSL-BP's have tells them apart."""
    if "meta" not in case or meta(case).get("kind") not in KINDS:
        return False
    return bool({"dtype", "p", "layers"} & set(meta(case)))


def built(case: Case) -> Iterator[str]:
    if meta(case)["kind"] in KINDS:
        yield meta(case)["kind"]


def not_built(case: Case) -> Iterator[str]:
    if meta(case)["kind"] not in KINDS:
        yield meta(case)["kind"]


def test_case(case, part):
    globals()[f"check_{part}"](case, meta(case))


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


def given(case: Case, name: str) -> Tensor:
    """An array with T first; dense layers without their H = W = 1."""
    return flat(torch.from_numpy(case[name]).movedim(-1, 0).contiguous())


def flat(x: Tensor) -> Tensor:
    """Without H = W = 1."""
    return x.flatten(2) if x.dim() == 5 and x.shape[3:] == (1, 1) else x


def close(found: Tensor, case: Case, name: str, expected: Tensor | None = None) -> None:
    """Within 1e-9 (float32: 2e-4) of the array's maximum."""
    expected = given(case, name) if expected is None else expected
    found = flat(found)
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    bound = 1e-9 if expected.dtype == torch.float64 else 2e-4
    error = (found.detach() - expected).abs().max().item()
    assert error <= bound * max(expected.abs().max().item(), 1e-30), f"{name}: off by {error}"


def neuron(known: dict[str, Any], threshold: float) -> PSCLIF:
    made = PSCLIF(ATan(), tau_m=known["tau_m"], tau_s=known["tau_s"], threshold=threshold)
    made.kernel = choose(TSSL().kernel(made), "auto")
    return made


def potentials(made: PSCLIF, current: Tensor) -> tuple[Tensor, Tensor]:
    """Potential before the reset and its increment, which the layer does not give out."""
    state, u, d = made.init_state(current[0]), [], []
    for x in current:
        d.append(x - state[0] / made.tau_m)
        u.append(state[0] + d[-1])
        _, state = made.step(x, state)
    return torch.stack(u), torch.stack(d)


def check_neuron(case: Case, known: dict[str, Any]) -> None:
    made = neuron(known, known["threshold"])
    x = given(case, "I").requires_grad_()
    for kernel in (made.kernel, TSSL().kernel(made)):
        made.kernel = kernel
        out = made(x)
        assert torch.equal(flat(made.spikes(out.detach())), given(case, "spikes"))
        close(out, case, "a")
        (grad,) = torch.autograd.grad(out, x, given(case, "grad_a"))
        close(grad, case, "grad_I")
    u, d = potentials(made, x.detach())
    close(u, case, "u")
    close(d, case, "delta_u")


def check_psp(case: Case, known: dict[str, Any]) -> None:
    x = given(case, "x").requires_grad_()
    out = PSC(known["T"], static=False, tau_s=known["tau_s"])(x)
    close(out, case, "a")
    out.backward(given(case, "grad_a"))
    assert x.grad is not None
    close(x.grad, case, "grad_x")


def check_pool(case: Case, known: dict[str, Any]) -> None:
    x = given(case, "x").requires_grad_()
    out = Pool("sum", known["kernel_size"], gain=known["theta"])(x)
    close(out, case, "y")
    out.backward(given(case, "grad_y").view_as(out))
    assert x.grad is not None
    close(x.grad, case, "grad_x")


def criterion(known: dict[str, Any]) -> nn.Module:
    match known["loss"]:
        case "kernel":
            return Kernel(known["tau_s"])
        case "count":
            return TraceCount(known["desired_count"], known["undesired_count"])
        case "softmax":
            return Softmax()
        case other:
            raise AssertionError(f"unknown loss {other}")


def check_loss(case: Case, known: dict[str, Any]) -> None:
    out = given(case, "out").requires_grad_()
    loss = scored(case, known, out)
    loss.backward()
    assert out.grad is not None
    close(out.grad, case, "grad_out")


def scored(case: Case, known: dict[str, Any], out: Tensor) -> Tensor:
    """The loss of an output, compared; so is the kernel loss's target."""
    measure, y = criterion(known), torch.from_numpy(case["labels"])
    loss = measure(out, y, readout=Readout("sum"))
    close(loss, case, "loss", torch.from_numpy(case["loss"]))
    if isinstance(measure, Kernel):
        wanted = torch.zeros(out.shape, dtype=out.dtype)
        wanted[:, torch.arange(len(y)), y] = measure.target(len(out)).to(out.dtype)[:, None]
        close(wanted, case, "target")
    return loss


def synapse(known: dict[str, Any], weight: np.ndarray) -> nn.Linear | nn.Conv2d:
    w = torch.from_numpy(weight)
    if known["type"] == "linear":
        made: nn.Linear | nn.Conv2d = nn.Linear(w.shape[1], w.shape[0], bias=False)
    else:
        w = w.squeeze(-1)
        made = nn.Conv2d(
            w.shape[1],
            w.shape[0],
            w.shape[2],
            known.get("stride", 1),
            known.get("padding", 0),
            bias=False,
        )
    made.weight = nn.Parameter(w.clone())
    return made


def check_layer(case: Case, known: dict[str, Any]) -> None:
    made = neuron(known, known["layer"]["threshold"])
    layer = Layer(synapse(known["layer"], case["W"]), None, made)
    currents: list[Tensor] = []
    made.register_forward_pre_hook(lambda module, args: currents.append(args[0].detach()))
    x = given(case, "x").requires_grad_()
    out = layer(x)
    close(currents[0], case, "I")
    u, d = potentials(made, currents[0])
    close(u, case, "u")
    close(d, case, "delta_u")
    assert torch.equal(flat(made.spikes(out.detach())), given(case, "spikes"))
    close(out, case, "a")
    out.backward(given(case, "grad_a").view_as(out))
    weight = layer.synapse.weight
    assert x.grad is not None and isinstance(weight, Tensor) and weight.grad is not None
    close(weight.grad, case, "gW", torch.from_numpy(case["gW"]).view(weight.shape))
    close(x.grad, case, "grad_x")


def network(case: Case, known: dict[str, Any]) -> tuple[nn.Sequential, dict[int, nn.Module]]:
    """The network, and its part for each index of a layer in the file."""
    made: list[nn.Module] = []
    part: dict[int, nn.Module] = {}
    dense = case["x"].shape[2:4] == (1, 1)
    for i, layer in enumerate(known["layers"]):
        if layer["type"] == "pooling":
            part[i] = Pool(
                "sum", layer["kernel_size"], gain=layer.get("theta", known.get("theta", 1.1))
            )
        else:
            if layer["type"] == "linear" and not dense:
                made.append(nn.Flatten(2))
                dense = True
            weights = synapse(layer, case[f"W{i}"])
            part[i] = Layer(weights, None, neuron(known, layer["threshold"]))
        made.append(part[i])
    return nn.Sequential(*made), part


def check_net(case: Case, known: dict[str, Any]) -> None:
    net, part = network(case, known)
    outputs: dict[int, Tensor] = {}
    currents: dict[int, Tensor] = {}
    for i, module in part.items():
        module.register_forward_hook(lambda m, args, out, i=i: outputs.__setitem__(i, out))
        if isinstance(module, Layer):
            module.neuron.register_forward_pre_hook(
                lambda m, args, i=i: currents.__setitem__(i, args[0].detach())
            )
    x = given(case, "x").requires_grad_()
    a_in = PSC(known["T"], static=False, tau_s=known["tau_s"])(x)
    a_in.retain_grad()
    close(a_in, case, "a_in")
    out = net(a_in)
    out.retain_grad()
    for i, module in part.items():
        close(outputs[i], case, f"a{i}")
        if isinstance(module, Layer) and isinstance(module.neuron, PSCLIF):
            spikes = flat(module.neuron.spikes(outputs[i].detach()))
            assert torch.equal(spikes, given(case, f"spikes{i}"))
            close(potentials(module.neuron, currents[i])[0], case, f"u{i}")
    close(Readout("sum")(out), case, "readout", torch.from_numpy(case["readout"]))
    scored(case, known, out).backward()
    assert out.grad is not None and a_in.grad is not None and x.grad is not None
    close(out.grad, case, "grad_out")
    close(a_in.grad, case, "grad_a_in")
    close(x.grad, case, "grad_x")
    compare_weights(part, case, "gW{}", lambda weight: weight.grad)
    if known.get("static"):
        check_static(case, known)
    if "train_steps" in known:
        check_training(case, known)


def compare_weights(part: dict[int, nn.Module], case: Case, name: str, of) -> None:
    for i, module in part.items():
        if isinstance(module, Layer):
            weight = module.synapse.weight
            close(
                of(weight),
                case,
                name.format(i),
                torch.from_numpy(case[name.format(i)]).view(weight.shape),
            )


def check_static(case: Case, known: dict[str, Any]) -> None:
    """A static input, whose first synapse is computed once, gives the same."""
    net, part = network(case, known)
    image = given(case, "x")[0]
    out = net(PSC(known["T"], static=True, tau_s=known["tau_s"])(image))
    close(out, case, f"a{len(part) - 1}")
    scored(case, known, out).backward()
    compare_weights(part, case, "gW{}", lambda weight: weight.grad)


def check_training(case: Case, known: dict[str, Any]) -> None:
    """Weights after each step of AdamW on the same batch, losses, and norms before clipping."""
    net, part = network(case, known)
    rule = TSSL(weight_clip=known["weight_clip"])
    x = PSC(known["T"], static=False, tau_s=known["tau_s"])(given(case, "x"))
    y, measure = torch.from_numpy(case["labels"]), criterion(known)
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=known["lr"],
        betas=tuple(known["betas"]),
        eps=known["eps"],
        weight_decay=known["weight_decay"],
    )
    losses, norms = [], []
    for step in range(known["train_steps"]):
        optimizer.zero_grad()
        loss = measure(net(x), y, readout=Readout("sum"))
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), known["clip_norm"]))
        losses.append(loss.detach())
        optimizer.step()
        with torch.no_grad():
            rule.constrain(net)
        compare_weights(part, case, f"W{{}}_step{step + 1}", lambda weight: weight)
    close(
        torch.stack(losses),
        case,
        "train_losses",
        torch.from_numpy(case["train_losses"]).to(losses[0].dtype),
    )
    close(
        torch.stack(norms),
        case,
        "train_grad_norms",
        torch.from_numpy(case["train_grad_norms"]).to(norms[0].dtype),
    )
    assert len(list(layers(net))) == sum(isinstance(m, Layer) for m in part.values())


def check_dropout(case: Case, known: dict[str, Any]) -> None:
    """The structure of the masks: what shares a draw, in the file and in ours."""
    torch.manual_seed(0)
    for name, share in (("conv", "row"), ("lin", "row"), ("lin", "element")):
        given_out = given(case, f"y_{name}")
        for mask in (given_out, Dropout(known["p"], share)(given(case, f"x_{name}"))):
            kept = torch.full_like(mask, 1 / (1 - known["p"]))
            torch.testing.assert_close(mask, torch.where(mask == 0, mask, kept))
            assert torch.equal(mask, mask[:1].expand_as(mask)), "not the same at every step"
            if name == "conv":
                assert torch.equal(mask, mask[..., :1].expand_as(mask)), "not the same over a row"
            assert len(mask.unique()) == 2
    free = Dropout(known["p"], "element")(torch.ones(2, 3, 4, 5, 6))
    assert not torch.equal(free, free[..., :1].expand_as(free))
