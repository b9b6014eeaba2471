"""The published networks of conversion have the parameters that their authors' have."""

import pytest
import torch

from snnrun.check import composed, without_hydra
from snnrun.config import Choices
from snnrun.run import build

CHOICES = Choices()


@pytest.mark.parametrize(
    ("experiment", "parameters"),
    [
        ("cifar10_vgg16", 14_728_266),
        # without biases before batch norm, one for each of 4,928 channels
        ("cifar10_resnet20", 11_252_874 - 4_928),
        ("cifar10_vgg16_qcfs", 33_646_681),
    ],
)
def test_parameters(experiment, parameters):
    cfg = without_hydra(composed(CHOICES, [f"experiment=conversion/{experiment}"]))
    with torch.device("meta"):
        _, learner = build(cfg)
    assert sum(p.numel() for p in learner.net.parameters()) == parameters
