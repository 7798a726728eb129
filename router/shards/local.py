"""A shard in this process: for evaluation, a search in an index folder, tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bitsift.errors import BitsiftError
from bitsift.options import Mode
from bitsift.shard_worker.fencing import TableFence
from bitsift.shard_worker.inventory import Entries, ReplicaFacts
from bitsift.shard_worker.maintenance.backup import ShardCopy, copy_shard
from bitsift.shard_worker.maintenance.own_rows import RowCheck
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.search.precedence import lowest_priority
from bitsift.shard_worker.shard import Shard
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


class LocalLink:
    """A plain Shard in this process, searched in worker threads."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._state = ReplicaState(shard)
        self._fence = TableFence(0, lambda _: None)  # nobody else has it open
        self._slow = ThreadPoolExecutor(1, "exhaustive", initializer=lowest_priority)

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        if queries[0].options.mode is Mode.EXHAUSTIVE:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._slow, self._shard.answers, queries)
        return await asyncio.to_thread(self._shard.answers, queries)

    async def documents(self, reads: Sequence[Read]) -> Sequence[list[Found] | BitsiftError]:
        return await asyncio.to_thread(self._shard.read_each, reads)

    async def listed(self, listing: Listing) -> Listed:
        return await asyncio.to_thread(self._shard.listed, listing)

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        return await asyncio.to_thread(self._shard.stored, ids, least, wanted)

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return await asyncio.to_thread(self._shard.foresee, operations)

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        return await asyncio.to_thread(self._write, operations, epoch, term)

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        self._state.begin_mending(operations)
        return await asyncio.to_thread(self._write, operations, epoch)

    async def mended(self, reached: Reached = NOTHING) -> None:
        self._state.mended(reached)

    async def applied(self) -> Reached:
        return self._state.applied()

    def _write(
        self, operations: Sequence[Operation], epoch: int, term: int = 0
    ) -> Sequence[Outcome]:
        with self._fence.writing(epoch):
            outcomes = self._shard.write(operations)
            self._shard.applied.advance(term, operations, outcomes)
            return outcomes

    @property
    def reached(self) -> Reached:
        return Reached(version=self._shard.applied.newest)

    async def newest_version(self) -> int:
        return self._shard.newest_version

    async def seal(self, epoch: int) -> int:
        await asyncio.to_thread(self._fence.admit, epoch)
        return await asyncio.to_thread(self._state.newest_stored)

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        self._fence.check(epoch)
        return await asyncio.to_thread(self._state.held, ids)

    async def facts(self) -> ReplicaFacts:
        return await asyncio.to_thread(self._state.facts)

    async def digests(self, bits: int, since: int) -> bytes:
        return await asyncio.to_thread(self._state.digests, bits, since)

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        return await asyncio.to_thread(self._state.entries, bits, since, ranges)

    async def check_rows(self, first: int) -> RowCheck:
        return await asyncio.to_thread(self._state.check_rows, first)

    async def bury(self, generation: int, rows: Sequence[int], epoch: int) -> int:
        with self._fence.writing(epoch):
            return await asyncio.to_thread(self._state.bury, generation, rows)

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        return await asyncio.to_thread(self._state.changes, keys)

    async def backup(self, dest: str) -> ShardCopy:
        return await asyncio.to_thread(copy_shard, self._shard, dest)

    async def compact(self) -> bool:
        return await asyncio.to_thread(self._shard.compact)

    async def status(self) -> ShardStatus:
        return await asyncio.to_thread(self._shard.status)
