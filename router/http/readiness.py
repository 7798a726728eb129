"""When a router may be sent queries: for the first time, and from then on for good.

An answer itself says what it lacks. If a router reported not ready because one shard restarts, all
routers of the index would leave service at once, and partial answers would become none.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitsift.shard_worker.types import ShardStatus


class Readiness:
    """What one router has seen of its shards.

    ``min_ready_shards`` None waits until every shard was opened or failed, and one at least is
    ready; a number waits for so many and no longer.
    """

    def __init__(self, min_ready_shards: int | None = None) -> None:
        self._least = min_ready_shards
        self._opened: set[int] = set()
        self._was_ready = False

    def look(self, statuses: Sequence[ShardStatus]) -> bool:
        """Whether the shards are enough, by these statuses and those before."""
        self._opened.update(status.shard for status in statuses if status.state == "READY")
        opening = any(
            status.state == "LOADING" and status.shard not in self._opened for status in statuses
        )
        if self._least is None:
            enough = bool(self._opened) and not opening
        else:
            enough = len(self._opened) >= min(self._least, len(statuses))
        self._was_ready = self._was_ready or enough
        return self._was_ready
