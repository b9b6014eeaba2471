"""Golden arrays of STDBP: times and gradients of dense networks, convolutions and pools, by loops and arrays."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.loss import FirstSpike as Loss
from snnrun.metric import Tally
from snnrun.model import Layer, Pool
from snnrun.neuron import RelPSP
from snnrun.neuron.first_spike import FirstSpike
from snnrun.readout import FirstSpikeReadout

SYSTEM = "stdbp"
TOLERANCE = 1e-9  # of the largest entry
KERNELS = {"loops": FirstSpike(), "arrays": FirstSpike("scan")}
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    return "t_in" in case and ("causal1" in case or {"K", "t_out"} <= case.keys())


def built(case: Case) -> Iterator[str]:
    return iter(KERNELS)


def not_built(case: Case) -> Iterator[str]:
    return iter(())


def test_case(case, part):
    check = conv if meta(case)["kind"] == "conv" else dense
    check(case, meta(case), KERNELS[part])


def layer(synapse: nn.Linear | nn.Conv2d, weight: np.ndarray, threshold: float, kernel: Any):
    synapse.weight = nn.Parameter(torch.from_numpy(weight))
    neuron = RelPSP(threshold)
    neuron.kernel = kernel
    return Layer(synapse, None, neuron), synapse.weight


def dense(case: Case, known: dict[str, Any], kernel: FirstSpike) -> None:
    times = [torch.from_numpy(case["t_in"])[None, None].requires_grad_()]
    weights = []
    for place in range(sum(f"W{i}" in case for i in range(100))):
        outputs, inputs = case[f"W{place}"].shape
        synapse = nn.Linear(inputs, outputs, bias=False)
        made, weight = layer(synapse, case[f"W{place}"], known["threshold"], kernel)
        out = made(times[-1])
        out.retain_grad()
        times.append(out)
        weights.append(weight)
        close(out[0, 0], case[f"t{place + 1}"])
        caused = (times[-2][0, 0] < out[0, 0, :, None]) & out[0, 0, :, None].isfinite()
        np.testing.assert_array_equal(caused.numpy(), case[f"causal{place + 1}"])
    label = torch.from_numpy(case["label"])[None]
    readout = FirstSpikeReadout()
    loss = Loss(known["t_max"])(times[-1], label, readout=readout)
    loss.backward()
    close(loss, case["loss"])
    silenced = torch.where(times[-1].isinf(), known["t_max"], times[-1])
    close((-silenced).softmax(-1)[0, 0], case["prob"])
    close(times[0].grad, case["grad_t_in"])
    for place, weight in enumerate(weights):
        close(times[place + 1].grad, case[f"grad_t{place + 1}"])
        close(weight.grad, case[f"gW{place}"])
    tally = Tally(out.shape[-1])
    tally.update(loss, readout(out.detach()), label)
    assert tally.compute()["acc"] == 100 * (np.argmin(case[f"t{len(weights)}"]) == case["label"])


def conv(case: Case, known: dict[str, Any], kernel: FirstSpike) -> None:
    outputs, inputs, *size = case["K"].shape
    synapse = nn.Conv2d(inputs, outputs, size, padding=known["padding"], bias=False)  # pyright: ignore
    made, weight = layer(synapse, case["K"], known["threshold"], kernel)
    times = torch.from_numpy(case["t_in"])[None, None].requires_grad_()
    out = made(times)
    close(out[0, 0], case["t_out"])
    given = torch.from_numpy(case["grad_t_out"])[None, None]
    out.backward(given, retain_graph=True)
    close(weight.grad, case["gK"])
    close(times.grad, case["grad_t_in"])
    source = out.detach().requires_grad_()
    pooled = Pool("min", 2)(source)
    close(pooled[0, 0], case["t_pool"])
    pooled.backward(torch.from_numpy(case["grad_t_pool"])[None, None])
    close(source.grad, case["grad_t_out_from_pool"])


def close(found: Tensor | None, expected: np.ndarray) -> None:
    assert found is not None
    got = found.detach().numpy().reshape(expected.shape)
    silent = np.isinf(expected)
    np.testing.assert_array_equal(np.isinf(got), silent)
    finite = np.where(silent, 0, expected)
    scale = np.abs(finite).max(initial=1e-300)
    np.testing.assert_allclose(np.where(silent, 0, got), finite, rtol=0, atol=TOLERANCE * scale)


def test_a_wrong_array_is_seen():
    with pytest.raises(AssertionError):
        close(torch.tensor([1.0, 2.0]), np.array([1.0, 2.0 + 1e-8]))
