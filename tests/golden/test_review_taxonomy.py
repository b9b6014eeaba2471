"""Golden arrays of the review's taxonomy: neurons, normalisations, losses and surrogates."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from snnrun.loss import TET, CrossEntropy, RateMSE
from snnrun.neuron import ALIF, LIF, PLIF, CubaLIF, Neuron, scan
from snnrun.norm import BNTT, BatchNorm
from snnrun.readout import Readout
from snnrun.surrogate import (
    ATan,
    Dspike,
    Erf,
    FastSigmoid,
    Gaussian,
    Rectangle,
    Sigmoid,
    SoftSign,
    Surrogate,
    Triangle,
)

SYSTEM = "review_taxonomy"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
Case = dict[str, np.ndarray]


class Watched(ATan):
    """Remembers how near the potential came to the threshold."""

    margin = float("inf")

    def forward(self, v: Tensor, strict: bool = False) -> Tensor:
        self.margin = min(self.margin, v.abs().min().item())
        return super().forward(v, strict)


def lif(case: Case, name: str, surrogate: Surrogate) -> Neuron:
    """The README's four LIF neurons; a constant that the case states wins."""
    tau = case.get(f"{name}_tau", 3.0 if name == "lif_vreset" else 2.0)
    reset_value = case.get(f"{name}_v_reset", -0.2 if name == "lif_vreset" else 0.0)
    return LIF(
        surrogate,
        tau=float(tau),
        reset="soft" if name == "lif_soft" else "hard",
        reset_value=float(reset_value),
        decay_input=name != "lif_nodecay",
    )


def plif(case: Case, name: str, surrogate: Surrogate) -> Neuron:
    neuron = PLIF(surrogate).double()
    assert neuron.w is not None
    with torch.no_grad():
        neuron.w.fill_(case["plif_w"].item())
    return neuron


# of each neuron: how it is built, and where its state is
NEURONS: dict[str, tuple[Callable[[Case, str, Surrogate], Neuron], dict[str, int]]] = {
    "lif_hard": (lif, {"v": 0}),
    "lif_soft": (lif, {"v": 0}),
    "lif_nodecay": (lif, {"v": 0}),
    "lif_vreset": (lif, {"v": 0}),
    "plif": (plif, {"v": 0}),
    "cuba": (lambda case, name, surrogate: CubaLIF(surrogate), {"c": 0, "v": 1}),
    "alif": (lambda case, name, surrogate: ALIF(surrogate), {"v": 0, "a": 1}),
}
SURROGATES: dict[str, Callable[[float], Surrogate]] = {
    "atan": ATan,
    "sigmoid": Sigmoid,
    "rect": lambda alpha: Rectangle(1 / alpha),
    "triangle": Triangle,
    "superspike": FastSigmoid,
    "erf": Erf,
    "softsign": SoftSign,
    "dspike": Dspike,
    "gaussian": Gaussian,
}
LOSSES = ("tet", "mean_ce", "rate_mse")
NORMS = ("bntt", "batch_by_tdbn", "batch_by_tebn")
INPUTS = {
    *("x", "weight", "bias", "p_t", "lam_t", "alpha", "v_th", "gaussian_sigma"),
    *("logits", "labels", "lam", "phi", "grad_logits"),
}
# inputs of cases of which no part is built
IDLE = {"x_membrane", "w1", "w2", "bn_w", "bn_b", "g", "q", "k", "v", "scale", "grad_x_membrane"}
NOT_BUILT = {
    **dict.fromkeys(("klif", "clif", "glif", "psn", "masked_psn", "sliding", "ilif"), "neuron"),
    **dict.fromkeys(("tdbn", "tebn", "tab", "mpbn"), "norm"),
    **dict.fromkeys(("spiking_resnet", "sew_add", "sew_and", "sew_iand", "ms_block"), "block"),
    **dict.fromkeys(("ssa", "sdsa1", "sdsa3", "qk_token", "qk_channel"), "attention"),
}


def is_mine(case: Case) -> bool:
    return "meta" not in case and bool({"x", "logits", "q"} & set(case))


def parts(case: Case) -> dict[str, set[str]]:
    """The parts that a case tests, and the keys that each reads."""
    found: dict[str, set[str]] = {}
    for name, (_, state) in NEURONS.items():
        if f"{name}_s" in case:
            constants = {"plif": {"w"}, "lif": {"tau", "v_reset"}}.get(name.partition("_")[0])
            found[name] = {f"{name}_{k}" for k in {"s", *state, *(constants or ())}}
    if "labels" in case:
        found |= {name: {name} for name in LOSSES if name in case}
    elif "alpha" in case:
        found |= {name: {name} for name in SURROGATES if name in case}
    if "bntt" in case:
        found["bntt"] = {"bntt"}
    for name in ("tdbn", "tebn"):
        if name in case:
            found[f"batch_by_{name}"] = set()
    return found


