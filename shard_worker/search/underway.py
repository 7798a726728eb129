"""The calls in progress in a shard, by name, so that abandoned ones can be stopped from outside.

Ray's own cancellation of a running call is all or nothing, and a call carries the questions of many
clients. So a caller names its calls, and says which questions of one have been given up.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.logs import working_for

EARLY_MAX = 1_000
"""Calls remembered that were given up before they began, the oldest forgotten first."""


class Underway:
    """Any number of threads. Names are the callers'; two never use the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, Sequence[Deadline]] = {}
        self._early: OrderedDict[str, list[int]] = OrderedDict()

    @contextlib.contextmanager
    def call(self, name: str, deadlines: Sequence[Deadline]) -> Iterator[None]:
        """While the call is worked on; ``deadlines`` are those of its questions, in order."""
        with self._lock:
            self._calls[name] = deadlines
            early = self._early.pop(name, [])
        for place in early:
            deadlines[place].cancel()
        try:
            with working_for(name):
                yield
        finally:
            with self._lock:
                del self._calls[name]

    def cancel(self, name: str, places: Sequence[int]) -> None:
        """Nobody waits for these questions of the call, which may not have begun, or have ended."""
        with self._lock:
            deadlines = self._calls.get(name)
            if deadlines is None:
                self._early.setdefault(name, []).extend(places)
                if len(self._early) > EARLY_MAX:
                    self._early.popitem(last=False)
                return
        for place in places:
            deadlines[place].cancel()
