"""The operations that one replica is yet to be sent, in order: each until the replica has it.

Operations carry versions, so that sending one again changes nothing. So a replica that is away for
a moment (its process is started again in two seconds) misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bitsift.errors import (
    BitsiftError,
    Fenced,
    RequestOutcome,
    ShardUnavailable,
    Unavailable,
    said_by,
)
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.operations import Documents, Operation, Outcome
from bitsift.write_status import WriteStatus

OPERATIONS_PER_CALL_MAX = 8
RETRY_S = 0.25
"""Pause before a replica that failed an operation is sent it again."""


class Sending:
    """One operation on its way to all replicas: who has it, and who said why not."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.size_bytes = _size(operation)
        self.done: dict[Replica, list[WriteStatus]] = {}
        self.failed: dict[Replica, BitsiftError] = {}
        """What each replica that does not have it said last."""
        self.first_done_at: float | None = None
        """When the first replica had it, on the monotonic clock."""

    def learn(self, replica: Replica, outcome: Outcome) -> None:
        if isinstance(outcome, BitsiftError):
            before = self.failed.get(replica)
            if before is not None and before.outcome is not RequestOutcome.NOT_DONE:
                outcome = outcome.with_outcome(before.outcome)  # an earlier attempt may come late
            self.failed[replica] = outcome
            return
        self.failed.pop(replica, None)
        self.done[replica] = outcome
        if self.first_done_at is None:
            self.first_done_at = time.monotonic()


def _size(operation: Operation) -> int:
    """About what it takes in RAM."""
    if isinstance(operation, Documents):
        return operation.size_bytes
    return sum(map(len, operation.ids))


class Lane:
    """Sends one replica its operations. Lives in one event loop."""

    def __init__(
        self,
        replica: Replica,
        table: Callable[[], tuple[int, int]],
        on_progress: Callable[[], None],
        waiting: Iterable[Sending] = (),
    ) -> None:
        """``table`` is the epoch of the replica table in use, and the term of the coordinator
        (bitsift/write_token.py); ``on_progress`` is called after each answer. ``waiting`` is sent
        first, when the lane is told to ``go_on``.
        """
        self.replica = replica
        self.waiting = deque(waiting)
        self.size_bytes = sum(sending.size_bytes for sending in self.waiting)
        self.is_fenced = False
        """Whether the replica said that a newer table is in force: it is sent nothing more."""
        self._table = table
        self._on_progress = on_progress
        self._in_flight: Sequence[Sending] = ()
        self._task: asyncio.Task[None] | None = None

    @property
    def head(self) -> Sending | None:
        """The first operation that the replica is not known to have."""
        return self.waiting[0] if self.waiting else None

    @property
    def late_since(self) -> float | None:
        """When another replica had the first operation that this one is not known to have."""
        return None if self.head is None else self.head.first_done_at

    def put(self, sending: Sending) -> None:
        self.waiting.append(sending)
        self.size_bytes += sending.size_bytes
        self.go_on()

    def go_on(self) -> None:
        """Send what waits; also to a replica that refused an earlier table."""
        self.is_fenced = False
        if self._task is None and self.waiting:
            self._task = asyncio.ensure_future(self._run())

    def is_sending(self, sending: Sending) -> bool:
        """Whether it is on its way now."""
        return sending in self._in_flight

    def why_behind(self, laggard_s: float, bytes_max: int) -> str | None:
        """Why the replica is to be left behind: it is ``laggard_s`` later than another, more than
        ``bytes_max`` wait for it, or it will not do what another has done.
        """
        head = self.head
        if head is None or head.first_done_at is None or self.is_fenced:
            return None
        error = head.failed.get(self.replica)
        said = "it has not answered" if error is None else error.message
        if error is not None and is_final(error):
            return said
        if time.monotonic() >= head.first_done_at + laggard_s:
            return f"it is {laggard_s:.0f} s later than another ({said})"
        if self.size_bytes > bytes_max:
            return f"{self.size_bytes >> 20} MiB wait for it ({said})"
        return None

    def remove(self, sending: Sending) -> None:
        """No replica shall have it."""
        with contextlib.suppress(ValueError):
            self.waiting.remove(sending)
            self.size_bytes -= sending.size_bytes

    def close(self) -> None:
        """Send nothing more. What is on its way may be done all the same."""
        for sending in self._in_flight:
            sending.learn(self.replica, ShardUnavailable(f"{self.replica.name} is sent no more"))
        if self._task is not None:
            self._task.cancel()
        self.waiting.clear()
        self.size_bytes = 0

    async def _run(self) -> None:
        try:
            while self.waiting and not self.is_fenced:
                head = self.waiting[0]
                count = 1 if self.replica in head.failed else OPERATIONS_PER_CALL_MAX
                await self._send(list(itertools.islice(self.waiting, count)))
                if self.waiting and self.waiting[0] is head:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._task = None

    async def _send(self, some: list[Sending]) -> None:
        self._in_flight = some
        operations = [sending.operation for sending in some]
        epoch, term = self._table()
        try:
            outcomes = await self.replica.slow_call(
                lambda it: it.link.write(operations, epoch, term)
            )
        except Fenced as error:
            self.is_fenced = epoch == self._table()[0]  # else a newer table has come meanwhile
            outcomes = [error] * len(some)
        except BitsiftError as error:
            outcomes = [error] * len(some)
        except BaseException as error:  # a panic of a library, too: they may have been done
            if _is_cancelled():
                raise
            outcomes = [ShardUnavailable(said_by(error))] * len(some)
        finally:
            self._in_flight = ()
        for sending, outcome in zip(some, outcomes, strict=True):
            sending.learn(self.replica, outcome)
            if isinstance(outcome, list):
                self.remove(sending)
        self._on_progress()


def _is_cancelled() -> bool:
    """Whether the task that runs is told to end from outside."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_final(error: BitsiftError) -> bool:
    """Whether the replica will not do what it failed if it is only asked again."""
    return error.outcome is RequestOutcome.NOT_DONE and not isinstance(error, Unavailable)
