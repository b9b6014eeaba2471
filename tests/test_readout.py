"""How an output sequence becomes scores, and what the last layer is."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from snnrun.config import Choices, factory, instantiate
from snnrun.neuron import DSRIF, DSRLIF, LI, LIF
from snnrun.norm import BatchNorm
from snnrun.readout import IntegratorReadout, Readout, RepresentationReadout, SpikingReadout
from snnrun.surrogate import ATan

CHOICES = Choices()
OUT = np.random.default_rng(0).normal(size=(5, 6, 4))


def build(option: str, *words: str) -> Readout:
    cfg = CHOICES.compose([f"readout={option}", *words])
    return instantiate(
        cfg.readout, neuron=factory(cfg.readout.neuron), norm=factory(cfg.readout.norm)
    )


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("mean", OUT.mean(0)), ("sum", OUT.sum(0)), ("last", OUT[-1]), ("max", OUT.max(0))],
    ids=["mean", "sum", "last", "max"],
)
@pytest.mark.parametrize("kind", [Readout, SpikingReadout, IntegratorReadout])
def test_reductions(kind, reduce, expected):
    z = kind(reduce)(torch.from_numpy(OUT))
    assert z.shape == (6, 4)
    np.testing.assert_allclose(z.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "max"])
def test_running_is_the_reduction_of_the_first_steps(reduce):
    readout, out = Readout(reduce), torch.from_numpy(OUT)
    expected = torch.stack([readout(out[: t + 1]) for t in range(len(out))])
    torch.testing.assert_close(readout.running(out), expected, rtol=1e-12, atol=1e-12)


def test_a_representation_is_the_average_that_the_heads_neurons_clamp():
    """Weighted for a leaky neuron, as its potential weighs its input; its running form is that of the first steps."""
    out = torch.from_numpy(OUT)
    for neuron in (DSRIF(ATan()), DSRLIF(ATan(), tau=0.5, dt=0.1)):
        readout = RepresentationReadout(neuron=lambda channels, neuron=neuron: neuron)
        head = readout.head(7, 4)
        assert head.neuron is neuron
        weights = np.exp(-0.2 * np.arange(4, -1, -1)) if neuron.decay < 1 else np.ones(5)
        expected = np.tensordot(weights / weights.sum(), OUT, 1)
        np.testing.assert_allclose(readout(out), expected, rtol=1e-12)
        running = torch.stack([readout(out[: t + 1]) for t in range(len(out))])
        torch.testing.assert_close(readout.running(out), running, rtol=1e-12, atol=1e-12)
        assert readout(out.bfloat16()).dtype == (
            torch.float32 if neuron.decay < 1 else torch.bfloat16
        )
        last = RepresentationReadout("last", lambda channels, neuron=neuron: neuron)
        assert last.head(7, 4) and torch.equal(last(out), out[-1])


def test_gradients_of_the_reductions():
    weights = torch.rand(6, 4, dtype=torch.float64)
    best = torch.from_numpy(OUT.max(0) == OUT)
    last = torch.zeros(5, 6, 4, dtype=torch.float64)
    last[-1] = 1
    for reduce, share in (("mean", 0.2), ("sum", 1.0), ("last", last), ("max", best)):
        out = torch.from_numpy(OUT).requires_grad_()
        (Readout(reduce)(out) * weights).sum().backward()
        expected = torch.broadcast_to(weights, (5, 6, 4)) * share
        torch.testing.assert_close(out.grad, expected, rtol=1e-12, atol=0)


def test_unknown_reduction():
    with pytest.raises(ValueError) as error:
        Readout("median")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == "reduce must be mean, sum, last or max, got 'median'."


def test_plain_head():
    head = Readout().head(7, 4)
    assert isinstance(head.synapse, nn.Linear) and isinstance(head.neuron, nn.Identity)
    assert head.norm is None and sum(p.numel() for p in head.parameters()) == 7 * 4 + 4
    x = torch.rand(5, 6, 7)
    torch.testing.assert_close(head(x), head.synapse(x))
    assert Readout(bias=False).head(7, 4).synapse.bias is None


def test_head_with_norm_and_neuron():
    told = []

    def neuron(channels: int) -> LIF:
        told.append(channels)
        return LIF(ATan(), threshold=0.3)

    head = SpikingReadout("sum", neuron, BatchNorm).head(7, 4)
    assert told == [4]
    assert isinstance(head.norm, BatchNorm) and head.norm.weight.shape == (4,)
    out = head(torch.rand(5, 6, 7))
    assert set(out.unique().tolist()) == {0.0, 1.0}


def test_every_head_is_new():
    readout = IntegratorReadout("last", lambda channels: LI())
    one, other = readout.head(7, 4), readout.head(7, 4)
    assert one.neuron is not other.neuron and one.synapse is not other.synapse


@pytest.mark.parametrize("option", CHOICES.options("readout"))
def test_every_option(option):
    """Head and reduction of the YAML: shapes, kind of output, gradients, copies."""
    needed = {"representation": ["neuron=dsr_if"], "first_spike": ["neuron=rel_psp"]}
    readout = build(option, *needed.get(option, []), "neuron.threshold=0.5")
    torch.manual_seed(0)
    head = readout.head(7, 4)
    x = 3 * torch.rand(5, 6, 7)
    out = head(x)
    z = readout(out)
    assert out.shape == (5, 6, 4) and z.shape == (6, 4)
    spiking = "spiking_output" in getattr(readout, "traits", ())
    assert spiking == (set(out.unique().tolist()) == {0.0, 1.0})
    (z * torch.rand(6, 4)).sum().backward()
    for p in head.parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any()
    assert not list(readout.parameters()), "the head belongs to the network"
    for other in (copy.deepcopy(readout), pickle.loads(pickle.dumps(readout))):
        assert torch.equal(other(out), z)
        assert other.head(7, 4).state_dict().keys() == head.state_dict().keys()


def test_reductions_of_the_options():
    out = torch.from_numpy(OUT)
    expected = {
        "mean": OUT.mean(0),
        "sum": OUT.sum(0),
        "last": OUT[-1],
        "representation": OUT.mean(0),
        "spike_rate": OUT.mean(0),
        "spike_count": OUT.sum(0),
        "membrane_last": OUT[-1],
        "membrane_max": OUT.max(0),
    }
    for option, z in expected.items():
        np.testing.assert_allclose(build(option)(out).numpy(), z, rtol=1e-13)


@pytest.mark.parametrize(
    ("option", "reduce"), [("membrane_last", lambda v: v[-1]), ("membrane_max", lambda v: v.max(0))]
)
def test_membrane_readouts_read_a_leaky_sum(option, reduce):
    readout = build(option, "readout.neuron.tau=4")
    head = readout.head(7, 4).double()
    x = torch.rand(5, 6, 7, dtype=torch.float64)
    current = head.synapse(x).detach().numpy()
    v, potentials = np.zeros((6, 4)), []
    for x_t in current:
        v = v + (x_t - v) / 4
        potentials.append(v)
    z = readout(head(x)).detach().numpy()
    np.testing.assert_allclose(z, reduce(np.stack(potentials)), rtol=1e-12)
