"""The output layer of ST-RSBP; its gradients are tested with those of all layers."""

import torch
from torch import nn

from snnrun.model import MLP, Layer
from snnrun.neuron import RefractoryLIF
from snnrun.readout import SpikingReadout
from snnrun.rule.train_head import TrainHead
from snnrun.surrogate import ATan


def test_a_silent_label_fires_evenly_and_an_active_one_is_left_alone():
    layer = MLP(
        lambda c: RefractoryLIF(ATan()),
        lambda c: None,
        SpikingReadout("sum", lambda c: RefractoryLIF(ATan())).head,
        (5,),
        3,
    ).head
    head = TrainHead(layer, encouragement=7)
    spikes = torch.zeros(30, 2, 3)
    spikes[5, :, 0] = 1
    right = torch.tensor([[True, False, False], [False, True, False]])
    out = head.encouraged(spikes, right)
    assert torch.equal(out[:, 0], spikes[:, 0]) and torch.equal(out[:, 1, 0], spikes[:, 1, 0])
    assert out[:, 1, 1].nonzero().flatten().tolist() == [4, 8, 12, 16, 20, 24, 28]
    assert not out[:, :, 2].any()


def test_inhibition_is_as_exact_as_the_weights():
    layer = Layer(nn.Linear(5, 3, bias=False).double(), None, RefractoryLIF(ATan()))
    head = TrainHead(layer, inhibition=0.1)
    assert head.double().recurrent.weight[0].tolist() == [0, -0.1, -0.1]
