"""From which replica a document is read: one whose version of it so many replicas have that every
later read finds that version, too, or a newer one.

What a writer has begun, some replicas have and others do not; and if the writer ends there, it may
stay like that until the next one makes them equal. To return what is on one replica only, would be
to show a change that the next reader, who asks others, does not see.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bitsift.errors import Fenced, NotFound, RequestOutcome, ShardUnavailable, said_by
from bitsift.router.shards.background import let_end
from bitsift.router.shards.replica import Replica

TIMEOUT_S = 5.0
FENCED_S = 2.0
"""How long a router that has just missed a new table waits for it."""
_PAUSE_S = 0.05
_OTHERS_S = 0.5
"""Where enough answered and differ, how long the others are waited for before all are asked again.
"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Readers:
    """The replicas of a table, and its epoch. ``count`` of them must answer, and ``agreeing`` must
    have the version that is read.
    """

    replicas: Sequence[Replica]
    count: int
    agreeing: int
    epoch: int


class _InDoubt(Exception):
    """The replicas differ, or what was read is not what they agreed on."""


async def read_newest(
    table: Callable[[], Readers], document_id: str, read: Callable[[Replica], Awaitable[T]]
) -> T:
    """What ``read`` says of a replica that has what was acknowledged. Raises its NotFound,
    ShardUnavailable where too few answer or agree, and Fenced where this router's table is old.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while True:
        try:
            return await _attempt(table(), document_id, read)
        except Fenced:
            if loop.time() > began_s + FENCED_S:
                raise
        except _InDoubt:
            if loop.time() > began_s + TIMEOUT_S:
                said = "the replicas differ: the last write of the document is in doubt; try again"
                raise ShardUnavailable(said).with_outcome(RequestOutcome.NOT_DONE) from None
        await asyncio.sleep(_PAUSE_S)


async def _attempt(
    readers: Readers, document_id: str, read: Callable[[Replica], Awaitable[T]]
) -> T:
    replica, version = await _agreed(readers, document_id)
    try:
        content = await read(replica)
    except NotFound:
        await _check(replica, version, readers.epoch, document_id)
        raise
    await _check(replica, version, readers.epoch, document_id)
    return content


async def _check(replica: Replica, version: int, epoch: int, document_id: str) -> None:
    """Raises _InDoubt where the replica was written to after they agreed."""
    if await replica.link.version(document_id, epoch) != version:
        raise _InDoubt


async def _agreed(readers: Readers, document_id: str) -> tuple[Replica, int]:
    """A replica, and its version, which enough have. All are asked; the first that answer decide.

    Raises _InDoubt where enough answer and do not agree.
    """
    replicas, loop = readers.replicas, asyncio.get_running_loop()
    asks = [it.link.version(document_id, readers.epoch) for it in replicas]
    tasks = [asyncio.ensure_future(ask) for ask in asks]
    until_s, found = loop.time() + TIMEOUT_S, list[tuple[int, Replica]]()
    try:
        while waiting := [task for task in tasks if not task.done()]:
            left_s = until_s - loop.time() if len(found) < readers.count else _OTHERS_S
            done, _ = await asyncio.wait(
                waiting, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED
            )
            found = _answered(replicas, tasks)
            if len(found) >= readers.count and (newest := _newest(found, readers.agreeing)):
                return newest
            if not done:
                break
    finally:
        for task in tasks:
            let_end(task)
            task.cancel()
    if len(found) >= readers.count:
        raise _InDoubt
    said = [said_by(task.exception() or TimeoutError()) for task in tasks if task.done()]
    error = ShardUnavailable(
        f"{readers.count} of {len(replicas)} replicas must say which version of the document they "
        f"have, and fewer did ({'; '.join(said)})"
    )
    raise error.with_outcome(RequestOutcome.NOT_DONE)


def _newest(found: Sequence[tuple[int, Replica]], agreeing: int) -> tuple[Replica, int] | None:
    """The newest version that so many have, and the first of them that said so."""
    counts = Counter(version for version, _ in found)
    newest = max((it for it, count in counts.items() if count >= agreeing), default=None)
    return next(((replica, it) for it, replica in found if it == newest), None)


def _answered(
    replicas: Sequence[Replica], tasks: Sequence[asyncio.Future[int]]
) -> list[tuple[int, Replica]]:
    """(version, replica) of those that answered. Raises Fenced where one of them knows of a newer
    table.
    """
    found = []
    for replica, task in zip(replicas, tasks, strict=True):
        if not task.done() or task.cancelled():
            continue
        error = task.exception()
        if isinstance(error, Fenced):
            raise error
        if error is None:
            found.append((task.result(), replica))
    return found
