"""The first documents in the order of fields of their metadata, behind a place in that order.

Each segment gives those of its rows that may be among the first: in its columns values are in
order, so only these are looked at closer. Equal ones stand in the order of the hashes of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest
from bitsift.filters.operands import name_of
from bitsift.shard_worker.deadline import Check
from bitsift.shard_worker.fields.bounds import ColumnOf, Unindexed
from bitsift.shard_worker.fields.column import Column
from bitsift.shard_worker.fields.contents import Held, ordered, unkept
from bitsift.shard_worker.fields.index import FieldIndex, Take
from bitsift.shard_worker.fields.segment import Segment
from bitsift.sorting import Place, SortKey, place_in, place_of

READ_MAX = 20_000
"""Documents that a shard reads to sort by fields that are not in the index, or not wholly: 0.4 s a
page."""
_MISSING = 1 << 62
_CHECKED_ROWS = 256
Places = tuple[Place | None, ...]
_Placed = tuple[list[Place | None], NDArray[np.int64]]
"""Distinct places, and for each row the number of its own."""
_Part = tuple[NDArray[np.int64], list[_Placed]]
"""Rows, and where they stand by each key."""


@dataclass(frozen=True, slots=True, eq=False)
class Ordered:
    """Rows that may be among the first, int64 (n,), in order; ``groups`` (n,) numbers those that
    stand alike, from 0, whose places are ``places``.
    """

    rows: NDArray[np.int64]
    groups: NDArray[np.int64]
    places: Sequence[Places]


def first_in_order(
    index: FieldIndex,
    passing: NDArray[np.bool_],
    keys: Sequence[SortKey],
    behind: Places | None,
    limit: int,
    check: Check,
) -> Ordered:
    """Of the rows that are ``passing`` (rows,), those that stand with ``behind`` or behind it, by
    ``keys``: at least ``limit`` that stand behind it, and all that stand alike.

    Raises InvalidRequest where too many documents would have to be read.
    """
    seeking = _Seeking(passing, keys, behind, limit)
    index.visit(0, len(passing), seeking.begin, check)
    seeking.read(index, check)
    return _ordered(seeking.found, keys, behind)


class _Codes:
    """Where each row of a segment stands by one key: numbers that ascend as ``sort`` goes."""

    def __init__(self, column: Column | None, count: int, *, descending: bool) -> None:
        self._held: list[Held] = [] if column is None else ordered(column)
        self._starts = np.cumsum([0, *(len(held.values) for held in self._held)]).tolist()
        self.size = int(self._starts[-1])
        self._descending = descending
        codes = np.full(count, _MISSING, np.int64)
        for start, held in self._by_rank():  # of several values of a row the last one stays
            places = start + held.places
            if descending:
                codes[held.rows] = self.size - 1 - places
            else:
                codes[held.rows[::-1]] = places[::-1]
        self.codes = codes

    def _by_rank(self) -> list[tuple[int, Held]]:
        pairs = list(zip(self._starts, self._held, strict=False))
        return pairs if self._descending else pairs[::-1]

    def place(self, code: int) -> Place | None:
        """What stands at ``code``."""
        if code == _MISSING:
            return None
        at = self.size - 1 - code if self._descending else code
        kind = int(np.searchsorted(self._starts, at, "right")) - 1
        return place_of(self._held[kind].value(at - self._starts[kind]))

    def cut(self, place: Place | None) -> tuple[int, int]:
        """The first code that stands with ``place`` or behind it, and the first behind it."""
        if place is None:
            return _MISSING, _MISSING + 1
        low, high = 0, self.size
        while low < high:
            middle = (low + high) // 2
            found = self.place(middle)
            assert found is not None
            if (found > place) if self._descending else (found < place):
                low = middle + 1
            else:
                high = middle
        return low, low + (low < self.size and self.place(low) == place)


class _Seeking:
    def __init__(
        self,
        passing: NDArray[np.bool_],
        keys: Sequence[SortKey],
        behind: Places | None,
        limit: int,
    ) -> None:
        self._passing = passing
        self._keys = keys
        self._behind = behind
        self._limit = limit
        self.found: list[
            tuple[NDArray[np.int64], list[tuple[list[Place | None], NDArray[np.int64]]]]
        ]

    def begin(self) -> Take:
        """Knows of no row yet."""
        self.found, self._doubtful, self._done = [], list[NDArray[np.int64]](), 0
        return self._take

    def _take(self, segment: Segment, column_of: ColumnOf) -> None:
        self._leave(self._done, segment.first)
        self._done = segment.stop
        mine = segment.own(self._passing)
        if not mine.any():
            return
        try:
            columns = [column_of(key.path) for key in self._keys]
        except Unindexed:
            self._doubtful.append(segment.first + np.flatnonzero(mine))
            return
        for column in columns:
            if column is not None and len(unsure := unkept(column)):
                doubtful = np.zeros_like(mine)
                doubtful[unsure] = True
                self._doubtful.append(segment.first + np.flatnonzero(mine & doubtful))
                mine &= ~doubtful
        codes = [
            _Codes(column, segment.count, descending=key.descending)
            for column, key in zip(columns, self._keys, strict=True)
        ]
        rows = self._first(codes[0], np.flatnonzero(mine))
        placed = []
        for each in codes:
            distinct, inverse = np.unique(each.codes[rows], return_inverse=True)
            placed.append(([each.place(code) for code in distinct.tolist()], inverse))
        self.found.append((segment.first + rows, placed))

    def _first(self, first: _Codes, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of ``rows`` that may be among the first by the first key, and all alike."""
        begin, beyond = (0, 0) if self._behind is None else first.cut(self._behind[0])
        codes = first.codes[rows]
        kept = codes >= begin
        later = codes[codes >= beyond]
        if len(later) > self._limit:
            kept &= codes <= np.partition(later, self._limit - 1)[self._limit - 1]
        return rows[kept]

    def _leave(self, first: int, stop: int) -> None:
        self._doubtful.append(first + np.flatnonzero(self._passing[first:stop]))

    def read(self, index: FieldIndex, check: Check) -> None:
        """Place the documents of which columns do not say enough. Raises InvalidRequest."""
        self._leave(self._done, len(self._passing))
        rows = np.unique(np.concatenate(self._doubtful))
        if len(rows) > READ_MAX:
            names = ", ".join(name_of(key.path) for key in self._keys)
            raise InvalidRequest(
                f"sort: {len(rows):,} documents of a shard would be read for {names}, at most "
                f"{READ_MAX:,} are: sort by what the field index holds, or filter before"
            )
        placed: list[Places] = []
        for at, texts in enumerate(index.texts(rows.tolist())):
            if at % _CHECKED_ROWS == 0:
                check()
            metadata = orjson.loads(texts[1]) if texts is not None and texts[1] else {}
            placed.append(tuple(place_in(metadata, key) for key in self._keys))
        each = np.arange(len(rows), dtype=np.int64)
        self.found.append(
            (rows, [([one[k] for one in placed], each) for k in range(len(self._keys))])
        )


