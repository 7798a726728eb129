"""Group commit: what several threads want to write at once is written in one transaction.

A synced commit takes as long for one document as for hundreds. The caller that finds the writer
free writes for all that wait; there is no separate thread, no timer, and no delay for a single
caller.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from bitsift.errors import RequestOutcome, ShardUnavailable, WritesStopped, reason
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import Operation
from bitsift.write_status import WriteStatus

DOCUMENTS_MAX = 10_000
"""Documents of several callers that are written together; a single caller may bring more."""

Commit = Callable[[Sequence[Operation]], list[list[WriteStatus]]]
"""Does all operations, no two of which share an id, in one transaction. An Exception means that
nothing was done, except WritesStopped: then all of it may have been.
"""


class _Call:
    """What one caller wants to write; ``failed`` once an operation of it did."""

    failed = False


class _Ticket:
    """An operation that waits, and then what came of it."""

    def __init__(self, operation: Operation, call: _Call) -> None:
        self.operation = operation
        self.call = call
        self.ids = frozenset(operation.ids)
        self.statuses: list[WriteStatus] | None = None
        self.error: Exception | None = None

    @property
    def follows_a_failure(self) -> bool:
        """Whether it must not be done: what comes in versions is there up to the newest one."""
        return self.call.failed and self.operation.version != NO_VERSION

    def fail(self, error: Exception) -> None:
        self.error, self.call.failed = error, True

    @property
    def is_done(self) -> bool:
        return self.statuses is not None or self.error is not None


class GroupCommit:
    """Brings operations of any number of threads together, one transaction at a time.

    It is told with each call how to commit and keeps no reference: its owner would be kept alive by
    it, with all bits in RAM, until Python looks for cycles.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Ticket] = deque()
        self.lock = threading.Lock()
        """Held while something is written; whoever holds it keeps others from writing."""
        self._refused_until = 0.0

    def refuse(self, seconds: float) -> None:
        """Refuse all for so long. What was being written has ended when this returns."""
        with self.lock:
            self._refused_until = time.monotonic() + seconds

    def write(
        self, operations: Sequence[Operation], commit: Commit
    ) -> list[list[WriteStatus] | Exception]:
        """The statuses of each operation, durable by then, or what ``commit`` raised for it. After
        one that failed no other that has a version is done: the newest version that is there stands
        for all before it (applied.py).

        ``commit`` does what others wait for as well, so all callers give the same. A BaseException
        that is no Exception is raised to the one whose thread met it.
        """
        call = _Call()
        tickets = [_Ticket(operation, call) for operation in operations]
        self._waiting.extend(tickets)
        with self.lock:
            try:
                while not all(ticket.is_done for ticket in tickets):
                    self._write_some(commit)
            finally:
                self._forget(tickets)
        return [ticket.error or ticket.statuses or [] for ticket in tickets]

    def _forget(self, tickets: list[_Ticket]) -> None:
        """Leave nothing in the queue of a caller that leaves by an error."""
        for ticket in tickets:
            if not ticket.is_done:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(ticket)

    def _write_some(self, commit: Commit) -> None:
        """Write for those who wait first. Whatever is raised, each of them is answered."""
        taken: list[_Ticket] = []
        try:
            self._take(taken)
            self._write_together(taken, commit)
        except BaseException as error:  # compiled libraries raise such, too
            for ticket in taken:
                if not ticket.is_done:
                    abandoned = ShardUnavailable(
                        f"the write was abandoned ({reason(error)}); whether it was done is "
                        "unknown: read the documents before sending it again"
                    )
                    ticket.fail(abandoned.with_outcome(RequestOutcome.UNKNOWN))
            raise

    def _take(self, taken: list[_Ticket]) -> None:
        """Move the first that wait, up to a limit, and up to one that shares an id with another."""
        ids: set[str] = set()
        documents = 0
        while self._waiting:
            ticket = self._waiting[0]
            documents += len(ticket.operation)
            if taken and (documents > DOCUMENTS_MAX or not ids.isdisjoint(ticket.ids)):
                break
            ids |= ticket.ids
            taken.append(ticket)
            self._waiting.popleft()

    def _write_together(self, tickets: list[_Ticket], commit: Commit) -> None:
        for ticket in tickets:
            if ticket.follows_a_failure:
                ticket.error = _skipped()
        tickets = [ticket for ticket in tickets if not ticket.is_done]
        if not tickets:
            return
        try:
            if time.monotonic() < self._refused_until:
                refusal = ShardUnavailable(
                    "the shard takes no writes now: others take over its documents"
                )
                raise refusal.with_outcome(RequestOutcome.NOT_DONE)
            done = commit([ticket.operation for ticket in tickets])
        except WritesStopped as error:  # it may have been done, and none of them would be now
            for ticket in tickets:
                ticket.fail(copy.copy(error))
            return
        except Exception as error:
            if len(tickets) > 1:  # one of them may be to blame: each for itself
                for ticket in tickets:
                    self._write_together([ticket], commit)
            else:
                tickets[0].fail(error)
            return
        for ticket, its in zip(tickets, done, strict=True):
            ticket.statuses = its


def _skipped() -> ShardUnavailable:
    error = ShardUnavailable("an operation before this one failed: send both again")
    return error.with_outcome(RequestOutcome.NOT_DONE)
