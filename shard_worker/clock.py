"""Versions of documents: a hybrid logical clock (Kulkarni et al. 2014) in one number.

A version is 48 bits of milliseconds since 1970 and 16 bits of a counter. Later writes of one shard
have greater versions whatever the wall clock does, and what is written after a version was seen has
a greater one, on whichever machine. While the wall clock stands or goes back, the counter counts
on, and runs over into the milliseconds. 0 is no version: of a document that was stored before there
were any; everything is newer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bitsift.errors import Unavailable

COUNTER_BITS = 16
NO_VERSION = 0
FIRST_VERSION = NO_VERSION + 1
"""Of documents that have none, because format 1 stored them: anything else is newer."""
DRIFT_MAX_S = 300.0
"""How far a version that comes from elsewhere may lie ahead of this machine's wall clock. One from
the year 3000 would make every later one as great, on all machines that see it."""


def version_at(milliseconds: int) -> int:
    """The first version of a millisecond since 1970."""
    return milliseconds << COUNTER_BITS


def milliseconds_of(version: int) -> int:
    """The millisecond since 1970 that a version is of."""
    return version >> COUNTER_BITS


class HybridClock:
    """Gives versions, each greater than all that it gave or saw. Any number of threads."""

    def __init__(self, newest: int = NO_VERSION, wall_s: Callable[[], float] = time.time) -> None:
        """``newest`` is the greatest version that is there already; it is taken as it is."""
        self._newest = newest
        self._wall_s = wall_s
        self._lock = threading.Lock()

    @property
    def newest(self) -> int:
        """The greatest version that it gave or saw."""
        return self._newest

    def tick(self) -> int:
        """A new version."""
        with self._lock:
            self._newest = max(self._newest + 1, version_at(self._wall_ms()))
            return self._newest

    def observe(self, version: int) -> None:
        """Return versions greater than ``version`` from now on.

        Raises Unavailable where it lies more than ``DRIFT_MAX_S`` ahead of the wall clock.
        """
        if self.is_too_far(version):
            raise Unavailable(
                f"a version lies {self._ahead_s(version):,.0f} s ahead of this machine's clock, at "
                f"most {DRIFT_MAX_S:.0f} s are taken; set the clocks of both machines"
            )
        with self._lock:
            self._newest = max(self._newest, version)

    def is_too_far(self, version: int) -> bool:
        """Whether it lies so far ahead of the wall clock that other machines refuse it, too."""
        return self._ahead_s(version) > DRIFT_MAX_S

    def start_over(self) -> None:
        """Give versions by the wall clock again, which was ahead and was set right: nobody has
        taken those that it gave meanwhile.
        """
        with self._lock:
            self._newest = NO_VERSION

    def _ahead_s(self, version: int) -> float:
        return (milliseconds_of(version) - self._wall_ms()) / 1e3

    def _wall_ms(self) -> int:
        return int(self._wall_s() * 1e3)
