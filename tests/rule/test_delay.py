"""Synapses that take a step of time."""

import torch

from snnrun.neuron import carry
from snnrun.rule.delay import Delay


def test_a_delay_streams():
    x = torch.rand(6, 2, 3)
    delay = Delay()
    whole = delay(x)
    assert not whole[0].any() and torch.equal(whole[1:], x[:-1])
    with carry(delay):
        assert torch.equal(torch.cat([delay(x[:1]), delay(x[1:4]), delay(x[4:])]), whole)
