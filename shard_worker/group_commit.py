"""Group commit: what several threads want to write at once is written in one transaction.

A synced commit takes as long for one document as for hundreds. Whoever finds the writer free writes
for all who wait; there is no thread of its own, no timer, and no delay for one who is alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from shard_worker.types import Operation, Outcome

DOCUMENTS_MAX = 10_000
"""Documents of several callers that are written together; one caller may bring more."""

Commit = Callable[[Sequence[Operation]], list[list[Outcome]]]
"""Does all operations, no two of which share an id, in one transaction, or none of them."""


class _Ticket:
    """An operation that waits, and then what came of it."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.outcomes: list[Outcome] | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.outcomes is not None or self.error is not None


class GroupCommit:
    """Brings operations of any number of threads together, one transaction at a time.

    It is told with each call how to commit and keeps no reference: its owner would be kept alive by
    it, with all bits in RAM, until Python looks for cycles.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Ticket] = deque()
        self.lock = threading.Lock()
        """Held while something is written; whoever holds it keeps others from writing."""

    def write(self, operations: Sequence[Operation], commit: Commit) -> list[list[Outcome]]:
        """The outcomes of each operation, when all are durable.

        ``commit`` does what others wait for as well, so all callers give the same. Raises what it
        raised for the first operation that failed; those before it were done.
        """
        tickets = [_Ticket(operation) for operation in operations]
        self._waiting.extend(tickets)
        with self.lock:
            while not all(ticket.is_done for ticket in tickets):
                self._write_together(self._take(), commit)
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return [ticket.outcomes or [] for ticket in tickets]

    def _take(self) -> list[_Ticket]:
        """The first that wait, up to a limit, and up to one that shares an id with another."""
        taken: list[_Ticket] = []
        ids: set[str] = set()
        while self._waiting:
            operation = self._waiting[0].operation
            full = len(ids) + len(operation) > DOCUMENTS_MAX
            if taken and (full or not ids.isdisjoint(operation.ids)):
                break
            ids.update(operation.ids)
            taken.append(self._waiting.popleft())
        return taken

    def _write_together(self, tickets: list[_Ticket], commit: Commit) -> None:
        try:
            done = commit([ticket.operation for ticket in tickets])
        except Exception as error:
            if len(tickets) > 1:  # one of them may be to blame: each for itself
                for ticket in tickets:
                    self._write_together([ticket], commit)
            else:
                tickets[0].error = error
            return
        for ticket, outcomes in zip(tickets, done, strict=True):
            ticket.outcomes = outcomes
