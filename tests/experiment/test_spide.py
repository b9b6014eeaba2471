"""The published networks of IDE have the parameters that their authors state, and SPIDE's optimiser their steps."""

import pytest
import torch

from snnrun.check import composed, without_hydra
from snnrun.config import Choices
from snnrun.run import build

CHOICES = Choices()


@pytest.mark.parametrize(
    ("experiment", "millions"),
    [("ide_cifar10_alexnet_f_t30_if", 3.7), ("ide_cifar10_cifarnet_f_t100_lif", 11.8)],
)
def test_parameters(experiment, millions):
    cfg = without_hydra(composed(CHOICES, [f"experiment=spide/{experiment}"]))
    with torch.device("meta"):
        _, learner = build(cfg)
    assert round(learner.trainable / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("experiment", "factor"),
    [("mnist_lenet", 100), ("cifar10_alexnet_f", 400), ("cifar100_cifarnet_f", 500)],
)
def test_the_factor_on_the_loss_is_one_of_a_sample_and_of_weight_decay(experiment, factor):
    """SGD at lr / factor on factor * gradient + 5e-4 w goes as far as at lr on gradient + 5e-4 / factor w."""
    cfg = composed(CHOICES, [f"experiment=spide/{experiment}"])
    assert cfg.rule.scale * 128 == pytest.approx(factor)
    assert cfg.dataset.batch_size == 128
    assert cfg.optimizer.weight_decay * factor == pytest.approx(5e-4)
