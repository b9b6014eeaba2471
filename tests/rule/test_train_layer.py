"""A network against the published equations written out neuron by neuron, and kernels against arrays."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.loss import CountMargin
from snnrun.model import MLP, Recurrent, layers
from snnrun.neuron import RefractoryLIF, carry, scan
from snnrun.neuron.kernel import Fused
from snnrun.readout import SpikingReadout
from snnrun.rule import STRSBP
from snnrun.rule.lateral import Reservoir
from snnrun.rule.train_layer import TrainLayer
from snnrun.surrogate import ATan

STEPS, INPUTS, CLASSES = 60, 7, 3
TAU_M, TAU_S, REST = 20.0, 4.0, 2
COUNTS = (12.0, 2.0, 1.0)  # of the right class, of the others, margin
Array = np.ndarray


# --- plainly: one sample, one neuron after the other


def fire(weight: Array, inner: Array, source: Array, threshold: float) -> Array:
    out = np.zeros((len(source), len(weight)))
    v, q, c = (np.zeros(len(weight)) for _ in range(3))
    for t in range(1, len(source)):
        for i in range(len(weight)):
            v[i] -= v[i] / TAU_M
            q[i] -= q[i] / TAU_S
            q[i] += weight[i] @ source[t - 1] + inner[i] @ out[t - 1]
            v[i] += q[i] / TAU_S
            if c[i] > 0:
                v[i], c[i] = 0, c[i] - 1
            if v[i] > threshold - 1e-6:
                out[t, i], v[i], c[i] = 1, 0, REST
    return out


def effect(pre: Array, post: Array) -> float:
    total = p = z = c = 0.0
    for t in range(len(pre)):
        p += -p / TAU_S + (pre[t - 1] if t else 0)
        z += -z / TAU_M + p / TAU_S
        if c > 0:
            z, c = 0.0, c - 1
        if post[t]:
            total, z, c = total + z, 0.0, REST
    return total


def ratio(pre: Array, post: Array) -> float:
    return effect(pre, post) / pre.sum() if pre.any() and post.any() else 0.5


def slope(table: Array, pre: Array, o: float) -> float:
    c = table[min(max(int(pre.sum()), 1), len(table)) - 1]
    return 4 * c[0] * o**3 + 3 * c[1] * o**2 + 2 * c[2] * o + c[3]


def plainly(net: Any, source: Array, label: int, weight: float, quirks: str) -> list[Array]:
    """The gradients of a sample, layer by layer, weights of synapses and those inside layers."""
    chain, trains, inners = [layer for _, layer in layers(net)], [source], []
    for layer in chain:
        size = layer.synapse.out_features
        inner = getattr(layer.recurrent, "weight", torch.zeros(size, size)).detach().numpy()
        inners.append(inner)
        w = layer.synapse.weight.detach().numpy()
        trains.append(fire(w, inner, trains[-1], layer.neuron.threshold))
    wanted = np.where(np.arange(CLASSES) == label, COUNTS[0], COUNTS[1])
    error = trains[-1].sum(0) - wanted
    delta = weight * np.where(abs(error) > COUNTS[2], error, 0)
    found = []
    for place in range(len(chain) - 1, -1, -1):
        layer, inner, pre, post = chain[place], inners[place], trains[place], trains[place + 1]
        w, table = layer.synapse.weight.detach().numpy(), layer.table.numpy()
        size, theta = len(w), layer.neuron.threshold
        factor = np.ones(size)
        if layer is chain[-1]:
            for j in range(size):
                d = [(post[:, n].any() or n == label) / theta for n in range(size)]
                others = [n for n in range(size) if n != j]
                # r_jl is that of the train of j on the neuron l
                loop = sum(
                    ratio(post[:, j], post[:, n]) * ratio(post[:, n], post[:, j]) * d[n] * d[j]
                    for n in others
                )
                factor[j] = 1 / (1 - chain[-1].recurrent.strength ** 2 * loop)
            if not post[:, label].any():
                post = post.copy()
                every = STEPS // int(COUNTS[0])
                post[every::every, label] = 1
        reads = isinstance(layer.recurrent, Reservoir)
        bottom = np.ones(size)
        for i in range(size):
            o = post[:, i].sum()
            if reads:
                o = min(max(o, 1), len(table))
                b = sum(inner[i, p] * slope(table, post[:, p], o) for p in range(size))
            else:
                b = 0
            b += sum(w[i, j] * slope(table, pre[:, j], o) for j in range(len(w[0])))
            b = 1 - b / theta
            if reads and abs(b) < 1e-4:
                b = math.copysign(1e-4, b)
            bottom[i] = b if reads or o else 1
        d = delta / theta
        each = [[effect(pre[:, j], post[:, i]) for j in range(len(w[0]))] for i in range(size)]
        grad = (d / bottom * factor)[:, None] * np.array(each)
        phi = w * [[ratio(pre[:, j], post[:, i]) for j in range(len(w[0]))] for i in range(size)]
        if reads:
            exists = inner != 0
            mutual = [[effect(post[:, p], post[:, i]) for p in range(size)] for i in range(size)]
            lateral = (d / bottom)[:, None] * np.array(mutual) * exists
            share = [[ratio(post[:, p], post[:, i]) for p in range(size)] for i in range(size)]
            omega = -np.array(share) * inner / theta
            omega[np.arange(size), np.arange(size)] = bottom
            if quirks == "clean":
                sent = np.linalg.solve(omega, phi)
            else:
                lateral[np.arange(size), np.arange(size)] = 0
                rows = phi.ravel().reshape(phi.shape[::-1]).T
                sent = np.linalg.solve(omega.T, rows).T.ravel().reshape(phi.shape)
            found.append(lateral)
            delta = d @ sent
        else:
            delta = (d / bottom) @ phi
        found.append(grad)
    return found[::-1]


# --- the same by the rule


def network(spec: str, kernel: Any, quirks: str) -> tuple[STRSBP, nn.Module]:
    torch.manual_seed(3)
    rule = STRSBP(
        grid=[1, 2, 2], encouragement=COUNTS[0], quirks=quirks, inhibition=0.7, table_rows=12
    )  # pyright: ignore[reportArgumentType]
    neuron = lambda channels: RefractoryLIF(ATan(), TAU_M, TAU_S, 0.5, refractory=REST)  # noqa: E731
    head = SpikingReadout("sum", neuron).head
    net = rule.adapt(Recurrent(neuron, lambda c: None, head, (INPUTS,), CLASSES, spec=spec))
    generator = torch.Generator().manual_seed(1)
    for _, layer in layers(net):
        assert isinstance(layer, TrainLayer)
        layer.neuron.kernel = kernel
        if isinstance(layer.recurrent, Reservoir):
            layer.recurrent.connected.copy_(torch.rand(4, 4, generator=generator) < 0.7)
            drawn = torch.rand(4, 4, generator=generator) - 0.5
            layer.recurrent.weight.data = drawn * layer.recurrent.connected
            assert layer.recurrent.weight.diagonal().any()
        layer.synapse.weight.data += 0.3
        coefficients = torch.rand(12, 5, generator=generator, dtype=torch.float64) - 0.4
        layer.table = coefficients * torch.tensor([1e-5, 1e-4, 1e-3, 1e-2, 1.0])
    net.head.synapse.weight.data[1] -= 1  # a class that never fires
    return rule, net.double()


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(STEPS, size, INPUTS, generator=generator) < 0.15).double()
    x[:, :, -1] = 0
    return x, torch.arange(size) % CLASSES


@pytest.mark.parametrize("quirks", ["clean", "reference"])
@pytest.mark.parametrize("kernel", [Fused(), scan])
@pytest.mark.parametrize("spec", ["5-R4", "4-R4-5", "R4"])
def test_gradients_of_a_network_neuron_by_neuron(spec, kernel, quirks):
    _, net = network(spec, kernel, quirks)
    x, y = batch()
    share = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    net.head.right = nn.functional.one_hot(y, CLASSES).bool()
    net.head.share = share
    out = net(x)
    CountMargin(*COUNTS)(out, y, readout=lambda out: out.sum(0)).backward()
    whole = None
    for b in range(len(y)):
        found = plainly(net, x[:, b].numpy(), int(y[b]), float(share[b]), quirks)
        whole = found if whole is None else [w + f for w, f in zip(whole, found, strict=True)]
    given = [
        p.grad
        for _, layer in layers(net)
        for p in (layer.synapse.weight, getattr(layer.recurrent, "weight", None))
        if isinstance(p, nn.Parameter)
    ]
    assert whole is not None and len(given) == len(whole)
    fires = out.any(0)[net.head.right]
    assert fires.any() and not fires.all(), "some labels fire and some do not"
    for one, other in zip(given, whole, strict=True):
        expected = other / len(y)
        assert abs(expected).max() > 1e-3
        np.testing.assert_allclose(one.numpy(), expected, rtol=0, atol=1e-9 * abs(expected).max())


def test_a_network_fires_as_its_parts_do_step_by_step():
    """Compiled, through the neuron's own kernel, and in chunks."""
    x, _ = batch()
    _, net = network("5-R4", Fused(), "clean")
    _, plain = network("5-R4", scan, "clean")
    out = net(x)
    assert out.any() and torch.equal(out, plain(x))
    with carry(net):
        assert torch.equal(torch.cat([net(chunk) for chunk in x.split([1, 20, 39])]), out)


