"""Writes to the shards, each shard's through a Batcher: what waits for it goes in one call, and the
shard commits it in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from router.batching import Batcher
from router.fanout import ShardLink
from shard_worker.errors import BitsiftError, DeadlineExceeded
from shard_worker.types import Operation, Outcome

OPERATIONS_PER_CALL_MAX = 8
WRITE_TIMEOUT_S = 30.0
HOLDS_TIMEOUT_S = 10.0
T = TypeVar("T")


class ShardWrites:
    """All shards of one index, to write to. Lives in one event loop.

    Nothing is ever sent twice: a second copy that comes late would undo what was written between.
    One call to a shard ends before the next begins, so its operations keep their order.
    """

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = tuple(links)
        self._writers = [
            Batcher(self._writer(shard), OPERATIONS_PER_CALL_MAX) for shard in range(len(links))
        ]

    def __len__(self) -> int:
        return len(self._links)

    def _writer(self, shard: int) -> Callable[[list[Operation]], Awaitable[list[list[Outcome]]]]:
        async def write(operations: list[Operation]) -> list[list[Outcome]]:
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    return await self._links[shard].write(operations)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"shard {shard} did not say in {WRITE_TIMEOUT_S:.0f} s that it has written; "
                    "it may have: send the same again"
                ) from error

        return write

    async def write(
        self, parts: Mapping[int, Operation]
    ) -> dict[int, list[Outcome] | BitsiftError]:
        """For each shard what became of its part, durable by then, or why it failed."""
        return await _of_each(
            {shard: self._writers[shard].enqueue(part) for shard, part in parts.items()}
        )

    async def holds(
        self, parts: Mapping[int, tuple[Sequence[str], Sequence[bytes]]]
    ) -> dict[int, list[bool] | BitsiftError]:
        """For each shard which ids have the content of the digests and the model's vector."""
        return await _of_each({shard: self._holds(shard, *part) for shard, part in parts.items()})

    async def _holds(self, shard: int, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
        try:
            async with asyncio.timeout(HOLDS_TIMEOUT_S):
                return await self._links[shard].holds(ids, digests)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"shard {shard} did not say in {HOLDS_TIMEOUT_S:.0f} s what it holds"
            ) from error


async def _of_each(calls: Mapping[int, Awaitable[T]]) -> dict[int, T | BitsiftError]:
    """All calls at once; the BitsiftErrors among their results, other exceptions raised."""
    results = await asyncio.gather(*calls.values(), return_exceptions=True)
    found: dict[int, T | BitsiftError] = {}
    for shard, result in zip(calls, results, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, BitsiftError):
            raise result
        found[shard] = result
    return found
