"""What a shard is to its callers, wherever it is and however many replicas it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bitsift.errors import BitsiftError
from bitsift.shard_worker.inventory import Entries, ReplicaFacts
from bitsift.shard_worker.maintenance.backup import ShardCopy
from bitsift.shard_worker.maintenance.own_rows import RowCheck
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.types import (
    EVERYTHING,
    Candidates,
    Found,
    Query,
    Read,
    ShardStatus,
    Wanted,
)
from bitsift.write_token import NOTHING, Reached


class ShardLink(Protocol):
    """One shard as the router sees it. Failures are BitsiftErrors.

    Each query and each read has a deadline of its own, and its error in its place.
    """

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]: ...

    async def documents(self, reads: Sequence[Read]) -> Sequence[list[Found] | BitsiftError]: ...

    async def listed(self, listing: Listing) -> Listed: ...

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        """What is wanted of the documents with these ids, with their versions; NotFound in the
        place of one that there is not. Raises ReplicaBehind where the write that ``least`` is of
        has not been applied.
        """
        ...

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]: ...

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        """``epoch`` is that of the caller's replica table, ``term`` that of its coordinator; 0: it
        has none.
        """
        ...

    @property
    def reached(self) -> Reached:
        """How far it must be to have all that it has acknowledged to this process."""
        ...

    async def newest_version(self) -> int:
        """The newest version of a document that it knows (clock.py)."""
        ...

    async def backup(self, dest: str) -> ShardCopy: ...

    async def compact(self) -> bool: ...

    async def status(self) -> ShardStatus: ...


class ReplicaLink(ShardLink, Protocol):
    """One replica of a shard that has several, as a coordinator of writes sees it."""

    async def seal(self, epoch: int) -> int:
        """The newest version on its disk; writes under older tables are refused from now on."""
        ...

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        """For each id the version of its document, else that of its deletion, negative, else 0.
        Raises Fenced under an old table.
        """
        ...

    async def facts(self) -> ReplicaFacts: ...

    async def digests(self, bits: int, since: int) -> bytes: ...

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries: ...

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        """Write what it lacks, in any order of versions, until ``mended``."""
        ...

    async def mended(self, reached: Reached = NOTHING) -> None:
        """It lacks nothing of what others have, and is as far as ``reached``."""
        ...

    async def applied(self) -> Reached:
        """How far it is."""
        ...

    async def check_rows(self, first: int) -> RowCheck:
        """Check some rows from ``first`` on against their checksums."""
        ...

    async def bury(self, generation: int, rows: Sequence[int], epoch: int) -> int:
        """Let damaged rows die, which ``mend`` is about to replace; returns how many lived. Raises
        Unavailable where they are of another generation.
        """
        ...

    async def changes(self, keys: bytes) -> Sequence[Operation]: ...
