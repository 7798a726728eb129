"""A read that must see a write is asked again until some replica has applied it.

It waits outside of the queues, where it would hold up others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from bitsift.errors import BitsiftError, DeadlineExceeded, ReplicaBehind
from bitsift.router.batching import Batcher
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.types import Candidates, Message, Query
from bitsift.write_token import WriteToken

PAUSE_S = 0.02
"""Between two attempts: replicas apply what was acknowledged within some milliseconds."""
MARGIN_S = 0.01
"""Before the deadline: so that the caller learns why there is no answer."""
T = TypeVar("T")


async def seeing(
    batcher: Batcher[Query, Candidates], query: Query, written: WriteToken
) -> Candidates:
    """The answer of a shard that has applied what was ``written`` to it. Raises as the batcher,
    and ReplicaBehind.
    """
    options = replace(query.options, read_your_writes=written.text())
    asked = replace(query, options=options, message=Message())
    return await once_applied(lambda: batcher.enqueue(asked), query.deadline.at_s)


async def once_applied(ask: Callable[[], Awaitable[T]], deadline_s: float) -> T:
    """What ``ask`` gives once it does not raise ReplicaBehind any more; that where it still does,
    or has not answered again, at ``deadline_s`` on the monotonic clock.
    """
    behind: ReplicaBehind | None = None
    ends_s = deadline_s - MARGIN_S
    loop = asyncio.get_running_loop()
    while True:
        until_s = None if behind is None else loop.time() + ends_s - time.monotonic()
        try:
            async with asyncio.timeout_at(until_s) as limit:
                if behind is not None:
                    await asyncio.sleep(PAUSE_S)
                return await ask()
        except ReplicaBehind as error:
            behind = error
        except (TimeoutError, DeadlineExceeded, asyncio.CancelledError):
            # The deadline: kept here, by who was asked, or by the caller in the same turn.
            if behind is None or not (limit.expired() or time.monotonic() >= ends_s):
                raise
            raise behind from None


def note_lacks(
    shard: int,
    replica: Replica,
    queries: Sequence[Query],
    answers: Sequence[Candidates | BitsiftError],
) -> None:
    """Raises ReplicaBehind where that is the answer of ``replica`` to all queries: others may have
    it.
    """
    lacking = [
        (query.least(shard), answer)
        for query, answer in zip(queries, answers, strict=True)
        if isinstance(answer, ReplicaBehind)
    ]
    for version, _ in lacking:
        replica.note_lack(version)
    if len(lacking) == len(answers):
        raise lacking[0][1]
