"""Rules that need all digits."""

import torch


def refuse_low_precision(rule: str, device: str, dtype: torch.dtype) -> None:
    """Raise `ValueError` unless weights and potentials have at least float32."""
    if torch.is_autocast_enabled(device) or dtype.itemsize < 4:
        raise ValueError(
            f"rule={rule} needs trainer.precision=32-true or 64-true: in 16 bits a weight would lose small changes,"
            " and potentials near the threshold would fire otherwise than in training."
        )
