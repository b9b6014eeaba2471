"""Weights of samples that a network gets wrong."""

import math
from types import SimpleNamespace
from typing import Any

import torch

from snnrun.rule.boosting import Boosting


def learner(**more: Any) -> Any:
    same = {
        "training_size": lambda: 6,
        "over_ranks": lambda count, how="sum": count,
        "places": None,
    }
    return SimpleNamespace(**{**same, **more})


def epoch(boosting: Boosting, who: Any, batches: list[tuple[list[int], list[int], list[int]]]):
    for places, labels, told in batches:
        who.places, y = torch.tensor(places), torch.tensor(labels)
        weight = boosting.of(who, y)
        assert weight is not None and torch.equal(weight, boosting.weight[who.places])  # pyright: ignore
        boosting.note(who, torch.nn.functional.one_hot(torch.tensor(told), 3), y)
    boosting.advance()


def test_two_epochs_by_hand():
    boosting, who = Boosting(0.5), learner()
    epoch(boosting, who, [([5, 0], [0, 0], [1, 0]), ([1, 2, 3], [1, 1, 1], [1, 0, 1])])
    half, third = math.exp(0.5 / 2), math.exp(0.5 / 3)
    assert boosting.weight is not None
    torch.testing.assert_close(boosting.weight, torch.tensor([1, 1, third, 1, 1, half]))
    epoch(boosting, who, [([5, 2, 1], [0, 1, 1], [2, 2, 1])])
    once, share = math.exp(0.5), third / (1 + third)
    expected = torch.tensor([1, 1, third * math.exp(0.5 * share), 1, 1, half * once])
    torch.testing.assert_close(boosting.weight, expected)


def test_processes_share_what_they_missed():
    """A sample that two draw, because the last ones are too few for all, counts once, and as wrong if one erred."""
    boosting, who = Boosting(1.0), learner()
    other = torch.tensor([2, 0, 3, 1 + 2 * 1, 0, 0], dtype=torch.int32)  # 0 wrong, 2 and 3 right
    who.over_ranks = lambda count, how: {"max": torch.maximum(count, other)}[how]
    epoch(boosting, who, [([0, 1], [0, 1], [0, 2])])
    third = math.exp(1 / 3)
    assert boosting.weight is not None
    torch.testing.assert_close(boosting.weight, torch.tensor([math.e, third, 1, 1, 1, 1]))


def test_outside_of_training_and_without_a_rate_all_count_the_same():
    y = torch.tensor([0, 1])
    assert Boosting(0.5).of(learner(), y) is None
    off = Boosting(0.0)
    assert off.of(learner(places=y), y) is None
    off.note(learner(places=y), torch.zeros(2, 3), y)
    off.advance()
    assert off.state() == {}


def test_goes_on_from_a_state_in_the_middle_of_an_epoch():
    first, who = Boosting(0.5), learner(places=torch.tensor([3, 4]))
    y = torch.tensor([1, 2])
    first.of(who, y)
    first.note(who, torch.zeros(2, 3), y)
    second = Boosting(0.5)
    second.load({k: v.clone() for k, v in first.state().items()})
    for one in (first, second):
        one.advance()
    assert torch.equal(first.weight, second.weight) and first.weight.max() > 1.6  # pyright: ignore
