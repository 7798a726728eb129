"""A replica outside of the table gets what it lacks of one in it, while writes go on.

The two are compared, and what differs is sent (router/shards/convergence.py), until so little is
lacking that the rest can be done while writes wait for a moment: then the controller lets it join
(served_index.py).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from bitsift.errors import BitsiftError, FormatMismatch, reason
from bitsift.router.shards.convergence import Progress, equalize
from bitsift.router.shards.remote import RemoteLink
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.search.precedence import priority_of_writes

log = logging.getLogger(__name__)

ENOUGH = 1_000
"""Documents that may be lacking at the end: about what is written during a comparison."""


@dataclass(frozen=True, slots=True)
class CatchUpOrder:
    """The replica of ``shard`` of index ``uuid`` on ``node``, which ``actor`` has open, shall
    become equal to that on node ``source``, under the table of ``epoch``.
    """

    uuid: str
    shard: int
    epoch: int
    node: str
    actor: Any
    source: str
    source_actor: Any


@dataclass(frozen=True, slots=True)
class CatchUpReport:
    """How far it is: see ``Progress``. ``ended_s`` ago it ended, None while it is under way;
    ``error`` says why it failed, ``is_outdated`` that it can only be copied whole.
    """

    uuid: str
    shard: int
    missed: int
    sent: int
    last: int | None
    ended_s: float | None
    error: str | None
    is_outdated: bool


class CatchingUp:
    """One such comparison, in a thread of its own."""

    def __init__(self, order: CatchUpOrder) -> None:
        self.order = order
        self._progress = Progress()
        self._error: str | None = None
        self._is_outdated = False
        self._ended_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="catch-up", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._ended_s is None

    def report(self) -> CatchUpReport:
        order, at = self.order, self._progress
        ended_s = None if self._ended_s is None else time.monotonic() - self._ended_s
        last = at.last if self._error is None else None
        return CatchUpReport(
            order.uuid, order.shard, at.missed, at.sent, last, ended_s, self._error,
            self._is_outdated,
        )  # fmt: skip

    def _run(self) -> None:
        try:
            priority_of_writes()  # until it has caught up, there is a copy less
            asyncio.run(self._equalize())
        except BitsiftError as error:
            self._error, self._is_outdated = error.message, isinstance(error, FormatMismatch)
        except BaseException as error:  # anything: it must reach the operator
            self._error = reason(error)
        if self._error is not None:
            log.warning("shard %d has not caught up: %s", self.order.shard, self._error)
        self._ended_s = time.monotonic()

    async def _equalize(self) -> None:
        order = self.order
        target = replica_of(order.shard, order.node, order.actor)
        both = [replica_of(order.shard, order.source, order.source_actor), target]
        new = [target]
        failed = await equalize(
            both, order.epoch, newcomers=new, targets=new, enough=ENOUGH, progress=self._progress
        )
        for error in failed.values():
            raise error


def replica_of(shard: int, node: str, actor: Any) -> Replica:
    """The one that ``actor`` has open, to be compared."""
    return Replica(shard, node, RemoteLink(shard, actor, node))
