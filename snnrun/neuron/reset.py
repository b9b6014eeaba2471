"""What a spike does to the potential."""

from typing import Literal

from torch import Tensor

Reset = Literal["hard", "soft", "none"]


def after_spike(
    h: Tensor,
    s: Tensor,
    threshold: Tensor | float,
    *,
    reset: Reset,
    reset_value: float,
    detach: bool,
) -> Tensor:
    r"""The potential after firing.

    $$v = h (1 - s) + v_r s \ \text{(hard)}, \qquad v = h - \theta s \ \text{(soft)}, \qquad v = h \ \text{(none)}$$

    **Arguments:**

    - `h`: potential before firing.
    - `s`: spikes, 0 or 1.
    - `threshold`: what a soft reset subtracts.
    - `reset`: `hard`, `soft` or `none`.
    - `reset_value`: potential after a hard reset.
    - `detach`: let no gradient through the spike of the reset.
    """
    if reset == "none":
        return h
    if detach:
        s = s.detach()
    if reset == "soft":
        return h - threshold * s
    return h * (1 - s) if reset_value == 0 else h * (1 - s) + reset_value * s


def check_reset(reset: str) -> None:
    """Raise `ValueError` for an unknown kind of reset."""
    if reset not in ("hard", "soft", "none"):
        raise ValueError(f"reset must be hard, soft or none, got {reset!r}.")
