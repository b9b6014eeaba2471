"""Synapses inside a layer."""

import torch

from snnrun.rule.lateral import Inhibition, Reservoir, ways


def test_connections_by_the_neuron_that_they_leave():
    connected = torch.tensor([[0, 1, 0], [1, 1, 0], [1, 0, 0]]).bool()
    start, target, source = ways(connected)
    assert start.tolist() == [0, 2, 4, 4]
    assert target.tolist() == [1, 2, 0, 1] and source.tolist() == [0, 0, 1, 1]
    reservoir = Reservoir(connected)
    assert reservoir.fan_out.tolist() == [2, 2, 0]
    assert torch.equal(reservoir.weight != 0, connected)
    reservoir.load_state_dict({"weight": torch.eye(3), "connected": torch.eye(3).bool()})
    assert reservoir.ways().target.tolist() == [0, 1, 2]


def test_all_inhibit_all_others():
    inhibition, x = Inhibition(4, 0.5), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert inhibition(x).tolist() == [[-0.5, -1.0, -0.5, -1.0]]
    start, target, source = inhibition.ways()
    assert start.tolist() == [0, 3, 6, 9, 12] and len(target) == 12 and (target != source).all()
    assert (Inhibition(2, 0.1, torch.float64).weight == torch.eye(2).double() / 10 - 0.1).all()
    assert not inhibition.state_dict() and not [*inhibition.parameters()]
