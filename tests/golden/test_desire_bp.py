"""Golden arrays of desire backpropagation: samples in turn, by arrays and by the compiled kernels."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnrun.encoder import Integrate
from snnrun.metric import Tally
from snnrun.model import Layer
from snnrun.neuron import DesireLIF
from snnrun.rule import DesireBP
from snnrun.rule.desire_engine import Arrays, Batch, Events
from snnrun.surrogate import ATan

SYSTEM = "desire_bp"
TOLERANCE = {"float64": 1e-7, "float32": 1e-5}
Case = dict[str, np.ndarray]


def meta(case: Case) -> dict[str, Any]:
    return json.loads(str(case["meta"]))


def is_mine(case: Case) -> bool:
    return "meta" in case and {"error_margin", "desire_hidden", "desire_out"} <= set(meta(case))


def built(case: Case) -> Iterator[str]:
    return (f"{how}-{dtype}" for how in ("arrays", "events") for dtype in TOLERANCE)


def not_built(case: Case) -> Iterator[str]:
    return iter(())


def test_case(case, part):
    how, _, dtype = part.partition("-")
    known, real = meta(case), getattr(torch, dtype)
    steps, margin = known["T"], known["error_margin"]
    count = sum(f"w{i}" in case for i in range(100))
    weights = [torch.tensor(case[f"w{i}"], dtype=real) for i in range(count)]
    chain = [layer(w, known) for w in weights]
    rule = DesireBP(margin / steps, known["desire_out"], known["desire_hidden"])
    assert rule._target(steps) == steps - margin
    engine = {"arrays": Arrays, "events": Events}[how](
        chain, steps - margin, rule.output_desire, rule.hidden_desire
    )
    drops = [known["dropout_in"], *[known["dropout_hidden"]] * (count - 1)]
    images = torch.from_numpy(case["images"]).flatten(1).to(real)
    labels = torch.from_numpy(case["labels"])
    for n in range(len(labels)):
        sample = f"s{n}_"
        source = Integrate(steps)(images[n : n + 1])
        kept = [
            torch.from_numpy(case[f"{sample}mask{i}"])[None].bool() for i in ("_in", *range(count))
        ]
        same(source[:, 0] * kept[0], case[f"{sample}spikes_in"][:-1])
        before = [w.clone() for w in weights]
        batch = Batch(source, labels[n : n + 1], drops, kept)
        done = engine(weights, batch, weights, known["lr_effective"])
        for i, one in enumerate(done):
            same(one.spikes[:, 0], case[f"{sample}spikes{i}"][1:])
            same(one.spikes[:, 0].sum(0), case[f"{sample}counts{i}"])
            on, sign = (case[f"{sample}desire_{name}{i}"] for name in ("on", "sign"))
            assert one.desire is not None
            same(one.desire[0], (on * sign * case[f"{sample}mask{i}"]).astype(int))
            found = (weights[i] - before[i]).numpy()
            np.testing.assert_allclose(
                found, case[f"{sample}dw{i}"], rtol=0, atol=TOLERANCE[dtype], err_msg=f"{n} {i}"
            )
        tally = Tally(weights[-1].shape[0], ties="wrong")
        tally.update(torch.tensor(0.0), done[-1].spikes.sum(0), labels[n : n + 1])
        assert tally.compute()["acc"] == 100 * case[f"{sample}correct"].item()


def layer(weight: Tensor, known: dict[str, Any]) -> Layer:
    synapse = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    synapse.weight = nn.Parameter(weight.clone())
    return Layer(synapse, None, DesireLIF(ATan(), known["decay"], known["threshold"]))


def same(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.numpy(), expected)
