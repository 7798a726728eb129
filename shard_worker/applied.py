"""Which writes a shard has applied: what it may be asked by a caller that must see its own.

All that a coordinator sends comes in the order of its versions, and what comes after something
that failed is refused (group_commit.py), so the newest version in the store says it: all that was
sent up to it is there, on the disk and in RAM. What a replica lacks it gets in any order
(router/shards/convergence.py): until it has all of it, what it had before counts. Format 1 keeps no
versions: there it is known only of what was written since the shard was opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bitsift.errors import ReplicaBehind
from bitsift.shard_worker.clock import NO_VERSION, milliseconds_of
from bitsift.shard_worker.generations import Generations
from bitsift.shard_worker.operations import Operation
from bitsift.shard_worker.search.funnel import Answers
from bitsift.shard_worker.types import Query


class Applied:
    """The writes of one shard. Any number of threads; one writes."""

    def __init__(self, shard: int, generations: Generations) -> None:
        """``generations`` are those of the shard."""
        self._shard = shard
        self._generations = generations
        self._noted = NO_VERSION
        self._before_mending: int | None = None

    def note(self, operations: Sequence[Operation]) -> None:
        """They are durable, and in RAM."""
        self._noted = max(self._noted, *(operation.version for operation in operations))

    def begin_mending(self, operations: Sequence[Operation]) -> None:
        """They will be written, in any order; others before them may be lacking."""
        if max(operation.version for operation in operations) > self.version:
            self._before_mending = self.version

    def mended(self) -> None:
        """Nothing is lacking any more."""
        self._before_mending = None

    @property
    def version(self) -> int:
        """All writes up to this one are there."""
        if self._before_mending is not None:
            return self._before_mending
        return max(self._noted, self._generations.current.store.counters.newest_version)

    def check(self, least: int) -> None:
        """Raises ReplicaBehind where the write of version ``least`` is not there."""
        if self.version < least:
            raise self._behind(least)

    def answers(
        self, queries: Sequence[Query], search: Callable[[Sequence[Query]], Answers]
    ) -> Answers:
        """What ``search`` answers; ReplicaBehind in the place of queries that must see more."""
        version = self.version
        least = [query.least_version(self._shard) for query in queries]
        if all(it <= version for it in least):
            return search(queries)
        asked = [query for query, it in zip(queries, least, strict=True) if it <= version]
        found = iter(search(asked) if asked else [])
        return [next(found) if it <= version else self._behind(it) for it in least]

    def _behind(self, least: int) -> ReplicaBehind:
        late_ms = milliseconds_of(least) - milliseconds_of(self.version)
        return ReplicaBehind(
            f"shard {self._shard} has not applied the write that read_your_writes is of: the last "
            f"that it has is {late_ms / 1e3:,.3f} s older"
        )
