"""Times of calls, measured so that a noisy machine disturbs both sides of a comparison alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Side = TypeVar("Side", bound=Hashable)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds, and how many calls they are of."""
    if not seconds:
        return {"calls": 0}
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, [50, 90, 99]) * 1e3)
    return {
        "p50_ms": round(p50, 3),
        "p90_ms": round(p90, 3),
        "p99_ms": round(p99, 3),
        "calls": len(seconds),
    }


def interleaved(
    sides: Mapping[Side, Callable[[int], object]], rounds: int, warm_up: int = 0
) -> dict[Side, list[float]]:
    """Seconds of each side's calls: A B A B …, ``rounds`` times after ``warm_up`` unmeasured.

    A side is called with the number of its round. Neighbours on a shared machine come and go within
    seconds, so sides measured one after the other would be compared with different machines.
    """
    seconds: dict[Side, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, call in sides.items():
            started = time.perf_counter()
            call(turn)
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median(values: Sequence[float]) -> float:
    """The median as a plain float."""
    return float(np.median(values))
