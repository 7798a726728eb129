"""What many runs come to."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from tests.simulation.world import Run


class Summary:
    """``add`` each run; ``figures`` says how many there were, and how much each tried."""

    def __init__(self) -> None:
        self.failed: list[int] = []
        """Seeds that broke an invariant."""
        self._operations: list[int] = []
        self._answered: list[int] = []
        self._faults: list[int] = []
        self._asked, self._fired = Counter[str](), Counter[str]()
        self._copied = 0

    @property
    def seeds(self) -> int:
        return len(self._operations)

    def add(self, one: Run) -> None:
        if one.broken is not None:
            self.failed.append(one.plan.seed)
        self._operations.append(len(one.plan.asked))
        self._answered.append(one.answered)
        self._faults.append(sum(one.faults.values()))
        self._asked.update(asked.kind.value for asked in one.plan.asked)
        self._fired.update(one.faults)
        self._copied += one.copied

    def figures(self) -> dict[str, Any]:
        """JSON. ``answered`` operations are those that were not refused; a fault counts when it was
        begun.
        """
        return {
            "seeds": self.seeds,
            "failed": self.failed,
            "operations": self._spread(self._operations) | {"kinds": dict(self._asked)},
            "answered": self._spread(self._answered),
            "faults": self._spread(self._faults) | {"kinds": dict(self._fired)},
            "replicas_copied_whole": self._copied,
        }

    @staticmethod
    def _spread(counts: list[int]) -> dict[str, Any]:
        """Of all seeds, and of each."""
        return {
            "sum": sum(counts), "min": min(counts), "median": statistics.median(counts),
        }  # fmt: skip