def _ordered(found: Sequence[_Part], keys: Sequence[SortKey], behind: Places | None) -> Ordered:
    rows = np.concatenate([part for part, _ in found])
    columns = [
        _ranked([placed[at] for _, placed in found], key, () if behind is None else (behind[at],))
        for at, key in enumerate(keys)
    ]
    ranks = [each for each, _ in columns]
    if behind is not None:
        limits = [there.index(place) for place, (_, there) in zip(behind, columns, strict=True)]
        kept = _not_before(ranks, limits)
        rows, ranks = rows[kept], [each[kept] for each in ranks]
    order = np.lexsort(ranks[::-1])
    rows, ranks = rows[order], [each[order] for each in ranks]
    starts = np.zeros(len(rows), np.bool_)
    for each in ranks:
        starts[1:] |= each[1:] != each[:-1]
    firsts = [0, *np.flatnonzero(starts).tolist()] if len(rows) else []
    places = [
        tuple(there[each[first]] for each, (_, there) in zip(ranks, columns, strict=True))
        for first in firsts
    ]
    return Ordered(rows, np.cumsum(starts, dtype=np.int64), places)


def _ranked(
    parts: Sequence[_Placed], key: SortKey, more: Places
) -> tuple[NDArray[np.int64], list[Place | None]]:
    """For each row of ``parts`` the number of its place among all of these and ``more``, in order,
    and these.
    """
    known = {place for places, _ in parts for place in places}.union(more)
    sound = (place for place in known if place is not None)
    there: list[Place | None] = [*sorted(sound, reverse=key.descending), None]
    rank = {place: number for number, place in enumerate(there)}
    found = [np.array([rank[it] for it in places], np.int64)[numbers] for places, numbers in parts]
    return np.concatenate(found), there


def _not_before(ranks: Sequence[NDArray[np.int64]], limits: Sequence[int]) -> NDArray[np.bool_]:
    """Which stand with ``limits``, one for each key, or behind."""
    before = np.zeros(len(ranks[0]), np.bool_)
    equal = np.ones(len(ranks[0]), np.bool_)
    for each, limit in zip(ranks, limits, strict=True):
        before |= equal & (each < limit)
        equal &= each == limit
    return ~before
