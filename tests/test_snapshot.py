"""Spikes and potentials of a few neurons, against what the network does without being watched."""

import pytest
import torch
from torch import nn

from snnrun.config import Choices, factory
from snnrun.model import Layer
from snnrun.neuron import IF, LI, LIF, CubaLIF
from snnrun.snapshot import watch_potentials, watch_spikes
from snnrun.surrogate import ATan

T, B = 4, 2


def test_watch_spikes_picks_neurons_evenly():
    """Of five neurons, those that get a current of 1 fire at every step."""
    layer = Layer(nn.Linear(1, 5, bias=False), None, IF(ATan()))
    layer.synapse.weight.data = torch.tensor([[1.0], [0.0], [0.0], [0.0], [1.0]])
    net = nn.Sequential(layer, Layer(nn.Linear(5, 3), None, None))
    spikes, out = watch_spikes(net, torch.ones(T, B, 1), 3)
    assert list(spikes) == ["0"] and out.shape == (T, B, 3)
    assert spikes["0"].shape == (T, B, 3)
    assert spikes["0"][:, 0].tolist() == [[1, 0, 1]] * T
    assert watch_spikes(net, torch.ones(T, B, 1), 100)[0]["0"].shape == (T, B, 5)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("slot", [0, 1])
def test_watch_potentials_are_what_step_leaves(recurrent, slot):
    torch.manual_seed(0)
    neuron = CubaLIF(ATan(), threshold=0.3) if slot else LIF(ATan(), threshold=0.3)
    feedback = nn.Linear(5, 5) if recurrent else None
    layer = Layer(nn.Linear(2, 5), None, neuron, feedback)
    net = nn.Sequential(
        layer, Layer(nn.Linear(5, 3), None, LI(tau=3.0)), Layer(nn.Linear(3, 3), None, None)
    )
    x = torch.randn(T, B, 2)
    kernel, out = neuron.kernel, net(x)
    traces = watch_potentials(net, x, 3)
    assert list(traces) == ["0", "1"] and neuron.kernel is kernel
    assert torch.equal(net(x), out)
    states, state, last = [], neuron.init_state(torch.zeros(1, 5)), torch.zeros(1, 5)
    for x_t in x[:, :1].unbind(0):
        last, state = neuron.step(layer.synapse(x_t) + (feedback(last) if feedback else 0), state)
        states.append(state[slot][0])
    assert traces["0"].neurons.tolist() == [0, 2, 4] and traces["0"].threshold == 0.3
    torch.testing.assert_close(traces["0"].potential, torch.stack(states)[:, [0, 2, 4]])
    assert traces["1"].threshold is None and traces["1"].potential.shape == (T, 3)
    torch.testing.assert_close(
        traces["1"].potential, net[:2](x)[:, 0]
    )  # LI gives out its potential


@pytest.mark.parametrize("option", Choices().options("neuron"))
def test_watch_potentials_of_every_neuron(option):
    """A run must not fail at its very end because of a picture."""
    cfg = Choices().compose([f"neuron={option}"])
    neuron = factory(cfg.neuron)(6)
    net = nn.Sequential(Layer(nn.Linear(3, 6, bias=False), None, neuron))
    x = torch.rand(T, B, 3)
    out = net(x)
    traces = watch_potentials(net, x, 4)
    assert list(traces) == (["0"] if "stepped" in neuron.traits else [])
    assert all(trace.potential.shape == (T, 4) for trace in traces.values())
    assert torch.equal(net(x), out)
