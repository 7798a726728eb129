"""What clients asked for and were told, and whether it can have been like that."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.linearizable import UNKNOWN_END, Call, violation


@dataclass(slots=True)
class Write:
    """``text`` None deletes. ``end`` is when it was acknowledged; infinite where it was not."""

    key: str
    text: str | None
    start: float
    end: float = UNKNOWN_END
    is_acknowledged: bool = False
    is_not_done: bool = False
    is_swap: bool = False
    expected: str | None = None
    """What a swap takes the place of."""


@dataclass(slots=True)
class Read:
    """``text`` None: there was no such document."""

    key: str
    text: str | None
    start: float
    end: float


class History:
    """All of a run. Times are of one clock, that of the simulation."""

    def __init__(self, writes: Iterable[Write] = ()) -> None:
        self._writes: defaultdict[str, list[Write]] = defaultdict(list)
        self._reads: defaultdict[str, list[Call]] = defaultdict(list)
        for write in writes:
            self.add(write)

    def add(self, write: Write) -> None:
        self._writes[write.key].append(write)

    @property
    def keys(self) -> list[str]:
        return sorted(self._writes)

    def __iter__(self) -> Iterable[Write]:
        return (write for key in self.keys for write in self._writes[key])

    def allowed(self, key: str, start: float, end: float) -> set[str | None]:
        """What a read of ``key`` from ``start`` to ``end`` may have found.

        What a write left that began before the read ended, and after which none was begun *and*
        acknowledged when the read began. Before all writes there is no document.
        """
        found, newest_start = set[str | None](), self._newest_start(key, start)
        if newest_start == -math.inf:
            found.add(None)
        for write in self._writes[key]:
            if write.end >= newest_start and write.start <= end and not write.is_not_done:
                found.add(write.text)
        return found

    def _newest_start(self, key: str, before: float) -> float:
        """When the last write began that was acknowledged ``before``."""
        acknowledged = (it for it in self._writes[key] if it.is_acknowledged and it.end < before)
        return max((it.start for it in acknowledged), default=-math.inf)

    def broken_by(self, read: Read) -> str | None:
        """Why ``read`` cannot have been: by what was acknowledged before it began. It is kept."""
        self._reads[read.key].append(Call(False, read.text, read.start, read.end))
        if read.text in self.allowed(read.key, read.start, read.end):
            return None
        before = [it for it in self._writes[read.key] if it.is_acknowledged and it.end < read.start]
        last = max(before, key=lambda write: write.end, default=None)
        told = "anything" if last is None else repr(last.text)
        at_s = 0.0 if last is None else last.end
        return (
            f"{read.key!r} read as {read.text!r} at {read.start:.3f}, after {told} was "
            f"acknowledged at {at_s:.3f}"
        )

    def broken(self) -> str | None:
        """Why what was read cannot have been, one read after the other: an id for which no order of
        reads and writes explains it.
        """
        for key in self.keys:
            writes = [
                Call(True, write.text, write.start, write.end)
                for write in self._writes[key]
                if not write.is_not_done
            ]
            if (why := violation([*writes, *self._reads[key]])) is not None:
                return f"{key!r}: {why}"
        return None

    def broken_by_swap(self, swap: Write) -> str | None:
        """Why ``swap``, which was acknowledged or refused, cannot have been. No text comes back, so
        that of two that expect the same text one is refused.
        """
        there = self.allowed(swap.key, swap.start, swap.end) - {swap.text}
        told = f"{swap.key!r} from {swap.expected!r} to {swap.text!r} at {swap.start:.3f}"
        if swap.is_not_done:
            alone = there == {swap.expected}
            return f"{told} was refused, where nothing else was" if alone else None
        if swap.expected not in there:
            return f"{told} was done, where one of {there} was"
        same = (
            it
            for it in self._writes[swap.key]
            if it.is_swap and it.is_acknowledged and it.expected == swap.expected
        )
        if swap.expected is not None and sum(1 for _ in same) > 1:
            return f"{told} was done, and another from the same text"
        return None

    def is_invented(self, key: str, text: str, now: float) -> bool:
        """Whether no write can have left it, however old an answer may be."""
        return not any(
            it.text == text and it.start <= now and not it.is_not_done for it in self._writes[key]
        )
