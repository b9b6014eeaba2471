"""Skeletons of a user's own parts: `new`."""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from snnrun.check import request
from snnrun.config import BadRequest, closest

NEURON = '''\
"""A neuron of my own."""

import torch
from snnrun.neuron import Neuron, State
from snnrun.surrogate import Surrogate
from torch import Tensor


class {cls}(Neuron):
    r"""Leaky integrate-and-fire neuron, to be changed.

    $$h_t = d\\, v_{{t-1}} + x_t, \\qquad s_t = H(h_t - \\theta), \\qquad v_t = h_t (1 - s_t)$$

    **Arguments:**

    - `surrogate`: derivative of the Heaviside step used in the backward pass.
    - `decay`: factor d that keeps the potential from step to step.
    - `threshold`: firing threshold.
    """

    traits = frozenset({{"spikes", "stepped", "leaky", "hard_reset"}})

    def __init__(self, surrogate: Surrogate, decay: float = 0.5, threshold: float = 1.0):
        super().__init__()
        self.surrogate, self.decay, self.threshold = surrogate, decay, threshold

    def init_state(self, x: Tensor) -> State:
        return (torch.zeros_like(x),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (v,) = state
        h = self.decay * v + x
        s = self.surrogate(h - self.threshold)
        return s, (h * (1 - s.detach()),)
'''
NEURON_YAML = """\
_target_: {module}.{cls}
surrogate: ${{surrogate}}
decay: 0.5
threshold: 1.0
"""
NEURON_TEST = """\
import sys
from pathlib import Path

import torch
from snnrun.neuron import carry
from snnrun.surrogate import ATan

sys.path.insert(0, str(Path(__file__).parents[1]))  # where {module}.py is
from {module} import {cls}


def test_streaming_equals_whole_sequence():
    neuron, x = {cls}(ATan()), torch.randn(6, 2, 8)
    whole = neuron(x)
    with carry(neuron):
        parts = torch.cat([neuron(chunk) for chunk in x.split(2)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_gradient_is_finite():
    x = torch.randn(6, 2, 8, requires_grad=True)
    {cls}(ATan())(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
"""
RULE = '''\
"""A learning rule of my own."""

from snnrun.rule import Learning, Rule
from torch import Tensor


class {cls}(Rule):
    r"""Surrogate gradients through time with a penalty on large outputs, to be changed.

    $$L = L_{{\\mathrm{{criterion}}}} + \\lambda\\, \\mathrm{{mean}}(o^2)$$

    **Arguments:**

    - `weight`: factor lambda of the penalty.
    """

    needs = frozenset({{"stepped"}})

    def __init__(self, weight: float = 1e-3):
        super().__init__()
        self.weight = weight

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        out = learner(x)
        return learner.score(out, y) + self.weight * out.square().mean()
'''
RULE_YAML = """\
_target_: {module}.{cls}
weight: 1e-3
"""
RULE_TEST = """\
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where {module}.py is
from {module} import {cls}


def test_keeps_its_setting():
    assert {cls}(weight=0.5).weight == 0.5
"""
MODEL = '''\
"""A network of my own."""

import math

from snnrun.model import Layer
from torch import Tensor, nn


class {cls}(nn.Module):
    """Two layers of spiking neurons, to be changed.

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: shape of one step of one sample, and number of classes; the runner passes them.
    - `size`: neurons of the hidden layer.
    """

    traits = frozenset({{"feedforward"}})

    def __init__(self, neuron, norm, head, in_shape: tuple[int, ...], num_classes: int, *, size: int = 128):
        super().__init__()
        self.hidden = Layer(nn.Linear(math.prod(in_shape), size), norm(size), neuron(size))
        self.head = head(size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(2)))
'''
MODEL_YAML = """\
_target_: {module}.{cls}
size: 128
"""
MODEL_TEST = """\
import sys
from pathlib import Path

import torch
from snnrun.neuron import LIF
from snnrun.readout import Readout
from snnrun.surrogate import ATan

sys.path.insert(0, str(Path(__file__).parents[1]))  # where {module}.py is
from {module} import {cls}


def test_gives_one_score_a_class_and_step():
    net = {cls}(lambda channels: LIF(ATan()), lambda channels: None, Readout().head, (1, 8, 8), 10)
    assert net(torch.randn(4, 2, 1, 8, 8)).shape == (4, 2, 10)
"""
KINDS = {
    "neuron": (NEURON, NEURON_YAML, NEURON_TEST),
    "rule": (RULE, RULE_YAML, RULE_TEST),
    "model": (MODEL, MODEL_YAML, MODEL_TEST),
}


def new(words: list[str]) -> int:
    """The verb: write a skeleton, its YAML and its test into the working directory."""
    if len(words) != 2:
        raise BadRequest("Usage: snnrun new neuron|rule|model NAME.")
    kind, name = words
    if kind not in KINDS:
        raise BadRequest(
            f"There is no skeleton of a {kind}.{closest(kind, KINDS)} Kinds are neuron, rule and model."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BadRequest(
            f"NAME must be a Python module name in lower case, such as my_{kind}, got {name!r}."
        )
    choices, _ = request([])
    if name in choices.options(kind):
        raise BadRequest(f"{kind}={name} exists already; choose another name.")
    cls = "".join(word.capitalize() for word in name.split("_"))
    files = [
        Path(f"{name}.py"),
        Path("conf") / kind / f"{name}.yaml",
        Path("tests") / f"test_{name}.py",
    ]
    present = [str(file) for file in files if file.exists()]
    if present:
        raise BadRequest(f"Nothing was written: {', '.join(present)} exists already.")
    if find_spec(name):
        raise BadRequest(f"{name}.py would hide the Python module {name!r}; choose another name.")
    for file, template in zip(files, KINDS[kind], strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(template.format(module=name, cls=cls))
        print(f"wrote {file}")
    print(f"now: snnrun --config-dir conf {kind}={name}")
    return 0
