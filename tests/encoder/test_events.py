"""Recorded events as spikes."""

import pytest
import torch

from snnrun.check import composed
from snnrun.config import BadRequest, Choices, instantiate
from snnrun.encoder import Events

CHOICES = Choices()
WORDS = ("model=recurrent", "model.spec=20-R10", "rule=st_rsbp", "encoder=events")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_with_events_is_one_spike(dtype):
    x = torch.tensor([[0, 3, 1], [2, 0, 0]], dtype=dtype)
    out = Events()(x)
    assert out.dtype == dtype and out.tolist() == [[0, 1, 1], [1, 0, 0]]


def test_traits_and_yaml():
    assert Events.traits == {"input_spikes"} and Events.needs == {"events"}
    cfg = CHOICES.compose(["encoder=events", "dataset=shd"])
    assert isinstance(instantiate(cfg.encoder, static=False), Events)


def test_it_makes_recordings_fit_for_rules_of_spike_trains():
    composed(CHOICES, [*WORDS, "dataset=ntidigits"])
    with pytest.raises(BadRequest, match="events"):
        composed(CHOICES, [*WORDS, "dataset=mnist"])
