"""Loops compiled by numba, for what is no function of one step of a neuron: events, sorted times, solves."""

from collections.abc import Callable
from typing import Any

import numba

from snnrun.neuron.kernel.cache import folder

config: Any = numba.config  # pyright: ignore[reportPrivateImportUsage]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as compiled by numba at its first call, kept where kernels are kept."""
    place, before = folder(), config.CACHE_DIR
    config.CACHE_DIR = before or str(place)
    try:
        return numba.njit(cache=place is not None, nogil=True)(function)
    finally:
        config.CACHE_DIR = before
