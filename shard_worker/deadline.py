"""A point in time that crosses processes: on a machine's monotonic clock, which no one sets.

The wall clock will not do: it jumps, and two machines disagree about it. The monotonic clock counts
from the machine's start and is the same for all its processes, so a deadline names the boot it
belongs to. On another machine it cannot be judged: there the router's cancellation ends late work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Deadline:
    """``at_s`` on the monotonic clock of the machine whose boot is ``boot``."""

    at_s: float
    boot: str = _BOOT

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def late_s(self) -> float:
        """How long ago it was; at most 0 while it lies ahead, and 0 on another machine."""
        return time.monotonic() - self.at_s if self.boot == _BOOT else 0.0
