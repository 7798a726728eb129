"""WriterActor: the thin Ray wrapper around one WriteService, in a process of low priority."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import Any

import ray

from bitsift.router.description import IndexDescription
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.reports import WriterReport
from bitsift.router.shards.background import let_end
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.write.service import WriteService
from bitsift.router.write.shard_writes import WRITE_TIMEOUT_S
from bitsift.shard_worker.logs import Form, works_for, write_logs
from bitsift.shard_worker.search.precedence import WRITES_NICE
from bitsift.write_acks import WriteAcks

FLUSHED_S = 2.0
"""For what was written to come to all replicas, while no write begins."""


@ray.remote(max_restarts=-1, max_task_retries=0)
class WriterActor:
    """Writes to all shards of one index. Imports the model's libraries only when a text needs
    them.
    """

    def __init__(
        self,
        description: IndexDescription,
        table: ReplicaTable,
        encoder: EncoderSpec | None,
        acks: WriteAcks = WriteAcks.MAJORITY,
        settings: str = "",
        log_format: Form = "text",
    ) -> None:
        """``table`` says where the shards are, until ``place`` is called.

        ``encoder`` is None for precomputed embeddings. ``acks`` is for shards with replicas.
        ``settings`` names those that a cluster's spec gave.
        """
        write_logs(log_format)
        self._settings = settings
        os.nice(WRITES_NICE)
        self._shards = PlacedShards(table, acks=acks)
        half = max(1, (os.cpu_count() or 1) // 2)
        load = None if encoder is None else replace(encoder, threads=half).load
        self._service = WriteService(description, self._shards.links, load)

    async def place(self, table: ReplicaTable) -> int:
        """Write to the replicas of ``table`` from now on; returns the epoch that is in force.

        Ends ``hold``. Raises InvalidRequest for a table older than that one, or of another number
        of shards of the same index.
        """
        index, before = self._shards.index, self._shards.links
        epoch = self._shards.place(table)
        if self._shards.index != index:
            for link in before:  # what was begun with them has ended by then
                asyncio.get_running_loop().call_later(WRITE_TIMEOUT_S, link.writes.close)
            self._service.switch(self._shards.links, self._shards.index)
        self._service.gate.release()
        for link in self._shards.links:
            let_end(asyncio.ensure_future(link.writes.take_over()))
        return epoch

    async def hold(self, seconds: float) -> None:
        """Let new writes wait until the next ``place``, for ``seconds`` at most.

        Returns when those that were under way have ended: nothing is written until then. Most of
        it is on all replicas that are not behind.
        """
        await self._service.gate.hold(seconds)
        with contextlib.suppress(TimeoutError):  # a shard may have too few replicas that answer
            await asyncio.wait_for(self._service.shards.flushed(), FLUSHED_S)

    async def settle(self) -> tuple[tuple[int, str], ...]:
        """Make the replicas equal while writes are held; (shard, node) of those that are not.

        All that was ever acknowledged is then in each of the others, whichever writer did it.
        Raises ShardUnavailable, Fenced.
        """
        await asyncio.gather(*(link.writes.settle() for link in self._shards.links))
        return self._shards.behind

    async def report(self) -> WriterReport:
        """What a controller must know."""
        missed = {
            (shard, node): missed
            for shard, link in enumerate(self._shards.links)
            for node, missed in link.writes.missed.items()
        }
        return WriterReport(missed, self._settings)

    async def for_request(self, request_id: str, method: str, data: bytes, *arguments: Any) -> Any:
        """``upsert``, ``upsert_lines`` or ``delete`` for a request, which its log lines name."""
        works_for(request_id)
        return await getattr(self, method)(data, *arguments)

    async def upsert(self, body: bytes) -> bytes:
        return await self._service.upsert(body)

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int], str | None]:
        return await self._service.upsert_lines(block, first_line, only_errors)

    async def delete(self, body: bytes) -> bytes:
        return await self._service.delete(body)

    async def patch(self, body: bytes) -> bytes:
        return await self._service.patch(body)
