"""Latency coding in continuous time."""

import pytest
import torch

from snnrun.encoder import SpikeTime

X = torch.tensor([[0.0, 0.25, 1.0, 1.5, -0.5]])


def test_brighter_is_earlier_and_black_is_silent():
    assert SpikeTime(2.0)(X).tolist() == [[[float("inf"), 1.5, 0.0, 0.0, float("inf")]]]


def test_black_may_fire_last():
    assert SpikeTime(2.0, black="last")(X).tolist() == [[[2.0, 1.5, 0.0, 0.0, 2.0]]]


def test_bytes_are_exact():
    x = torch.arange(1, 256, dtype=torch.float64)[None] / 255
    torch.testing.assert_close(SpikeTime()(x)[0], 1 - x, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"window": 0.0}, {"black": "first"}])
def test_refuses_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=rf"encoder.{name} must be .* got {value!r}"):
        SpikeTime(**settings)
