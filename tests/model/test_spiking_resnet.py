"""The ResNet with its neurons behind the sums."""

import pytest
import torch
from torch import nn

from snnrun.model import Layer, SpikingResNet
from snnrun.neuron import IF, Neuron
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan


def net(depth: int, in_shape=(3, 32, 32), classes: int = 10, **more) -> SpikingResNet:
    head = lambda features, classes: Layer(nn.Linear(features, classes), None, None)  # noqa: E731
    return SpikingResNet(
        lambda c: IF(ATan()), BatchNorm, head, in_shape, classes, depth=depth, **more
    )


@pytest.mark.parametrize(
    ("depth", "neurons", "parameters"),
    [
        *((18, 17, 11_689_512), (34, 33, 21_797_672), (50, 49, 25_557_032)),
        *((101, 100, 44_549_160), (152, 151, 60_192_808), (20, 19, 272_474 + 65 * 990)),
    ],
)
def test_layers_and_parameters(depth, neurons, parameters):
    with torch.device("meta"):
        network = net(depth, (3, 224, 224), 1000)
    assert sum(isinstance(m, Neuron) for m in network.modules()) == neurons
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_every_block_gives_spikes_and_zero_init_lets_them_through():
    torch.manual_seed(0)
    for zero in (False, True):
        network, outs = net(20, zero_init_residual=zero), []
        for stage in network.stages:
            for block in stage:
                block.register_forward_hook(lambda m, args, out, seen=outs: seen.append(out))
        x = torch.rand(2, 2, 3, 32, 32)
        network(x)
        assert len(outs) == 9 and all(set(out.unique().tolist()) <= {0.0, 1.0} for out in outs)
        assert torch.equal(outs[0], outs[2]) == zero
