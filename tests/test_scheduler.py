"""Schedules of the learning rate."""

import math

import pytest
import torch
from torch import nn

from snnrun.scheduler import InverseSqrt, WarmupCosine, WarmupMultiStep


def rates(**options: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupCosine(optimizer, **options)
    found = []
    for _ in range(options["total_steps"]):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_a_rise_and_a_cosine_by_epochs():
    found = rates(total_steps=12, epochs=3, warmup=6)
    cosine = [(1 + math.cos(math.pi * e / 3)) / 2 for e in (0, 1, 2)]
    rise = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, *[1] * 7]
    expected = [0.5 * r * cosine[i // 4] for i, r in enumerate(rise)]
    assert found == pytest.approx(expected)


def test_without_a_rise():
    assert rates(total_steps=4, epochs=2, warmup=0) == pytest.approx([0.5, 0.5, 0.25, 0.25])


def test_a_rise_and_steps_by_epochs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupMultiStep(optimizer, 12, 4, milestones=[1, 3], gamma=0.1, warmup=5)
    found = []
    for _ in range(12):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rise = [1 / 5, 2 / 5, 3 / 5, 4 / 5, *[1] * 8]
    falls = [1, 1, 1, *[0.1] * 6, *[0.01] * 3]
    assert found == pytest.approx([0.5 * r * f for r, f in zip(rise, falls, strict=True)])


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": 2, "warmup": -1}])
def test_wrong_options_of_steps(options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(ValueError, match=r"scheduler\.(epochs|warmup) must be"):
        WarmupMultiStep(optimizer, 4, milestones=[1], **options)


def test_saved_and_taken_up_again():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    one, other = (WarmupCosine(optimizer, 12, 3, 6) for _ in range(2))
    for _ in range(5):
        optimizer.step()
        one.step()
    other.load_state_dict(one.state_dict())
    assert other.get_last_lr() == one.get_last_lr() and other.last_epoch == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "scheduler.epochs must be at least 1, got 0."),
        ({"epochs": 2, "warmup": -1}, "scheduler.warmup must be a number of steps or 0, got -1."),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        rates(total_steps=4, **options)
    assert str(error.value) == message


def test_the_rate_falls_with_the_square_root():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.5}], lr=1.0)
    schedule = InverseSqrt(optimizer)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.5, 0.5 / 2**0.5, 0.5 / 3**0.5, 0.25])
    again = InverseSqrt(optimizer)
    again.load_state_dict(schedule.state_dict())
    again.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 / 6**0.5)
