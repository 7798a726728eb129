"""Which writes a shard has applied: what it may be asked by a caller that must see its own.

All that a coordinator sends comes in the order of its versions, and what comes after something
that failed is refused (group_commit.py), so the newest version in the store says it: all that was
sent up to it is there, on the disk and in RAM. What a replica lacks it gets in any order
(router/shards/convergence.py): until it has all of it, what it had before counts, also after a
restart. That stands beside the shard meanwhile:

    shard-00003.mending.json    {"version": 7497…}

Format 1 keeps no versions: there it is known only of what was written since the shard was opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bitsift.errors import NotFound, ReplicaBehind
from bitsift.shard_worker.clock import NO_VERSION, milliseconds_of
from bitsift.shard_worker.generations import Generations
from bitsift.shard_worker.layout import read_json, write_json
from bitsift.shard_worker.operations import Operation
from bitsift.shard_worker.search.funnel import Answers
from bitsift.shard_worker.types import Query


def mending_file(folder: Path) -> Path:
    """Where it stands that the shard in ``folder`` lacks something."""
    return folder.with_name(f"{folder.name}.mending.json")


class Applied:
    """The writes of one shard. Any number of threads; one writes."""

    def __init__(
        self,
        shard: int,
        generations: Generations,
        before_mending: int | None,
        keep: Callable[[int | None], None],
    ) -> None:
        """``generations`` are those of the shard. ``before_mending`` is what was kept last, None
        where nothing is lacking; ``keep`` makes it durable before it returns.
        """
        self._shard = shard
        self._generations = generations
        self._noted = NO_VERSION
        self._before_mending = before_mending
        self._keep = keep

    @classmethod
    def beside(cls, folder: Path, shard: int, generations: Generations) -> Applied:
        """That of the shard in ``folder``. Raises Corrupt."""
        file = mending_file(folder)

        def keep(version: int | None) -> None:
            if version is None:
                file.unlink(missing_ok=True)
            else:
                write_json(file, {"version": version})

        try:
            kept = int(read_json(file)["version"])
        except NotFound:
            kept = None
        return cls(shard, generations, kept, keep)

    def note(self, operations: Sequence[Operation]) -> None:
        """They are durable, and in RAM."""
        self._noted = max(self._noted, *(operation.version for operation in operations))

    def begin_mending(self, operations: Sequence[Operation]) -> None:
        """They will be written, in any order; others before them may be lacking. Raises
        StorageFull, ShardUnavailable.
        """
        newest, before = max(operation.version for operation in operations), self.version
        if self._before_mending is None and newest > before:
            self._keep(before)
            self._before_mending = before

    def mended(self) -> None:
        """Nothing is lacking any more."""
        if self._before_mending is not None:
            self._before_mending = None
            self._keep(None)

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
