"""WriterActor: the thin Ray wrapper round one WriteService, in a process of low priority."""

from __future__ import annotations

import os
from typing import Any

import ray

from router.description import IndexDescription
from router.encoder import Encoder
from router.remote import RemoteLink
from router.writes import WriteService

NICE = 5
"""Queries go first: the shards and the router run at 0; the model here runs at 19."""


@ray.remote(max_restarts=-1, max_task_retries=0)
class WriterActor:
    """Writes to all shards of one index. Imports the model's libraries when a text needs them."""

    def __init__(
        self, description: IndexDescription, shards: list[Any], encoder: dict[str, Any] | None
    ) -> None:
        """``encoder`` holds the arguments of ``Encoder.load``; None for ready-made vectors."""
        os.nice(NICE)
        links = [RemoteLink(number, actor) for number, actor in enumerate(shards)]
        threads = max(1, (os.cpu_count() or 1) // 2)

        def load() -> Encoder:
            return Encoder.load(**(encoder or {}), threads=threads)

        self._service = WriteService(description, links, None if encoder is None else load)

    async def upsert(self, body: bytes) -> bytes:
        return await self._service.upsert(body)

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int]]:
        return await self._service.upsert_lines(block, first_line, only_errors)

    async def delete(self, body: bytes) -> bytes:
        return await self._service.delete(body)
