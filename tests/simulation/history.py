"""What clients asked for and were told, and whether it can have been like that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

UNKNOWN_END = math.inf
"""A write of unknown outcome may be done at any time after it began."""


@dataclass(slots=True)
class Write:
    """``text`` None deletes. ``end`` is when it was acknowledged; infinite where it was not."""

    key: str
    text: str | None
    start: float
    end: float = UNKNOWN_END
    is_acknowledged: bool = False
    is_not_done: bool = False


@dataclass(slots=True)
class Read:
    """``text`` None: there was no such document."""

    key: str
    text: str | None
    start: float
    end: float


@dataclass(slots=True)
class History:
    """All of a run. Times are of one clock, that of the simulation."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def broken_by(self, read: Read) -> str | None:
        """Why ``read`` cannot have been: by what was acknowledged before it began.

        What it says must be of a write that began before it ended, and after which none was begun
        *and* acknowledged, when the read began. Before all writes there is no document.
        """
        its = [write for write in self.writes if write.key == read.key]
        nothing = Write(read.key, None, -math.inf, -math.inf, is_acknowledged=True)
        for write in (*its, nothing):
            if write.text != read.text or write.is_not_done or write.start > read.end:
                continue
            if not any(_follows(later, write, read) for later in its):
                return None
        acknowledged = [w for w in its if w.is_acknowledged and w.end < read.start]
        last = max(acknowledged, key=lambda write: write.end, default=nothing)
        return (
            f"{read.key!r} read as {read.text!r} at {read.start:.3f}, after {last.text!r} was "
            f"acknowledged at {last.end:.3f}"
        )


def _follows(later: Write, write: Write, read: Read) -> bool:
    """Whether ``later`` began when ``write`` was done, and was acknowledged before ``read``."""
    return later.is_acknowledged and write.end < later.start and later.end < read.start
