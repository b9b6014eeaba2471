"""Golden arrays of SEW ResNet: single neurons with their gradients."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from snnrun.neuron import IF, PLIF, Neuron
from snnrun.surrogate import ATan, Sigmoid, Surrogate

SYSTEM = "sew_resnet"
SURROGATES = {"atan": ATan, "sigmoid": Sigmoid}
NEURONS = ("neuron_if", "neuron_plif")
KINDS = ("neuron_", "sew_", "spiking_", "resnetn", "full_net")


def meta(case: dict[str, np.ndarray]) -> dict:
    return json.loads(str(case["meta"]))


def is_mine(case: dict[str, np.ndarray]) -> bool:
    return "meta" in case and str(meta(case).get("kind")).startswith(KINDS)


def lacks(case: dict[str, np.ndarray]) -> str | None:
    """What a case needs that is not built yet."""
    known = meta(case)
    if known["kind"] not in NEURONS:
        return known["kind"]
    if known.get("surrogate", "atan") not in SURROGATES:
        return known["surrogate"]
    return None


def built(case: dict[str, np.ndarray]) -> Iterator[str]:
    if not lacks(case):
        yield from ("float64", "float32")


def not_built(case: dict[str, np.ndarray]) -> Iterator[str]:
    if missing := lacks(case):
        yield missing


def neuron_of(case: dict[str, np.ndarray]) -> Neuron:
    known = meta(case)
    surrogate: Surrogate = SURROGATES[known.get("surrogate", "atan")](known["alpha"])
    soft = known["v_reset"] is None
    switches = {
        "threshold": known["v_threshold"],
        "reset": "soft" if soft else "hard",
        "reset_value": 0.0 if soft else known["v_reset"],
        "detach_reset": known["detach_reset"],
    }
    if known["kind"] == "neuron_if":
        return IF(surrogate, **switches)
    neuron = PLIF(surrogate, tau=known["init_tau"], **switches).double()
    assert neuron.w is not None
    with torch.no_grad():
        neuron.w.copy_(torch.from_numpy(case["w.w"]))
    return neuron


@pytest.mark.parametrize("how", ["whole sequence", "steps"])
def test_neuron(case, part, how):
    """Spikes, potentials after the reset, and gradients of sum(spikes * grad_out)."""
    known, dtype = meta(case), getattr(torch, part)
    if part == "float32" and not known.get("margin", 0) > 1e-4:
        pytest.skip(f"float32: the margin {known.get('margin')} is not above 1e-4")
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if part == "float64" else {"rtol": 1e-4, "atol": 1e-6}
    neuron = neuron_of(case).to(dtype)
    x = torch.from_numpy(case["in.x"]).to(dtype).requires_grad_()
    if how == "steps":
        state, out, potentials = neuron.init_state(x[0]), [], []
        for x_t in x.unbind(0):
            s, state = neuron.step(x_t, state)
            out.append(s)
            potentials.append(state[0])
        spikes = torch.stack(out)
        v = torch.stack(potentials).detach().numpy()
        np.testing.assert_allclose(v, case["out.v"], **tolerance)
    else:
        spikes = neuron(x)
    np.testing.assert_array_equal(spikes.detach().numpy(), case["out.spikes"])
    (spikes * torch.from_numpy(case["in.grad_out"]).to(dtype)).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), case["grad.x"], **tolerance)
    gradients = {f"grad.{name}": p.grad for name, p in neuron.named_parameters()}
    assert set(gradients) == {name for name in case if name.startswith("grad.")} - {"grad.x"}
    for name, gradient in gradients.items():
        assert gradient is not None
        assert gradient.shape == case[name].shape
        np.testing.assert_allclose(gradient.numpy(), case[name], **tolerance)


def test_not_built_yet(case, key):
    pytest.skip(f"{key}: not built yet")
