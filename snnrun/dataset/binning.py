"""From a list of events to T frames of counts."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from snnrun.dataset.base import CorruptData

VERSION = 1  # part of the key of frame caches: raise it when the same events give other frames


def bin_events(
    events: Mapping[str, np.ndarray] | np.ndarray,
    *,
    sensor: tuple[int, ...],
    steps: int,
    by: Literal["time", "count"] = "time",
    window: float | None = None,
    start: float | None = None,
    binary: bool = False,
    source: str = "events",
) -> np.ndarray:
    r"""Count the events of a recording in `steps` bins; every event lands in exactly one.

    $$k_i = \min\left(T - 1, \left\lfloor T \frac{t_i - t_0}{t_{N-1} - t_0} \right\rfloor\right)
    \quad \text{by time}, \qquad
      k_i = \min\left(T - 1, \lfloor i / \lfloor N / T \rfloor \rfloor\right) \quad \text{by
      count}$$

    By count, events are put into the order of their times first (ties keep the order of arrival),
    and with fewer
    events than bins all of them land in the last. By time, events that all share one time land in
    the first bin.
    A recording without events gives zeros.

    **Arguments:**

    - `events`: a structured array or a mapping with the times `t` and one address for each axis of
      the sensor: `x`; `y` and `x`; or `p`, `y` and `x`.
    - `sensor`: shape of a frame: `(W,)`, `(H, W)` or `(P, H, W)`.
    - `steps`: number of bins T.
    - `by`: bins of equal duration or of an equal number of events.
    - `window`: duration of a bin, in the unit of `t`, instead of a T-th of the recording. Events
      outside the T bins are left out.
    - `start`: with `window`, where the first bin begins; the first event if left out.
    - `binary`: 1 where there was any event.
    - `source`: the file that an error names.

    Raises `CorruptData` for events beyond the sensor, and for times that are not finite.
    """
    check_binning(by, window)
    t = np.asarray(events["t"])
    address = _address(events, sensor, len(t), source)
    if t.dtype.kind == "f" and not np.isfinite(t).all():
        raise CorruptData(
            f"{source}: the time of event {int(np.argmin(np.isfinite(t)))} is not finite."
        )
    if by == "count":
        size = len(t) // steps
        k = np.empty(len(t), np.int64)
        k[np.argsort(t, kind="stable")] = (
            np.minimum(np.arange(len(t)) // size, steps - 1) if size else steps - 1
        )
    elif window is not None:
        k = np.floor((t - (t.min(initial=_largest(t)) if start is None else start)) / window)
        inside = (k >= 0) & (k < steps)
        k, address = k[inside].astype(np.int64), address[inside]
    else:
        k = _by_time(t, steps)
    pixels = int(np.prod(sensor))
    frames = np.bincount(k * pixels + address, minlength=steps * pixels).reshape(steps, *sensor)
    return np.minimum(frames, 1) if binary else frames


def check_binning(by: str, window: float | None) -> None:
    """Raise a `ValueError` that names the keys of the config if the two do not go together."""
    if by not in ("time", "count"):
        raise ValueError(f"dataset.binning must be time or count, got {by!r}.")
    if window is not None and (by == "count" or window <= 0):
        raise ValueError(
            "dataset.window is the duration of a bin, above 0 and with dataset.binning=time only; "
            f"got {window} with {by}."
        )


def _by_time(t: np.ndarray, steps: int) -> np.ndarray:
    """Bins of equal duration from the first to the last time; integers are divided exactly."""
    since = t.astype(np.float64) if t.dtype.kind == "f" else t.astype(np.int64)
    since = since - since.min(initial=_largest(since))
    span = since.max(initial=0)
    if span == 0:
        return np.zeros(len(t), np.int64)
    return np.minimum(np.floor_divide(since * steps, span).astype(np.int64), steps - 1)


def _largest(t: np.ndarray) -> float:
    return np.inf if t.dtype.kind == "f" else np.iinfo(t.dtype).max


def _address(
    events: Mapping[str, np.ndarray] | np.ndarray, sensor: tuple[int, ...], n: int, source: str
) -> np.ndarray:
    """Flat index into the sensor of each event."""
    address = np.zeros(n, np.int64)
    for name, size in zip(("p", "y", "x")[-len(sensor) :], sensor, strict=True):
        axis = np.asarray(events[name])
        if len(axis) != n:
            raise CorruptData(f"{source}: {n} times but {len(axis)} addresses {name}.")
        if axis.dtype.kind == "f" and not np.isfinite(axis).all():
            raise CorruptData(
                f"{source}: {name} of event {int(np.argmin(np.isfinite(axis)))} is not finite."
            )
        axis = axis.astype(np.int64)
        beyond = (axis < 0) | (axis >= size)
        if beyond.any():
            i = int(beyond.argmax())
            raise CorruptData(
                f"{source}: {name}={axis[i]} of event {i} is beyond the sensor, which has {name} "
                f"from 0 to {size - 1} "
                f"({int(beyond.sum())} of {n} events are)."
            )
        address = address * size + axis
    return address
