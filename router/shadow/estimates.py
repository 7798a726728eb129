"""Recall and overlap of the latest compared searches, with what can be said of all searches.

The interval is Wilson's (JASA 22, 1927) at 95 %, with one trial a *search*: the ten hits of a
search are found or missed together, so they are no ten trials. Of all values between 0 and 1 with
one mean, those that are 0 or 1 vary most; so an interval for these is never too narrow for the
others. A bootstrap of searches that all found everything would say that there is no doubt, and that
is the ordinary case.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from bitsift.router.shadow.comparison import Compared

WINDOW = 1_000
"""Compared searches of each mode and plan that an estimate is made of: the latest."""
_Z = 1.959964
"""Quantile of the normal distribution: 2.5 % are above."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of a sample, and between what that of all searches is, with 95 % confidence."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the ordinary searches in ``mode`` to which filters were applied by ``plan``, measured on
    ``searches`` of them.
    """

    mode: str
    plan: str
    searches: int
    recall_at_10: Interval
    rank_biased_overlap: Interval


class Estimates:
    """Of one router. Modes and plans are few, so what is kept is bounded."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._latest: dict[tuple[str, str], deque[Compared]] = {}

    def add(self, mode: str, plan: str, compared: Compared) -> None:
        """One more; beyond the window the oldest is forgotten."""
        kept = self._latest.setdefault((mode, plan), deque(maxlen=self._window))
        kept.append(compared)

    def all(self) -> list[Estimate]:
        """Of each mode and plan that there was, in their order."""
        return [
            Estimate(
                mode,
                plan,
                len(kept),
                wilson(sum(one.recall for one in kept) / len(kept), len(kept)),
                wilson(sum(one.overlap for one in kept) / len(kept), len(kept)),
            )
            for (mode, plan), kept in sorted(self._latest.items())
        ]


def wilson(mean: float, trials: int) -> Interval:
    """Wilson's score interval of a ``mean`` of so many ``trials``, at least one."""
    mean = min(mean, 1.0)  # a sum of floats may be above
    shrink = 1 / (1 + _Z**2 / trials)
    centre = (mean + _Z**2 / (2 * trials)) * shrink
    half = _Z * math.sqrt(mean * (1 - mean) / trials + _Z**2 / (4 * trials**2)) * shrink
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))
