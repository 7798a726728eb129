"""Checking and mending all shards of an index that is being served (shards/examination.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bitsift.router.shards.examination import (
    Progress,
    ReplicaReport,
    mend_replicas,
    verify_replicas,
)
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.router.time_limit import limited

SHARDS_AT_ONCE = 8
"""Each keeps one process half busy, at the lowest priority."""
TIMEOUT_S = 3 * 86_400.0
"""Of a whole check or repair. It keeps the next one, and backups, waiting; one that lasts so long
is held up by a machine.
"""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was found of each replica of each shard. ``is_sound`` where that is nothing."""

    is_sound: bool
    shards: int
    rows: int
    replicas: tuple[ReplicaReport, ...]


class Examination:
    """One check of all ``shards``, or one repair. Lives in one event loop."""

    def __init__(self, shards: FanOut) -> None:
        self._shards = shards
        self._progress = Progress()

    def progress(self) -> tuple[int, int]:
        """How many rows were checked so far, and how many there are, as far as that is known."""
        return self._progress.checked, self._progress.rows

    async def verify(self) -> IndexReport:
        """Check every row, and compare the replicas. Changes nothing.

        Raises DeadlineExceeded after three days, as ``repair`` does.
        """
        work = self._of_each(lambda one: verify_replicas(one.replicas, self._progress))
        return await self._in_time(work, "the check")

    async def repair(self) -> IndexReport:
        """The same, and mend each replica from its peers; what is left is in the report."""
        work = self._of_each(
            lambda one: mend_replicas(one.replicas, one.writes.epoch, self._progress)
        )
        return await self._in_time(work, "the repair (what it has mended stays mended)")

    async def _in_time(self, work: Awaitable[IndexReport], what: str) -> IndexReport:
        def late() -> str:
            checked, rows = self.progress()
            return (
                f"{what} was ended after {TIMEOUT_S / 3_600:,.0f} hours, with {checked:,} of "
                f"{rows:,} known rows checked: look for a slow machine or disk (bitsift status), "
                "then start it again"
            )

        async with limited(TIMEOUT_S, late):
            return await work

    async def _of_each(
        self, examine: Callable[[ReplicaSet], Awaitable[list[ReplicaReport]]]
    ) -> IndexReport:
        slots = asyncio.Semaphore(SHARDS_AT_ONCE)

        async def one(number: int, shard: ReplicaSet) -> list[ReplicaReport]:
            async with slots:
                found = await examine(shard)
            return found or [ReplicaReport(number, "", reason="it has no replica at the moment")]

        tasks = list[asyncio.Task[list[ReplicaReport]]]()
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(one(*it)) for it in enumerate(self._shards.sets)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        parts = [report for task in tasks for report in task.result()]
        is_sound = all(report.is_sound for report in parts)
        rows = sum(report.rows for report in parts)
        return IndexReport(is_sound, len(tasks), rows, tuple(parts))
