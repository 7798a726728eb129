"""Whether what clients saw of one id can have been: a search for an order of its operations.

An id is a register. A history is *linearizable* if each operation can be given a moment between its
begin and its end, so that every read returns what the last write before it wrote. A write whose
outcome is not known may have its moment at any time after it began, or none.

The search (Wing and Gong 1993, with the memory of Lowe 2017) goes through the begins and ends in
the order of time, and keeps every *configuration* that is possible: the value, and which of the
operations under way have had their moment. No two writes have the same text, which keeps these few:

* A read that would fit now may as well have its moment now.
* A text that will be read again cannot be overwritten now.
* A write that nobody will read any more costs nothing where another write follows it.
* A write of unknown outcome that nobody read is none; one that was read had its moment before that
  read ended. Deletions of unknown outcome are all alike: it is enough to count those that were
  needed, because a read found nothing. Of other deletions the one that ends first goes first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

UNKNOWN_END = math.inf
_SHOWN = 12
Value = str | None
Configurations = dict[tuple[Value, frozenset[int]], int]
"""(value, places of operations under way that have had their moment) → deletions of unknown outcome
that it took, at least.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation on one id that a client began and that may have done something. ``value`` is
    what it wrote or read; None is no document. Times are of one clock; ``end`` is infinite where
    the outcome of a write is not known.
    """

    is_write: bool
    value: Value
    begin: float
    end: float = UNKNOWN_END

    def __str__(self) -> str:
        what = "nothing" if self.value is None else repr(self.value)
        did = "wrote" if self.is_write else "read"
        return f"{self.begin:.3f} to {self.end:.3f} {did} {what}"


def violation(calls: Iterable[Call]) -> str | None:
    """Why no order of ``calls`` explains them, or None where one does. No id has a document at the
    beginning, and no two writes the same text.
    """
    known, deletions = _prepared(list(calls))
    search = _Search(known, deletions)
    for _, is_end, place in _events(known):
        if is_end:
            before, search.possible = search.possible, search.after(place)
            if not search.possible:
                return _said(known, place, {value for value, _ in before})
        else:
            search.begin(place)
    return None


def _prepared(calls: Sequence[Call]) -> tuple[list[Call], list[float]]:
    """The calls that must have had a moment, by their begins; and when deletions of unknown outcome
    began, in order.
    """
    texts = [call.value for call in calls if call.is_write and call.value is not None]
    assert len(set(texts)) == len(texts), "two writes have the same text"
    first_read: defaultdict[Value, float] = defaultdict(lambda: math.inf)
    for call in calls:
        if not call.is_write:
            first_read[call.value] = min(first_read[call.value], call.end)
    known, deletions = [], []
    for call in sorted(calls, key=lambda one: one.begin):
        if call.end < math.inf:
            known.append(call)
        elif call.value is None:
            deletions.append(call.begin)
        elif first_read[call.value] < math.inf:
            known.append(replace(call, end=max(call.begin, first_read[call.value])))
    return known, deletions


def _events(calls: Sequence[Call]) -> Iterator[tuple[float, bool, int]]:
    """(time, whether it is an end, place) in order; of one instant the begins first."""
    begins = [(call.begin, False, place) for place, call in enumerate(calls)]
    ends = [(call.end, True, place) for place, call in enumerate(calls)]
    return iter(sorted(begins + ends))


class _Search:
    """What is possible at one time."""

    def __init__(self, calls: Sequence[Call], deletions: Sequence[float]) -> None:
        self._calls, self._deletions = calls, deletions
        reads = [call for call in calls if not call.is_write]
        self._last_begin = _latest((read.value, read.begin) for read in reads)
        self._last_end = _latest((read.value, read.end) for read in reads)
        self._under_way: list[int] = []
        self.possible: Configurations = {(None, frozenset()): 0}

    def begin(self, place: int) -> None:
        self._under_way.append(place)
        found = Configurations()
        for (value, done), used in self.possible.items():
            _keep(found, value, self._with_reads(value, done), used)
        self.possible = found

    def after(self, place: int) -> Configurations:
        """When the call at ``place`` has ended: it has had its moment, after others perhaps."""
        found, seen = Configurations(), dict(self.possible)
        waiting = list(self.possible)
        while waiting:
            value, done = key = waiting.pop()
            used = seen[key]
            if place in done:
                _keep(found, value, done - {place}, used)
                continue
            for new_value, new_done, new_used in self._next(value, done, used, place):
                reached = new_value, self._with_reads(new_value, new_done)
                if new_used < seen.get(reached, math.inf):
                    seen[reached] = new_used
                    waiting.append(reached)
        self._under_way.remove(place)
        return found

    def _next(
        self, value: Value, done: frozenset[int], used: int, ending: int
    ) -> Iterator[tuple[Value, frozenset[int], int]]:
        """What one more write makes of a configuration, when the call at ``ending`` ends."""
        now = self._calls[ending].end
        if value is not None and self._last_begin[value] > now:
            return
        left = [place for place in self._under_way if place not in done]
        writes = [place for place in left if self._calls[place].is_write]
        idle = {place for place in writes if self._last_end[self._calls[place].value] < now}
        done |= idle
        if ending in idle:
            yield self._calls[ending].value, done, used
        deletions = [it for it in writes if it not in idle and self._calls[it].value is None]
        texts = [it for it in writes if it not in idle and self._calls[it].value is not None]
        for place in texts + sorted(deletions, key=lambda it: self._calls[it].end)[:1]:
            yield self._calls[place].value, done | {place}, used
        is_needed = any(self._calls[it].value is None for it in left if it not in writes)
        if is_needed and used < len(self._deletions) and self._deletions[used] <= now:
            yield None, done, used + 1

    def _with_reads(self, value: Value, done: frozenset[int]) -> frozenset[int]:
        """``done`` and the reads under way of ``value``: they change nothing."""
        fits = (
            place
            for place in self._under_way
            if not self._calls[place].is_write and self._calls[place].value == value
        )
        return done.union(fits)


def _latest(times: Iterable[tuple[Value, float]]) -> defaultdict[Value, float]:
    """The last time of each value; minus infinity of one that has none."""
    found: defaultdict[Value, float] = defaultdict(lambda: -math.inf)
    for value, time in times:
        found[value] = max(time, found[value])
    return found


def _keep(found: Configurations, value: Value, done: frozenset[int], used: int) -> None:
    key = value, done
    found[key] = min(used, found.get(key, used))


def _said(calls: Sequence[Call], place: int, values: Iterable[Value]) -> str:
    wrong = calls[place]
    before = [call for call in calls if call.begin <= wrong.end and call is not wrong]
    lines = [f"    {call}" for call in sorted(before, key=lambda one: one.end)[-_SHOWN:]]
    possible = ", ".join(sorted("nothing" if one is None else repr(one) for one in values))
    return "\n".join([f"{wrong}: no order explains it; possible was {possible}, after", *lines])
