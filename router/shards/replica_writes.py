"""Writes to all replicas of a shard.

An operation has one version on all of them, so that they agree in the end whatever happens to one.
It is done when each replica in the table has it on its disk. A replica that fails an operation is
*behind*: it gets no later ones, and the operation is acknowledged when a table without that replica
is in use. So no acknowledged operation is missing on a replica that is asked.

If all replicas failed an operation and its outcome is unknown, one of them may have it. It is sent
to all of them again, in its version, before anything else is written: then they agree.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Sequence

from bitsift.errors import BitsiftError, RequestOutcome, ShardUnavailable, said_by
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.operations import Delete, Documents, Operation, Outcome
from bitsift.write_status import WriteStatus

log = logging.getLogger(__name__)

LAGGARD_S = 5.0
"""How much longer than the first another replica may take to write."""


class ReplicaWrites:
    """The replicas of one shard, to write to. Lives in one event loop; one ``write`` at a time."""

    def __init__(self, shard: int, replicas: Sequence[Replica]) -> None:
        self._shard = shard
        self._replicas = tuple(replicas)
        self._clock = HybridClock()
        self._is_ahead = False
        """Whether the clock gives newer versions than any of the replicas holds."""
        self._behind: dict[Replica, str] = {}
        self._placed = asyncio.Event()
        self._in_doubt: list[Operation] = []
        """Operations of at most one call; nothing else is written before them."""

    @property
    def behind(self) -> tuple[str, ...]:
        """The nodes of the replicas that failed an operation and are still in the table."""
        return tuple(replica.node for replica in self._behind)

    def place(self, replicas: Sequence[Replica]) -> None:
        """Write to these from now on. One that was out of the table in between is trusted again."""
        self._replicas = tuple(replicas)
        self._behind = {it: why for it, why in self._behind.items() if it in replicas}
        self._is_ahead = False
        if len(replicas) == 1:  # whatever it holds: others will be copies of it
            self._in_doubt = []
        self._placed.set()
        self._placed = asyncio.Event()

    async def write(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """The outcome of each over all replicas in the table. Raises ShardUnavailable, not done."""
        if len(self._replicas) == 1 and not self._behind:  # its own clock gives the versions
            (only,) = self._replicas
            return await only.slow_call(lambda it: it.link.write(operations))
        if not self._is_ahead:
            await self._get_ahead()
        if self._in_doubt:
            await self._settle()
        versioned = [
            dataclasses.replace(operation, version=self._clock.tick())
            if isinstance(operation, Documents | Delete)
            else operation
            for operation in operations
        ]
        outcomes = await self._send(versioned)
        acknowledges = any(isinstance(outcome, list) for outcome in outcomes)
        while acknowledges and self._behind:  # not while one that lacks it could be asked
            await self._placed.wait()
        return outcomes

    async def _send(self, operations: Sequence[Operation]) -> list[Outcome]:
        """The outcome of each on the replicas that are not behind. Remembers unknown outcomes, even
        if this is cancelled.
        """
        replicas = self._current()
        self._in_doubt = list(operations)
        outcomes = self._agreed(await self._on_each(replicas, operations))
        self._in_doubt = [
            operation
            for operation, outcome in zip(operations, outcomes, strict=True)
            if isinstance(outcome, BitsiftError) and outcome.outcome is RequestOutcome.UNKNOWN
        ]
        return outcomes

    async def _settle(self) -> None:
        """Raises ShardUnavailable, not done, while the outcome of the last call is unknown."""
        await self._send(self._in_doubt)
        if self._in_doubt:
            said = f"the outcome of the last write to shard {self._shard} is still unknown"
            raise ShardUnavailable(f"{said}; try again").with_outcome(RequestOutcome.NOT_DONE)

    async def newest_version(self) -> int:
        """The newest that any replica knows."""
        return max(await asyncio.gather(*(it.link.newest_version() for it in self._current())))

    def _current(self) -> list[Replica]:
        """The replicas that are not behind."""
        current = [replica for replica in self._replicas if replica not in self._behind]
        if not current:
            said = _listed(self._behind.items())
            error = ShardUnavailable(f"no replica of shard {self._shard} accepts writes ({said})")
            raise error.with_outcome(RequestOutcome.NOT_DONE)
        return current

    async def _get_ahead(self) -> None:
        """Learn the newest version of each replica; one that does not tell it is behind."""
        replicas = self._current()
        calls = [asyncio.wait_for(replica.link.newest_version(), LAGGARD_S) for replica in replicas]
        found = await asyncio.gather(*calls, return_exceptions=True)
        for replica, version in zip(replicas, found, strict=True):
            if isinstance(version, BaseException):
                self._leave_behind(replica, said_by(version))
            else:
                self._clock.observe(version)
        self._is_ahead = True

    async def _on_each(
        self, replicas: Sequence[Replica], operations: Sequence[Operation]
    ) -> dict[Replica, list[Outcome]]:
        """Each replica's outcomes; once one has done any, others have ``LAGGARD_S``."""
        tasks = {
            asyncio.ensure_future(it.slow_call(lambda it: it.link.write(operations))): it
            for it in replicas
        }
        waiting = set(tasks)
        try:
            while waiting and not any(_is_done(task) for task in tasks):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                await asyncio.wait(waiting, timeout=LAGGARD_S)
        finally:
            late = {task for task in tasks if not task.done()}
            for task in late:
                task.cancel()
        return {
            replica: [_late(replica)] * len(operations)
            if task in late
            else _outcomes(task, len(operations))
            for task, replica in tasks.items()
        }

    def _agreed(self, found: dict[Replica, list[Outcome]]) -> list[Outcome]:
        """The outcome of each operation: that of the replica that did most of them, and of all
        that did the same ones. The others are behind.
        """
        done = {it: [isinstance(one, list) for one in said] for it, said in found.items()}
        lead = max(found, key=lambda replica: sum(done[replica]))
        alike = [said for replica, said in found.items() if done[replica] == done[lead]]
        for replica, said in found.items():
            if done[replica] != done[lead]:
                errors = [one for one in said if isinstance(one, BitsiftError)]
                why = errors[0].message if errors else "it did what other replicas did not"
                self._leave_behind(replica, why)
        everyone = list(found.values())
        return [_of_one([said[at] for said in alike], [said[at] for said in everyone])
                for at in range(len(done[lead]))]  # fmt: skip

    def _leave_behind(self, replica: Replica, why: str) -> None:
        log.warning("%s is behind: %s", replica.name, why)
        self._behind[replica] = why


