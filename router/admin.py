"""What an operator asks of a running cluster: copy the index, and drop its dead rows.

Both take as long as they take, so they have no deadline; searches and writes go on meanwhile. One
runs at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from router.service import SearchService
from shard_worker.backup import Backup, BackupReport
from shard_worker.errors import InvalidRequest, Overloaded
from shard_worker.types import ShardStatus

STATUS_TIMEOUT_S = 60.0


class BackupRequest(BaseModel):
    """Where to: an absolute path or a URL that every machine with a shard can write to."""

    model_config = ConfigDict(extra="forbid")
    dest: Annotated[str, Field(min_length=1, max_length=4096)]


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What the compaction of a shard brought; rows written meanwhile blur ``bytes_freed``."""

    shard: int
    rows_dropped: int
    bytes_freed: int


def reclaimed(before: ShardStatus, after: ShardStatus) -> Reclaimed:
    """What lies between two states of one shard."""
    dead = [status.rows - status.documents for status in (before, after)]
    return Reclaimed(
        before.shard, max(0, dead[0] - dead[1]), max(0, before.disk_bytes - after.disk_bytes)
    )


def add_admin(app: FastAPI, service: SearchService) -> None:
    """POST /v1/admin/backup and POST /v1/admin/compact."""
    busy = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def alone() -> AsyncIterator[None]:
        if busy.locked():
            raise Overloaded("a backup or a compaction is running; try again when it has ended")
        async with busy:
            yield

    @app.post("/v1/admin/backup", response_model=BackupReport)
    async def backup(request: BackupRequest) -> Response:
        """Copy the index to a folder or to object storage; only what is new there is sent."""
        if not (os.path.isabs(request.dest) or "://" in request.dest):
            raise InvalidRequest(f"dest: {request.dest!r} is neither an absolute path nor a URL")
        async with alone():
            run = await asyncio.to_thread(Backup, request.dest, service.description.uuid)
            copies = await service.shards.of_each(lambda link: link.backup(request.dest))
            return Response(
                orjson.dumps(await asyncio.to_thread(run.finish, copies)),
                media_type="application/json",
            )

    @app.post("/v1/admin/compact", response_model=list[Reclaimed])
    async def compact() -> Response:
        """Drop the dead rows of every shard, and give their disk back."""
        async with alone():
            before = await service.shards.statuses(STATUS_TIMEOUT_S)
            await service.shards.of_each(lambda link: link.compact())
            after = await service.shards.statuses(STATUS_TIMEOUT_S)
        found = [reclaimed(*states) for states in zip(before, after, strict=True)]
        return Response(orjson.dumps(found), media_type="application/json")
