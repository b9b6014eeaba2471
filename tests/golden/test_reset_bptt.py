"""Golden arrays of reset-aware BPTT: neurons under both resets and networks, in all modes. Files have T last."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.encoder import PSC
from snnrun.model import Layer
from snnrun.neuron import PSCLIF
from snnrun.neuron.base import scan
from snnrun.neuron.kernel import choose
from snnrun.rule import ResetBPTT
from snnrun.surrogate import ClippedSigmoid

SYSTEM = "reset_bptt"
MODES = ("none", "leak", "full")
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    return "meta" in case and {"kind", "width", "tau_m", "tau_s"} <= set(meta(case))


def built(case: Case) -> Iterator[str]:
    if meta(case)["kind"] == "neuron":
        yield from (f"{reset}-{mode}" for reset in ("zero", "subtract") for mode in MODES)
    elif meta(case)["kind"] == "net":
        yield from MODES


def not_built(case: Case) -> Iterator[str]:
    if not list(built(case)):
        yield meta(case)["kind"]


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")


def test_case(case, part):
    if meta(case)["kind"] == "neuron":
        check_neuron(case, *part.split("-"))
    else:
        check_net(case, part)


def given(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case[name]).movedim(-1, 0).contiguous()


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    bound = 1e-9 * max(expected.abs().max().item(), 1e-30)
    assert (found.detach() - expected).abs().max().item() <= bound


def neuron(known: dict[str, Any], reset: Any = "zero", **more: Any) -> PSCLIF:
    surrogate = ClippedSigmoid(known["width"])
    return PSCLIF(
        surrogate, known["tau_m"], known["tau_s"], known["threshold"], reset=reset, **more
    )


def check_neuron(case: Case, reset: Any, mode: Any) -> None:
    made = neuron(meta(case), reset)
    own, x = ResetBPTT(mode).kernel(made), given(case, "I").requires_grad_()
    for how in ("auto", "scan"):
        made.kernel = choose(own, how)
        out = made(x)
        assert torch.equal(made.spikes(out.detach()), given(case, f"spikes_{reset}"))
        close(out, given(case, f"a_{reset}"))
        (grad,) = torch.autograd.grad(out, x, given(case, "grad_a"))
        close(grad, given(case, f"grad_I_{reset}_{mode}"))
    state, u = made.init_state(x[0]), []
    for x_t in x.detach():
        u.append(state[0] + (x_t - state[0] / made.tau_m))
        _, state = made.step(x_t, state)
    close(torch.stack(u), given(case, f"u_{reset}"))
    f = made.surrogate.derivative(torch.stack(u) - made.threshold)
    close(f, given(case, f"f_{reset}"))
    if mode != "none":  # what automatic differentiation gives
        plain = neuron(meta(case), reset, detach_reset=mode == "leak")
        for kernel in (PSCLIF.kernel, scan):
            plain.kernel = kernel
            (grad,) = torch.autograd.grad(plain(x), x, given(case, "grad_a"))
            close(grad, given(case, f"grad_I_{reset}_{mode}"))


def check_net(case: Case, mode: Any) -> None:
    known = meta(case)
    made = []
    for i in (0, 1):
        w = torch.from_numpy(case[f"W{i}"])
        synapse = nn.Linear(w.shape[1], w.shape[0], bias=False)
        synapse.weight = nn.Parameter(w)
        layer = Layer(synapse, None, neuron(known))
        layer.neuron.kernel = ResetBPTT(mode).kernel(layer.neuron)
        made.append(layer)
    a_in = PSC(known["T"], static=False, tau_s=known["tau_s"])(given(case, "x"))
    close(a_in, given(case, "a_in"))
    out = a_in
    for i, layer in enumerate(made):
        currents: list[Tensor] = []
        layer.neuron.register_forward_pre_hook(
            lambda module, args, currents=currents: currents.append(args[0].detach())
        )
        out = layer(out)
        close(out, given(case, f"a{i}"))
        assert torch.equal(layer.neuron.spikes(out.detach()), given(case, f"s{i}"))
        state, u = layer.neuron.init_state(currents[0][0]), []
        for x_t in currents[0]:
            u.append(state[0] + (x_t - state[0] / known["tau_m"]))
            _, state = layer.neuron.step(x_t, state)
        close(torch.stack(u), given(case, f"u{i}"))
    loss = (out - given(case, "target")).square().sum() / 2
    close(loss, torch.from_numpy(case["loss"]))
    loss.backward()
    for i, layer in enumerate(made):
        close(layer.synapse.weight.grad, torch.from_numpy(case[f"gW{i}_{mode}"]))
