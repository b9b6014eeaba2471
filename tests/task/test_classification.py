"""What a classification monitors, and what it refuses to."""

import pytest

from snnrun.task import Classification


def test_selects_by_validation_accuracy():
    task = Classification()
    assert (task.monitor, task.mode) == ("val/acc", "max")
    assert task.tally(12).num_classes == 12
    assert (task.tally(12).ties, Classification(ties="wrong").tally(12).ties) == ("first", "wrong")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"monitor": "test/acc"},
            "task.monitor must not select on test data, got test/acc. Use val/acc or val/loss.",
        ),
        ({"mode": "best"}, "task.mode must be max or min, got best."),
        ({"ties": "right"}, "task.ties must be first or wrong, got right."),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError) as error:
        Classification(**settings)
    assert str(error.value) == message
