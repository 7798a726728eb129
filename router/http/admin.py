"""What an operator asks of a running cluster: back up the index, and drop its deleted rows.

Both may take long, so they have no deadline; searches and writes go on. One runs at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from bitsift.errors import BitsiftError, InvalidRequest, Overloaded
from bitsift.router.http.destinations import destination
from bitsift.router.service import SearchService
from bitsift.shard_worker.maintenance.backup import Backup, BackupReport
from bitsift.shard_worker.types import ShardStatus

log = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 60.0
DEST_CHARACTERS_MAX = 4_096


class BackupRequest(BaseModel):
    """Destination: an absolute path or a URL that every machine with a shard can write to.

    It must be the server's ``--backup-root`` or below it.
    """

    model_config = ConfigDict(extra="forbid")
    dest: Annotated[str, Field(min_length=1, max_length=DEST_CHARACTERS_MAX)]


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What the compaction of a shard freed; concurrent writes blur ``bytes_freed``."""

    shard: int
    rows_dropped: int
    bytes_freed: int


def reclaimed(before: ShardStatus, after: ShardStatus) -> Reclaimed:
    """What lies between two states of one shard."""
    dead = [status.rows - status.documents for status in (before, after)]
    return Reclaimed(
        before.shard, max(0, dead[0] - dead[1]), max(0, before.disk_bytes - after.disk_bytes)
    )


@contextlib.contextmanager
def _without_answers_of(dest: str) -> Iterator[None]:
    """Log what a remote store answered: a caller must learn nothing about other machines."""
    try:
        yield
    except InvalidRequest:  # ours, about the request
        raise
    except BitsiftError as error:
        if "://" not in dest:
            raise
        reference = secrets.token_hex(4)
        log.error("backup %s into %s failed", reference, dest, exc_info=error)
        told = f"the backup failed; see the router's log under {reference}"
        raise type(error)(told).with_outcome(error.outcome) from error


def add_admin(app: FastAPI, service: SearchService, backup_root: str | None) -> None:
    """POST /v1/admin/backup, into ``backup_root`` or below, and POST /v1/admin/compact."""
    busy = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def alone() -> AsyncIterator[None]:
        if busy.locked():
            raise Overloaded("a backup or a compaction is running; try again later")
        async with busy:
            yield

    @app.post("/v1/admin/backup", response_model=BackupReport)
    async def backup(request: BackupRequest) -> Response:
        """Copy the index to a folder or to object storage; only new blocks are sent."""
        dest = await asyncio.to_thread(destination, backup_root, request.dest)
        async with alone():
            uuid, shards = service.description.uuid, service.shards
            with _without_answers_of(dest):
                run = await asyncio.to_thread(Backup, dest, uuid)
                copies = await shards.of_each(lambda link: link.backup(dest))
                report = await asyncio.to_thread(run.finish, copies)
        return Response(orjson.dumps(report), media_type="application/json")

    @app.post("/v1/admin/compact", response_model=list[Reclaimed])
    async def compact() -> Response:
        """Drop the deleted rows of every shard, and free their disk space."""
        async with alone():
            shards = service.shards
            before = await shards.statuses(STATUS_TIMEOUT_S)
            await shards.of_each(lambda link: link.compact())
            after = await shards.statuses(STATUS_TIMEOUT_S)
        found = [reclaimed(*states) for states in zip(before, after, strict=True)]
        return Response(orjson.dumps(found), media_type="application/json")
