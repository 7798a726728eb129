"""How long the latest calls to a replica took."""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Callable

SAMPLES_MAX = 128
"""The latest calls that are remembered."""
MEASURED_MIN = 10
UNMEASURED_S = 0.1
USUAL = 0.98
"""A call that takes longer than this share of them is late. By definition 5 % take longer than the
p95: that alone would use up the budget of hedges, and a stall would find none. Simulated, 1,000
shards: p99 1.85 times that of one shard with 4.4 % hedges, after the p95 2.87 times with 6 %."""
WINDOW_S = 10.0
"""Older calls say nothing about now: a replica that was slow is tried again."""


class Latencies:
    """Seconds of the latest calls, at most ``SAMPLES_MAX`` within the last ``WINDOW_S``."""

    def __init__(self, clock: Callable[[], float] = lambda: time.monotonic()) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque()
        """When a call ended, and how long it took."""
        self._sorted: list[float] = []

    def __len__(self) -> int:
        self._forget()
        return len(self._sorted)

    def add(self, seconds: float) -> None:
        self._samples.append((self._clock(), seconds))
        bisect.insort(self._sorted, seconds)
        if len(self._samples) > SAMPLES_MAX:
            self._drop()

    def quantile(self, share: float) -> float | None:
        """The longest that ``share`` of the calls took; None without any calls."""
        self._forget()
        if not self._sorted:
            return None
        return self._sorted[min(len(self._sorted) - 1, int(share * len(self._sorted)))]

    def typical_s(self) -> float | None:
        """The median; None below ``MEASURED_MIN``: the first calls are slow by chance."""
        return self.quantile(0.5) if len(self) >= MEASURED_MIN else None

    def usual_s(self, unmeasured_s: float = UNMEASURED_S) -> float:
        """The longest that ``USUAL`` of the calls took; the guess below ``MEASURED_MIN``."""
        usual_s = self.quantile(USUAL)
        return unmeasured_s if usual_s is None or len(self._sorted) < MEASURED_MIN else usual_s

    def _forget(self) -> None:
        oldest_s = self._clock() - WINDOW_S
        while self._samples and self._samples[0][0] < oldest_s:
            self._drop()

    def _drop(self) -> None:
        """Drops the oldest."""
        _, seconds = self._samples.popleft()
        del self._sorted[bisect.bisect_left(self._sorted, seconds)]