def built(case: Case) -> Iterator[str]:
    return (f"{name}-{dtype}" for name in parts(case) for dtype in ("float64", "float32"))


def not_built(case: Case) -> Iterator[str]:
    """One word for each part that is not built, and each key that nobody knows."""
    read = set().union(INPUTS, IDLE, *parts(case).values())
    words = {}
    for key in (key for key in case if key not in read):
        fitting = [name for name in NOT_BUILT if key == name or key.startswith(f"{name}_")]
        words[max(fitting, key=len, default=key)] = None
    return iter(words)


def test_part(case, part):
    name, _, dtype = part.partition("-")
    check = (
        neuron
        if name in NEURONS
        else norm
        if name in NORMS
        else loss
        if name in LOSSES
        else derivative
    )
    check(case, name, getattr(torch, dtype))


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: {'not built yet' if key in NOT_BUILT else 'a key unknown to these tests'}")


def tensor(case: Case, name: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(case[name]).to(dtype)


def neuron(case: Case, name: str, dtype: torch.dtype) -> None:
    """Spikes exactly, by steps and by the printed kernel; the states that the case has, of all steps or of the last."""
    build, state_names = NEURONS[name]
    surrogate = Watched()
    layer, printed = build(case, name, surrogate).to(dtype), build(case, name, ATan()).to(dtype)
    layer.kernel = scan
    x = tensor(case, "x", dtype)
    with torch.no_grad():
        out = layer(x)
        if dtype == torch.float32 and surrogate.margin < 1e-5:
            pytest.skip(f"float32: a potential is {surrogate.margin:.1e} from the threshold")
        np.testing.assert_array_equal(out.numpy(), case[f"{name}_s"])
        np.testing.assert_array_equal(printed(x).numpy(), case[f"{name}_s"])
        states, state = [], layer.init_state(x[0])
        for x_t in x.unbind(0):
            _, state = layer.step(x_t, state)
            states.append(state)
    for key, place in state_names.items():
        if f"{name}_{key}" in case:
            expected = case[f"{name}_{key}"]
            steps = np.stack([s[place].numpy() for s in states])
            given = steps if expected.ndim == steps.ndim else steps[-1]
            np.testing.assert_allclose(given, expected, **TOLERANCE)


def norm(case: Case, name: str, dtype: torch.dtype) -> None:
    """BNTT; and batch norm over time through the two norms that only scale it."""
    x = tensor(case, "x", dtype)
    steps, channels = x.shape[0], x.shape[2]
    if name == "bntt":
        layer = BNTT(channels, steps).to(dtype)
        with torch.no_grad():
            layer.weight.copy_(tensor(case, "lam_t", dtype).view(steps, -1))
        y, expected = layer(x), case["bntt"]
    else:
        batch = BatchNorm(channels).to(dtype)
        with torch.no_grad():
            batch.weight.copy_(tensor(case, "weight", dtype))
            batch.bias.copy_(tensor(case, "bias", dtype))
            if name == "batch_by_tdbn":
                batch.weight.mul_(float(case["alpha"] * case["v_th"]))
        y, expected = batch(x), case[name.removeprefix("batch_by_")]
        if name == "batch_by_tebn":
            y = y * tensor(case, "p_t", dtype).view(-1, *[1] * (x.dim() - 1))
    np.testing.assert_allclose(y.detach().numpy(), expected, **TOLERANCE)


def loss(case: Case, name: str, dtype: torch.dtype) -> None:
    """The losses, and the gradient of TET."""
    criterion = {
        "tet": lambda: TET(lam=case["lam"].item(), phi=case["phi"].item()),
        "mean_ce": CrossEntropy,
        "rate_mse": RateMSE,
    }[name]()
    out = tensor(case, "logits", dtype).requires_grad_()
    value = criterion(out, torch.from_numpy(case["labels"]), readout=Readout("mean"))
    np.testing.assert_allclose(value.item(), case[name], **TOLERANCE)
    if name == "tet" and "grad_logits" in case:
        value.backward()
        assert out.grad is not None
        np.testing.assert_allclose(out.grad.numpy(), case["grad_logits"], **TOLERANCE)


def derivative(case: Case, name: str, dtype: torch.dtype) -> None:
    """The derivative itself, and as the gradient of the spike."""
    constant = case["gaussian_sigma" if name == "gaussian" else "alpha"].item()
    surrogate = SURROGATES[name](constant)
    x = tensor(case, "x", dtype).requires_grad_()
    np.testing.assert_allclose(surrogate.derivative(x.detach()).numpy(), case[name], **TOLERANCE)
    surrogate(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), case[name], **TOLERANCE)
