"""The ResNet without its shortcuts."""

import torch
from torch import nn

from snnrun.model import Layer, PlainNet
from snnrun.neuron import IF, Neuron
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan


def test_layers_in_a_row():
    head = lambda features, classes: Layer(nn.Linear(features, classes), None, None)  # noqa: E731
    net = PlainNet(lambda c: IF(ATan()), BatchNorm, head, (3, 32, 32), 10, depth=20)
    assert sum(isinstance(m, Neuron) for m in net.modules()) == 19
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 19
    x = torch.rand(2, 2, 3, 32, 32)
    y = net.stem(x)
    for stage in net.stages:
        for block in stage:
            for layer in block.path:
                y = layer(y)
    torch.manual_seed(0)
    assert y.shape == (2, 2, 64, 8, 8)
    torch.testing.assert_close(net.head(y.mean((3, 4))), net(x))
