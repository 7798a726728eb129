"""A ShardActor seen as a shard, a WriterActor as a writer: the one place where Ray's exceptions are
translated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import ray
import ray.exceptions

from router.fanout import Found
from shard_worker.backup import ShardCopy
from shard_worker.deadline import Deadline
from shard_worker.errors import BitsiftError, ShardUnavailable
from shard_worker.types import Candidates, Document, Operation, Outcome, Query, ShardStatus
from shard_worker.wire import (
    pack_queries,
    pack_writes,
    unpack_candidates,
    unpack_documents,
    unpack_outcomes,
)

T = TypeVar("T")


INLINE_BYTES_MAX = 64 << 10
"""Ray sends arguments up to 100 KiB along with the call; larger ones go to its object store."""


class RemoteLink:
    """One shard behind a Ray actor handle. Calls are at most once; deadlines are the caller's."""

    def __init__(self, shard: int, actor: Any) -> None:
        self._name = f"shard {shard}"
        self._actor = actor

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        deadline = Deadline.after(timeout_s)
        reference = self._actor.search.remote(pack_queries(queries), deadline)
        return unpack_candidates(await _call(reference, self._name))

    async def documents(self, rows: Sequence[int]) -> list[Found]:
        reference = self._actor.documents.remote(list(rows))
        return unpack_documents(await _call(reference, self._name))

    async def document(self, document_id: str) -> Document:
        return await _call(self._actor.document.remote(document_id), self._name)

    async def holds(self, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
        return await _call(self._actor.holds.remote(list(ids), list(digests)), self._name)

    async def write(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
        data = await asyncio.to_thread(pack_writes, operations)
        return unpack_outcomes(await _call(self._actor.write.remote(data), self._name))

    async def backup(self, dest: str) -> ShardCopy:
        return await _call(self._actor.backup.remote(dest), self._name)

    async def compact(self) -> bool:
        return await _call(self._actor.compact.remote(), self._name)

    async def status(self) -> ShardStatus:
        return await _call(self._actor.status.remote(), self._name)


class RemoteWriter:
    """The WriteService of a WriterActor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def upsert(self, body: bytes) -> bytes:
        return await _call(self._actor.upsert.remote(await _sendable(body)), "the writer")

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int]]:
        reference = self._actor.upsert_lines.remote(await _sendable(block), first_line, only_errors)
        return await _call(reference, "the writer")

    async def delete(self, body: bytes) -> bytes:
        return await _call(self._actor.delete.remote(await _sendable(body)), "the writer")


async def _sendable(data: bytes) -> Any:
    """``data``, or where it is large a reference to it; copying it would stop the event loop."""
    return data if len(data) <= INLINE_BYTES_MAX else await asyncio.to_thread(ray.put, data)


async def _call(reference: Awaitable[T], name: str) -> T:
    try:
        return await reference
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise
    except (ray.exceptions.RayError, BitsiftError) as error:
        raise translated(error, name) from error


def translated(error: Exception, name: str) -> BitsiftError:
    """The BitsiftError that an actor raised, or ShardUnavailable for what befell its process."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, BitsiftError):
        return cause
    return ShardUnavailable(
        f"{name} cannot be reached ({type(cause).__name__}: {str(cause).splitlines()[0]})"
    )