def test_without_errors_nothing_is_learned():
    _, net = network("5-R4", Fused(), "clean")
    x, _ = batch()
    out = net(x)
    (out * 0).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("size", [0.2, 4.0])  # an iteration comes to rest, or does not
def test_the_solve(size, monkeypatch):
    torch.manual_seed(0)
    neuron = RefractoryLIF(ATan())
    reservoir = Reservoir(torch.rand(30, 30) < 0.3).double()
    base = MLP(lambda c: neuron, lambda c: None, SpikingReadout("sum").head, (5,), 3, spec="30")
    layer = TrainLayer(base.body[0])
    layer.recurrent = reservoir
    _, target, source = reservoir.ways()
    coupling = torch.randn(3, len(target), dtype=torch.float64) * size * (target != source)
    bottom = torch.rand(3, 30, dtype=torch.float64) + 0.5
    right = torch.randn(3, 30, dtype=torch.float64)
    dense = torch.diag_embed(bottom)
    for b in range(3):
        for k in range(len(target)):
            dense[b, source[k], target[k]] -= coupling[b, k]
    calls = []
    solve = torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda *a: calls.append(1) or solve(*a))
    y = layer.solve(bottom, coupling / (30 if size < 1 else 1), right)
    assert bool(calls) == (size > 1)
    if size < 1:
        dense = torch.diag_embed(bottom) + (dense - torch.diag_embed(bottom)) / 30
    torch.testing.assert_close(y, solve(dense, right), rtol=1e-11, atol=1e-12)
