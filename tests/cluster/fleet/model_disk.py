"""A replica of the cluster on paper, as it lies on its disk."""

from __future__ import annotations

from dataclasses import dataclass

from bitsift.cluster.fleet.observed import CatchingUp


@dataclass(slots=True)
class Disk:
    """A copy on a disk. ``left_s`` counts down while it is made, to become ``coming``;
    ``comparing_s`` while it catches up, ``missed`` is what it lacked at the end.
    """

    version: int = 0
    is_whole: bool = False
    coming: int = 0
    left_s: int = 0
    comparing_s: int = 0
    ended_at: float | None = None
    missed: int = 0
    is_outdated: bool = False

    def stop(self) -> None:
        """Nothing goes on with it any more, and nobody knows what did."""
        self.left_s, self.comparing_s, self.ended_at = 0, 0, None

    def catching_up(self) -> CatchingUp | None:
        if self.comparing_s:
            return CatchingUp()
        if self.ended_at is None:
            return None
        return CatchingUp(self.ended_at, self.missed, self.is_outdated)
