"""Writes to the shards, each shard's through a Batcher: what waits for it goes in one call, and the
shard commits it in one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from bitsift.errors import (
    BitsiftError,
    RequestOutcome,
    ShardUnavailable,
    reason,
)
from bitsift.router.batching import Batcher
from bitsift.router.shards.breaker import Breaker
from bitsift.router.shards.link import ShardLink
from bitsift.router.shards.placement import Placement
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.router.time_limit import limited
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.types import Found, Wanted
from bitsift.write_token import WriteToken, index_mark

log = logging.getLogger(__name__)

T = TypeVar("T")
OPERATIONS_PER_CALL_MAX = 8
WRITE_TIMEOUT_S = 30.0
FORESEE_TIMEOUT_S = 10.0
MISSES_MAX = 1
"""Writes are patient: a shard that was silent for so long is asked no more, until a trial."""


class ShardWrites:
    """All shards of one index, to write to. Lives in one event loop.

    Nothing is ever sent twice: a second copy that comes late would undo what came in between.
    One call to a shard ends before the next begins, so its operations keep their order.
    """

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = tuple(links)
        self._sets = [ReplicaSet.of(shard, link) for shard, link in enumerate(links)]
        self._placement = Placement(len(links))
        self._breakers = [Breaker(f"shard {shard}", MISSES_MAX) for shard in range(len(links))]
        self._writers = [
            Batcher(self._writer(shard), OPERATIONS_PER_CALL_MAX) for shard in range(len(links))
        ]

    def __len__(self) -> int:
        return len(self._links)

    def _writer(self, shard: int) -> Callable[[list[Operation]], Awaitable[Sequence[Outcome]]]:
        link, breaker = self._links[shard], self._breakers[shard]

        async def write(operations: list[Operation]) -> Sequence[Outcome]:
            said = f"shard {shard} did not confirm the write within {WRITE_TIMEOUT_S:.0f} s"
            if breaker.is_open:  # a trial may end long after its caller: never a write
                await breaker.call(lambda: link.foresee(operations), FORESEE_TIMEOUT_S)
            late = f"{said}; it may have been done"
            async with limited(WRITE_TIMEOUT_S, lambda: late, breaker.missed):
                outcomes = await link.write(operations)
            breaker.answered()
            return outcomes

        return write

    def by_owner(self, ids: Sequence[str], places: Sequence[int]) -> dict[int, list[int]]:
        """``places`` of ``ids`` by the shard that owns them."""
        parts = self._placement.by_owner([ids[place] for place in places])
        return {shard: [places[at] for at in mine.tolist()] for shard, mine in parts.items()}

    async def write(self, parts: Mapping[int, Operation]) -> dict[int, Outcome]:
        """For each shard what became of its part, durable by then, or why it failed."""
        return await _of_each(
            {shard: self._writers[shard].enqueue(part) for shard, part in parts.items()}
        )

    def token(self, index: str, outcomes: Mapping[int, Outcome]) -> WriteToken | None:
        """What sees all that was done of what was just written to shards of the index with the uuid
        ``index``; None where nothing was.
        """
        done = [shard for shard, one in outcomes.items() if not isinstance(one, BitsiftError)]
        if not done:
            return None
        return WriteToken(index_mark(index), {it: self._links[it].reached for it in done})

    async def flushed(self) -> None:
        """Returns when what was written is on all replicas that are not behind."""
        sets = [link for link in self._links if isinstance(link, ReplicaSet)]
        await asyncio.gather(*(link.flushed() for link in sets))

    async def held(self, parts: Mapping[int, Sequence[str]]) -> dict[int, list[int] | BitsiftError]:
        """For each shard the versions of documents of its own, 0 or less where there is none."""
        return await _of_each({shard: self._held(shard, ids) for shard, ids in parts.items()})

    async def stored(self, ids: Sequence[str], wanted: Wanted) -> dict[str, Found]:
        """What is wanted of each document, of each shard within the bytes; an error is that of all
        documents of its shard.
        """
        parts = self.by_owner(ids, range(len(ids)))
        names = {shard: [ids[place] for place in places] for shard, places in parts.items()}
        reads = {shard: self._stored(shard, mine, wanted) for shard, mine in names.items()}
        found = dict[str, Found]()
        for shard, of_shard in (await _of_each(reads)).items():
            if isinstance(of_shard, BitsiftError):
                found |= dict.fromkeys(names[shard], of_shard)
            else:
                found |= zip(names[shard], of_shard, strict=True)
        return found

    async def _stored(self, shard: int, ids: Sequence[str], wanted: Wanted) -> Sequence[Found]:
        said = f"shard {shard} did not say within {FORESEE_TIMEOUT_S:.0f} s which documents it has"
        async with limited(FORESEE_TIMEOUT_S, lambda: said, self._breakers[shard].missed):
            return await self._sets[shard].stored(ids, wanted=wanted)

    async def _held(self, shard: int, ids: Sequence[str]) -> list[int]:
        said = f"shard {shard} did not say within {FORESEE_TIMEOUT_S:.0f} s which documents it has"
        async with limited(FORESEE_TIMEOUT_S, lambda: said, self._breakers[shard].missed):
            return list(await self._sets[shard].held(ids))

    async def foresee(self, parts: Mapping[int, Operation]) -> dict[int, Outcome]:
        """For each shard what ``write`` would say now; errors are of asking: nothing was done."""
        found = await _of_each({shard: self._foresee(shard, part) for shard, part in parts.items()})
        return {
            shard: one.with_outcome(RequestOutcome.NOT_DONE)
            if isinstance(one, BitsiftError)
            else one
            for shard, one in found.items()
        }

    async def _foresee(self, shard: int, operation: Operation) -> Outcome:
        link, breaker = self._links[shard], self._breakers[shard]
        said = f"shard {shard} did not say within {FORESEE_TIMEOUT_S:.0f} s which documents it has"
        async with limited(FORESEE_TIMEOUT_S, lambda: said, breaker.missed):
            (found,) = await breaker.call(lambda: link.foresee([operation]), FORESEE_TIMEOUT_S)
        return found


async def _of_each(calls: Mapping[int, Awaitable[T]]) -> dict[int, T | BitsiftError]:
    """All calls at once, and what each gave: whatever one raises is its own shard's failure, and
    the results of the others, durable by then, are kept.
    """
    results = await asyncio.gather(*calls.values(), return_exceptions=True)
    found: dict[int, T | BitsiftError] = {}
    for shard, result in zip(calls, results, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, BitsiftError):
            log.error("shard %d failed unexpectedly", shard, exc_info=result)
            found[shard] = ShardUnavailable(f"shard {shard} failed unexpectedly ({reason(result)})")
        else:
            found[shard] = result
    return found
