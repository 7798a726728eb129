"""Which writes a shard has applied: what it may be asked by a caller that must see its own.

A coordinator that makes the replicas of a shard equal begins a *term* (bitsift/write_token.py,
``Reached``), and says so to each of them. All that it sends then comes in the order of its
versions, and what comes after something that failed is refused (group_commit.py): so the term, and
the newest version that came in it, say what is there, on the disk and in RAM. A version alone does
not: a replica that was cut off with an earlier coordinator has what that one wrote last, which
nobody acknowledged, and its clock may have been ahead.

What a replica lacks it gets in any order (router/shards/convergence.py): until it has all of it,
what it had before counts, also after a restart. Beside the shard stands, for that,

    shard-00003.applied.json    {"term": 17, "version": 7497…, "newest": 7498…, "lacks": false}

how far it was when that was kept, and the newest version that the shard knew then: what is newer
came in the same term. It is kept where the term begins, not for each write.

Where there is one copy only there is no term, 0: it has all that it ever acknowledged. Format 1
keeps no versions: there it is known only of what was written since the shard was opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bitsift.errors import BitsiftError, NotFound, ReplicaBehind
from bitsift.shard_worker.clock import NO_VERSION, milliseconds_of
from bitsift.shard_worker.generations import Generations
from bitsift.shard_worker.layout import read_json, write_json
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.search.funnel import Answers
from bitsift.shard_worker.types import Query
from bitsift.write_token import NOTHING, Reached


def applied_file(folder: Path) -> Path:
    """Where it stands how far the shard in ``folder`` is."""
    return folder.with_name(f"{folder.name}.applied.json")


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives the process."""

    term: int = 0
    version: int = NO_VERSION
    newest: int = NO_VERSION
    lacks: bool = False


class Applied:
    """The writes of one shard. Any number of threads; one writes."""

    def __init__(
        self,
        shard: int,
        generations: Generations,
        kept: Kept,
        keep: Callable[[Kept], None],
    ) -> None:
        """``generations`` are those of the shard. ``kept`` is what was kept last; ``keep`` makes it
        durable before it returns.
        """
        self._shard = shard
        self._generations = generations
        self._noted = NO_VERSION
        self._keep = keep
        self._lacks = kept.lacks
        since = self.newest if self.newest > kept.newest and not kept.lacks else kept.version
        self._at = Reached(kept.term, since)
        self._written = NOTHING

    @classmethod
    def beside(cls, folder: Path, shard: int, generations: Generations) -> Applied:
        """That of the shard in ``folder``. Raises Corrupt."""
        file = applied_file(folder)
        try:
            kept = Kept(**read_json(file))
        except NotFound:
            kept = Kept()
        return cls(shard, generations, kept, lambda it: write_json(file, asdict(it)))

    @property
    def newest(self) -> int:
        """The newest version that was written here, by whichever coordinator."""
        return max(self._noted, self._generations.current.store.counters.newest_version)

    @property
    def reached(self) -> Reached:
        """How far the shard is."""
        if self._at.term or self._lacks:
            return self._at
        return Reached(version=self.newest)

    def note(self, operations: Sequence[Operation]) -> None:
        """They are durable, and in RAM."""
        self._noted = max(self._noted, *(operation.version for operation in operations))

    def advance(
        self, term: int, operations: Sequence[Operation], outcomes: Sequence[Outcome]
    ) -> None:
        """The coordinator of ``term`` has sent ``operations`` in their turn, and they came to
        ``outcomes``. Raises StorageFull, ShardUnavailable.
        """
        done = itertools.takewhile(
            lambda each: not isinstance(each[1], BitsiftError),
            zip(operations, outcomes, strict=True),
        )
        versions = [operation.version for operation, _ in done]
        if term and versions:
            self._written = max(self._written, Reached(term, max(versions)))
            if not self._lacks:
                self._reach(self._written)

    def begin_mending(self, operations: Sequence[Operation]) -> None:
        """They will be written, in any order; others before them may be lacking. Raises
        StorageFull, ShardUnavailable.
        """
        newest = max(operation.version for operation in operations)
        if not self._lacks and newest > self.newest:
            at = self.reached
            self._keep(Kept(*at, self.newest, lacks=True))
            self._at, self._lacks = at, True

    def mended(self, reached: Reached) -> None:
        """Nothing is lacking any more, and it is as far as ``reached`` at least. Raises
        StorageFull, ShardUnavailable.
        """
        at = max(reached, self._written, self._at)
        if self._lacks:
            self._keep(Kept(*at, self.newest))
            self._at, self._lacks = at, False
        else:
            self._reach(at)

    def _reach(self, at: Reached) -> None:
        if at.term > self._at.term:
            self._keep(Kept(*at, self.newest))
        self._at = max(self._at, at)

    def check(self, least: Reached) -> None:
        """Raises ReplicaBehind where the write that ``least`` is of is not there."""
        if self.reached < least:
            raise self._behind(least)

    def answers(
        self, queries: Sequence[Query], search: Callable[[Sequence[Query]], Answers]
    ) -> Answers:
        """What ``search`` answers; ReplicaBehind in the place of queries that must see more."""
        reached = self.reached
        least = [query.least(self._shard) for query in queries]
        if all(it <= reached for it in least):
            return search(queries)
        asked = [query for query, it in zip(queries, least, strict=True) if it <= reached]
        found = iter(search(asked) if asked else [])
        return [next(found) if it <= reached else self._behind(it) for it in least]

    def _behind(self, least: Reached) -> ReplicaBehind:
        reached = self.reached
        late_ms = milliseconds_of(least.version) - milliseconds_of(reached.version)
        said = f"the last that it has is {late_ms / 1e3:,.3f} s older"
        if reached.term < least.term:
            said = "it has not been compared with the other replicas since"
        return ReplicaBehind(
            f"shard {self._shard} has not applied the write that read_your_writes is of: {said}"
        )
