"""Which replica has the newest version of a document: of so many that one has what was
acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bitsift.errors import Fenced, RequestOutcome, ShardUnavailable, said_by
from bitsift.router.shards.background import let_end
from bitsift.router.shards.replica import Replica

TIMEOUT_S = 5.0
FENCED_S = 2.0
"""How long a router that has just missed a new table waits for it."""
_PAUSE_S = 0.05
Asked = tuple[Sequence[Replica], int, int]
"""The replicas of a table, how many of them must answer, and its epoch."""


async def newest_of(table: Callable[[], Asked], document_id: str) -> Replica:
    """Raises ShardUnavailable where too few answer, Fenced where this router's table is old."""
    loop = asyncio.get_running_loop()
    until = loop.time() + FENCED_S
    while True:
        try:
            return await _of(*table(), document_id)
        except Fenced:
            if loop.time() > until:
                raise
            await asyncio.sleep(_PAUSE_S)


async def _of(replicas: Sequence[Replica], count: int, epoch: int, document_id: str) -> Replica:
    """All are asked; the first ``count`` that answer decide."""
    tasks = [asyncio.ensure_future(it.link.version(document_id, epoch)) for it in replicas]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(len(tasks)):
                waiting = [task for task in tasks if not task.done()]
                if waiting:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                found = _answered(replicas, tasks)
                if len(found) >= count:
                    return max(found, key=lambda one: one[0])[1]
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            let_end(task)
            task.cancel()
    said = [said_by(task.exception() or TimeoutError()) for task in tasks if task.done()]
    error = ShardUnavailable(
        f"{count} of {len(replicas)} replicas must say which version of the document they have, "
        f"and fewer did ({'; '.join(said)})"
    )
    raise error.with_outcome(RequestOutcome.NOT_DONE)


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
