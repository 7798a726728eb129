"""What an operator asks of a running cluster: back up the index, drop its deleted rows, check and
mend its replicas.

All of it may take long; searches and writes go on. One runs at a time, for three days at most. A
check or a repair has ended then (examination.py); of a backup or a compaction a shard may still be
at work, and does the next one after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bitsift.errors import BitsiftError, InvalidRequest, Overloaded
from bitsift.router.examination import Examination
from bitsift.router.http.destinations import destination
from bitsift.router.http.documents_schema import NDJSON
from bitsift.router.http.progress_stream import ProgressStream
from bitsift.router.service import SearchService
from bitsift.router.time_limit import limited
from bitsift.shard_worker.maintenance.backup import Backup, BackupReport
from bitsift.shard_worker.types import ShardStatus

log = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 60.0
JOB_TIMEOUT_S = 3 * 86_400.0
"""Of a whole backup or compaction."""
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


def _ended(what: str) -> AbstractAsyncContextManager[None]:
    """Raises DeadlineExceeded where a job lasts too long: a machine holds it up."""
    said = (
        f"{what} was given up after {JOB_TIMEOUT_S / 3_600:,.0f} hours; shards may still be at it: "
        "look for a slow machine or disk (bitsift status), then start it again"
    )
    return limited(JOB_TIMEOUT_S, lambda: said)


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


_JOB: dict[int | str, dict[str, Any]] = {
    200: {"description": "Lines of JSON", "content": {NDJSON: {"schema": {"type": "string"}}}}
}


def add_admin(app: FastAPI, service: SearchService, backup_root: str | None) -> None:
    """POST /v1/admin/backup, into ``backup_root`` or below, /compact, /verify and /repair."""
    busy = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def alone() -> AsyncIterator[None]:
        if busy.locked():
            raise Overloaded("a backup, compaction, check or repair is running; try again later")
        async with busy:
            yield

    @app.post("/v1/admin/backup", response_model=BackupReport)
    async def backup(request: BackupRequest) -> Response:
        """Copy the index to a folder or to object storage; only new blocks are sent."""
        dest = await asyncio.to_thread(destination, backup_root, request.dest)
        async with alone(), _ended("the backup"):
            uuid, shards = service.description.uuid, service.shards
            with _without_answers_of(dest):
                run = await asyncio.to_thread(Backup, dest, uuid)
                copies = await shards.of_each(lambda link: link.backup(dest))
                report = await asyncio.to_thread(run.finish, copies)
        return Response(orjson.dumps(report), media_type="application/json")

    @app.post("/v1/admin/compact", response_model=list[Reclaimed])
    async def compact() -> Response:
        """Drop the deleted rows of every shard, and free their disk space."""
        async with alone(), _ended("the compaction"):
            shards = service.shards
            before = await shards.statuses(STATUS_TIMEOUT_S)
            await shards.of_each(lambda link: link.compact())
            after = await shards.statuses(STATUS_TIMEOUT_S)
        found = [reclaimed(*states) for states in zip(before, after, strict=True)]
        return Response(orjson.dumps(found), media_type="application/json")

    @app.post("/v1/admin/verify", response_class=Response, responses=_JOB)
    async def verify(http: Request) -> Response:
        """Check every row of every replica against its checksums, and compare the replicas of each
        shard.

        Lines of JSON: once a second `{"done": …, "total": …}` rows, as far as they are known, and
        last `{"report": …}`, or `{"error": …}`. It runs at the lowest priority, and ends when the
        caller hangs up.
        """
        job = Examination(service.shards)
        return ProgressStream(http, alone(), job.verify, job.progress)

    @app.post("/v1/admin/repair", response_class=Response, responses=_JOB)
    async def repair(http: Request) -> Response:
        """Do the same, and mend each replica from its peers: what it lacks, and damaged rows of
        which another replica has the document sound. Nothing stops meanwhile.
        """
        job = Examination(service.shards)
        return ProgressStream(http, alone(), job.repair, job.progress)
