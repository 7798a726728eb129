"""From which replica a document is read: one whose version of it so many replicas have that every
later read finds that version, too, or a newer one.

What a writer has begun, some replicas have and others do not; and if the writer ends there, it may
stay like that until the next one makes them equal. To return what is on one replica only, would be
to show a change that the next reader, who asks others, does not see.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bitsift.errors import Fenced, NotFound, RequestOutcome, ShardUnavailable, said_by
from bitsift.router.shards.background import let_end
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.stored import missing
from bitsift.shard_worker.types import Document, Found

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


async def held_newest(table: Callable[[], Readers], ids: Sequence[str]) -> list[int]:
    """For each id the version of its document, else that of its deletion, negative, else 0: of
    what was acknowledged. Raises ShardUnavailable where too few answer or agree, and Fenced where
    this router's table is old.
    """
    found = await _while_in_doubt(table, lambda readers: _holders(readers, ids))
    return [version for _, version in found]


async def stored_newest(
    table: Callable[[], Readers],
    ids: Sequence[str],
    read: Callable[[Replica, Sequence[str]], Awaitable[Sequence[Found]]],
) -> list[Found]:
    """What ``read`` says of documents, each of a replica that has what was acknowledged; NotFound
    in the place of one that there is not. Raises as ``held_newest``.
    """
    return await _while_in_doubt(table, lambda readers: _stored(readers, ids, read))


async def _while_in_doubt(
    table: Callable[[], Readers], attempt: Callable[[Readers], Awaitable[T]]
) -> T:
    """What ``attempt`` gives once the replicas agree."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while True:
        try:
            return await attempt(table())
        except Fenced:
            if loop.time() > began_s + FENCED_S:
                raise
        except _InDoubt:
            if loop.time() > began_s + TIMEOUT_S:
                said = "the replicas differ: the last write of the document is in doubt; try again"
                raise ShardUnavailable(said).with_outcome(RequestOutcome.NOT_DONE) from None
        await asyncio.sleep(_PAUSE_S)


async def _holders(readers: Readers, ids: Sequence[str]) -> list[tuple[Replica, int]]:
    """For each id a replica that has what enough have of it, and its version as it is ``held``."""
    return await _agreed(readers, lambda it: it.link.held(ids, readers.epoch))


async def _stored(
    readers: Readers,
    ids: Sequence[str],
    read: Callable[[Replica, Sequence[str]], Awaitable[Sequence[Found]]],
) -> list[Found]:
    """The document of a version never changes, so one that is read in the version that was agreed
    on is the one that enough have.
    """
    holders = await _holders(readers, ids)
    found: list[Found] = [missing(name) for name in ids]
    places = defaultdict[Replica, list[int]](list)
    for place, (replica, version) in enumerate(holders):
        if version > NO_VERSION:
            places[replica].append(place)
    for replica, mine in places.items():
        documents = await read(replica, [ids[place] for place in mine])
        for place, one in zip(mine, documents, strict=True):
            is_other = isinstance(one, Document) and one.version != holders[place][1]
            if is_other or isinstance(one, NotFound):
                raise _InDoubt
            found[place] = one
    return found


async def _agreed(
    readers: Readers, ask: Callable[[Replica], Awaitable[Sequence[int]]]
) -> list[tuple[Replica, int]]:
    """Of each document that replicas are asked for a replica, and its version, which enough have.
    All are asked; the first that answer decide.

    Raises _InDoubt where enough answer and do not agree.
    """
    replicas, loop = readers.replicas, asyncio.get_running_loop()
    tasks = [asyncio.ensure_future(ask(it)) for it in replicas]
    until_s, found = loop.time() + TIMEOUT_S, list[tuple[Sequence[int], Replica]]()
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


def _newest(
    found: Sequence[tuple[Sequence[int], Replica]], agreeing: int
) -> list[tuple[Replica, int]] | None:
    """Of each document the newest version that so many have, and the first of them that said so;
    None where they do not agree on all.
    """
    chosen = list[tuple[Replica, int]]()
    for place in range(len(found[0][0])):
        said = [(replica, versions[place]) for versions, replica in found]
        counts = Counter(version for _, version in said)
        enough = [version for version, count in counts.items() if count >= agreeing]
        if not enough:
            return None
        newest = max(enough, key=abs)
        chosen.append(next((replica, it) for replica, it in said if it == newest))
    return chosen


def _answered(
    replicas: Sequence[Replica], tasks: Sequence[asyncio.Future[Sequence[int]]]
) -> list[tuple[Sequence[int], Replica]]:
    """(versions, replica) of those that answered. Raises Fenced where one of them knows of a newer
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
