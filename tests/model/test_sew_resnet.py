"""The spike-element-wise ResNet."""

import pytest
import torch
from torch import nn

from snnrun.model import Layer, SEWResNet
from snnrun.neuron import IF, Neuron
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan


def net(depth: int, in_shape=(3, 32, 32), classes: int = 10, **more) -> SEWResNet:
    head = lambda features, classes: Layer(nn.Linear(features, classes), None, None)  # noqa: E731
    return SEWResNet(lambda c: IF(ATan()), BatchNorm, head, in_shape, classes, depth=depth, **more)


@pytest.mark.parametrize(
    ("depth", "neurons", "parameters"),
    [
        # ImageNet: as published; CIFAR: 9, 15, 21, 27 blocks of two layers, a stem and two shortcuts
        *((18, 20, 11_689_512), (34, 36, 21_797_672), (50, 53, 25_557_032)),
        *((101, 104, 44_549_160), (152, 155, 60_192_808)),
        *((20, 21, 272_474 + 65 * 990), (32, 33, 466_906 + 65 * 990)),
        *((44, 45, 661_338 + 65 * 990), (56, 57, 855_770 + 65 * 990)),
    ],
)
def test_layers_and_parameters(depth, neurons, parameters):
    with torch.device("meta"):
        network = net(depth, (3, 224, 224), 1000)
    assert sum(isinstance(m, Neuron) for m in network.modules()) == neurons
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_sums_grow_by_one_a_block():
    torch.manual_seed(0)
    network = net(20)
    for module in network.modules():
        if isinstance(module, BatchNorm):
            nn.init.constant_(module.bias, 5.0)  # every neuron fires at every step
    outs = []
    for block in network.stages[0]:
        block.register_forward_hook(lambda m, args, out: outs.append(out.max().item()))
    network(torch.rand(2, 2, 3, 32, 32))
    assert outs == [2, 3, 4]


@pytest.mark.parametrize(("connect", "mean"), [("add", 1.0), ("and", 0.5), ("iand", 0.5)])
def test_zero_init_lets_the_stem_through(connect, mean):
    torch.manual_seed(0)
    network = net(20, connect=connect, zero_init_residual=True)
    x = torch.rand(2, 2, 3, 32, 32)
    stem = network.stem(x)
    assert torch.equal(network.stages[0](stem), stem)
    assert 0 < stem.mean() < mean


def test_images_of_another_shape():
    assert net(20, (2, 9, 12), 4)(torch.rand(3, 2, 2, 9, 12)).shape == (3, 2, 4)
    assert net(18, (1, 70, 40), 4)(torch.rand(1, 2, 1, 70, 40)).shape == (1, 2, 4)