def _of_one(alike: Sequence[Outcome], everyone: Sequence[Outcome]) -> Outcome:
    """The outcome of one operation. It was certainly not done only if all replicas say so."""
    statuses = [outcome for outcome in alike if isinstance(outcome, list)]
    if statuses:
        return [_changed(said) for said in zip(*statuses, strict=True)]
    errors = [outcome for outcome in alike if isinstance(outcome, BitsiftError)]
    sure = all(
        isinstance(one, BitsiftError) and one.outcome is RequestOutcome.NOT_DONE for one in everyone
    )
    return errors[0] if sure else errors[0].with_outcome(RequestOutcome.UNKNOWN)


def _changed(said: Iterable[WriteStatus]) -> WriteStatus:
    """UNCHANGED if all replicas say so, else the first other status."""
    return next((it for it in said if it is not WriteStatus.UNCHANGED), WriteStatus.UNCHANGED)


def _is_done(task: asyncio.Future[Sequence[Outcome]]) -> bool:
    """Whether it has ended and did any operation."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    return any(isinstance(outcome, list) for outcome in task.result())


def _outcomes(task: asyncio.Future[Sequence[Outcome]], count: int) -> list[Outcome]:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        return list(task.result())
    if isinstance(error, BitsiftError):
        return [error] * count
    return [ShardUnavailable(said_by(error))] * count


def _late(replica: Replica) -> BitsiftError:
    return ShardUnavailable(f"{replica.name} did not write within {LAGGARD_S:.0f} s of another")


def _listed(behind: Iterable[tuple[Replica, str]]) -> str:
    return "; ".join(f"{replica.node}: {why}" for replica, why in behind) or "it has none"
