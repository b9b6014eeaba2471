"""Random states: saved as plain data, restored exactly."""

import random

import numpy as np
import torch

from snnrun.seed import random_states, restore


def draws() -> list:
    """Numbers from all three generators; an odd number of normal ones, whose partner is kept back."""
    return [
        torch.rand(3).tolist(),
        torch.randn(1).tolist(),
        np.random.rand(3).tolist(),
        np.random.randn(),
        random.random(),
        random.gauss(0, 1),
    ]


def test_draws_are_repeated_after_restore():
    draws()
    states = random_states()
    first = draws()
    assert draws() != first
    restore(states)
    assert draws() == first


def test_states_pass_through_a_checkpoint_that_executes_nothing(tmp_path):
    draws()
    torch.save(random_states(), tmp_path / "states.pt")
    first = draws()
    restore(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draws() == first


def test_reading_the_states_draws_nothing():
    states = random_states()
    random_states()
    first = draws()
    restore(states)
    assert draws() == first
