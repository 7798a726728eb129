"""A digest of what a replica holds, for operators to compare with those of others at any time.

It is made in the maintenance thread, when something was written since, and kept: a status costs
nothing. Making it reads all ids and versions, so it is made seldom while writes go on, and what was
made during a write is thrown away: then the digest is not known until writes pause.
"""

from __future__ import annotations

import time

from bitsift.errors import Corrupt
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.counters import Counters
from bitsift.shard_worker.store.difference import digest_of

REST = 50
"""It rests so many times as long as the last attempt took."""


class OwnDigest:
    """One thread refreshes it; any may ask."""

    def __init__(self) -> None:
        self._known: tuple[Counters, str] | None = None
        self._rests_until_s = 0.0

    def refresh(self, store: Store) -> None:
        """Make it of what ``store`` holds, if that has changed, and it has rested enough."""
        begun_s, counters = time.monotonic(), store.counters
        if self.of(store) or begun_s < self._rests_until_s:
            return
        try:
            digest = digest_of(store)
        except Corrupt:  # written meanwhile; or damaged, which bitsift verify says
            digest = ""
        if store.counters == counters:
            self._known = counters, digest
        now_s = time.monotonic()
        self._rests_until_s = now_s + REST * (now_s - begun_s)

    def of(self, store: Store) -> str:
        """That of what ``store`` holds now; "" where it is not known."""
        known = self._known
        return known[1] if known is not None and known[0] == store.counters else ""
