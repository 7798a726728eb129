"""A shard in this process: for evaluation, a search in an index folder, tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bitsift.errors import BitsiftError
from bitsift.options import Mode
from bitsift.shard_worker.maintenance.backup import ShardCopy, copy_shard
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.search.precedence import lowest_priority
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Candidates, Document, Found, Query, Read, ShardStatus


class LocalLink:
    """A plain Shard in this process, searched in worker threads."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
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

    async def document(self, document_id: str) -> Document:
        return await asyncio.to_thread(self._shard.document, document_id)

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return await asyncio.to_thread(self._shard.foresee, operations)

    async def write(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return await asyncio.to_thread(self._shard.write, operations)

    async def newest_version(self) -> int:
        return self._shard.newest_version

    async def backup(self, dest: str) -> ShardCopy:
        return await asyncio.to_thread(copy_shard, self._shard, dest)

    async def compact(self) -> bool:
        return await asyncio.to_thread(self._shard.compact)

    async def status(self) -> ShardStatus:
        return await asyncio.to_thread(self._shard.status)
