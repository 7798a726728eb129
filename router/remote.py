"""A ShardActor seen as a shard. The one place where Ray's exceptions are translated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import ray
import ray.exceptions

from router.fanout import Found
from shard_worker.deadline import Deadline
from shard_worker.errors import BitsiftError, ShardUnavailable
from shard_worker.types import Candidates, Query, ShardStatus
from shard_worker.wire import pack_queries, unpack_candidates, unpack_documents

T = TypeVar("T")


class RemoteLink:
    """One shard behind a Ray actor handle. Calls are at most once; deadlines are the caller's."""

    def __init__(self, shard: int, actor: Any) -> None:
        self._shard = shard
        self._actor = actor

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        deadline = Deadline.after(timeout_s)
        reference = self._actor.search.remote(pack_queries(queries), deadline)
        return unpack_candidates(await self._call(reference))

    async def documents(self, rows: Sequence[int]) -> list[Found]:
        return unpack_documents(await self._call(self._actor.documents.remote(list(rows))))

    async def status(self) -> ShardStatus:
        return await self._call(self._actor.status.remote())

    async def _call(self, reference: Awaitable[T]) -> T:
        try:
            return await reference
        except asyncio.CancelledError:
            ray.cancel(reference)
            raise
        except (ray.exceptions.RayError, BitsiftError) as error:
            raise translated(error, self._shard) from error


def translated(error: Exception, shard: int) -> BitsiftError:
    """The BitsiftError that a shard raised, or ShardUnavailable for what befell its process."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, BitsiftError):
        return cause
    return ShardUnavailable(
        f"shard {shard} cannot be reached ({type(cause).__name__}: {str(cause).splitlines()[0]})"
    )
