"""How many calls may be sent a second time before the first has answered."""

from __future__ import annotations

SHARE_MAX = 0.05
"""Hedges for each call, in the long run."""
BURST_MAX = 10
"""Hedges that may be saved up."""
RESERVED = 5
"""How many of those are kept for calls that are much too late: chance alone would use up all."""


class HedgeBudget:
    """Hedges of one shard: never more than ``BURST_MAX`` and ``SHARE_MAX`` of its calls."""

    def __init__(self) -> None:
        self._saved = float(BURST_MAX)

    def earn(self) -> None:
        """Records a call that is not a hedge."""
        self._saved = min(float(BURST_MAX), self._saved + SHARE_MAX)

    def spend(self, *, much_too_late: bool) -> bool:
        """Whether a hedge may be sent now; if so, it is counted."""
        least = 1 if much_too_late else RESERVED + 1
        if self._saved < least:
            return False
        self._saved -= 1
        return True
