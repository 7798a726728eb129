"""Facets: how many documents that pass a filter have each value of a field.

The columns of the field index say so; the documents are read of rows of which they do not: those
in no segment yet, fields that are not indexed, values that are not kept. Where that would be too
many, counts are at least so many. A document with several values counts for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.filters.tree import Value, sort_key
from bitsift.shard_worker.deadline import Check
from bitsift.shard_worker.fields.bounds import ColumnOf, Unindexed
from bitsift.shard_worker.fields.contents import Held, stored, stored_values, unkept
from bitsift.shard_worker.fields.index import FieldIndex, Take
from bitsift.shard_worker.fields.segment import Segment

VALUES_MAX = 10_000
"""Values of a field that a shard counts and sends; beyond that the least frequent are forgotten."""
READ_MAX = 10_000
"""Documents that a shard reads for the facets of one question: 0.2 s."""
_CHECKED_ROWS = 256
Counted = tuple[Value, int]


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """So many documents have each value of a field, in no order. At least so many where it is not
    ``is_exact``; there may be other values then.
    """

    counts: Sequence[Counted] = ()
    is_exact: bool = True


class Tally:
    """Counts of values, of at most twice ``VALUES_MAX`` at a time."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, Value], Counted] = {}
        self.is_exact = True

    def add(self, value: Value, count: int) -> None:
        """So many more documents have ``value``."""
        key = sort_key(value)
        known = self._counts.get(key)
        self._counts[key] = value, count + (known[1] if known else 0)
        if len(self._counts) > 2 * VALUES_MAX:
            self._keep_most_frequent()

    def _keep_most_frequent(self) -> None:
        kept = sorted(self._counts, key=lambda key: (-self._counts[key][1], key))[:VALUES_MAX]
        self.is_exact = self.is_exact and len(kept) == len(self._counts)
        self._counts = {key: self._counts[key] for key in kept}

    def counts(self) -> ValueCounts:
        """What was counted, of ``VALUES_MAX`` values at most."""
        self._keep_most_frequent()
        return ValueCounts(list(self._counts.values()), self.is_exact)


def facets(
    index: FieldIndex, passing: NDArray[np.bool_], fields: Sequence[str], check: Check
) -> list[ValueCounts]:
    """Of each of ``fields``, which are paths, over the rows that are ``passing`` (rows,).

    ``check`` is called now and then; what it raises ends this.
    """
    counting = _Counting(passing, fields)
    index.visit(0, len(passing), counting.begin, check)
    counting.read(index, check)
    return [tally.counts() for tally in counting.tallies]


class _Counting:
    def __init__(self, passing: NDArray[np.bool_], fields: Sequence[str]) -> None:
        self._passing = passing
        self._fields = fields
        self.tallies: list[Tally] = []

    def begin(self) -> Take:
        """Counts nothing yet."""
        self.tallies = [Tally() for _ in self._fields]
        self._doubtful: list[list[NDArray[np.int64]]] = [[] for _ in self._fields]
        self._done = 0
        return self._take

    def _take(self, segment: Segment, column_of: ColumnOf) -> None:
        self._leave(self._done, segment.first)
        self._done = segment.stop
        mine = segment.own(self._passing)
        if not mine.any():
            return
        for place, name in enumerate(self._fields):
            try:
                column = column_of(name)
            except Unindexed:
                self._doubtful[place].append(segment.first + np.flatnonzero(mine))
                continue
            if column is None:
                continue
            known, unsure = mine, unkept(column)
            if len(unsure):
                known = mine.copy()
                known[unsure] = False
                self._doubtful[place].append(segment.first + np.flatnonzero(mine & ~known))
            for held in stored(column):
                self._add(self.tallies[place], held, np.bincount(held.places[known[held.rows]]))

    @staticmethod
    def _add(tally: Tally, held: Held, counts: NDArray[np.int64]) -> None:
        """``counts`` are by places. So many values as are not kept anyway are not looked at."""
        found = np.flatnonzero(counts)
        if len(found) > VALUES_MAX:
            tally.is_exact = False
            found = found[np.argpartition(-counts[found], VALUES_MAX)[:VALUES_MAX]]
        for at in found.tolist():
            tally.add(held.value(at), int(counts[at]))

    def _leave(self, first: int, stop: int) -> None:
        rows = first + np.flatnonzero(self._passing[first:stop])
        for doubtful in self._doubtful:
            doubtful.append(rows)

    def read(self, index: FieldIndex, check: Check) -> None:
        """Count the documents of which columns do not say enough, ``READ_MAX`` at most."""
        self._leave(self._done, len(self._passing))
        doubtful = [np.unique(np.concatenate(rows)) for rows in self._doubtful]
        rows = np.unique(np.concatenate([*doubtful, np.empty(0, np.int64)]))[:READ_MAX]
        wanted = [np.isin(rows, each).tolist() for each in doubtful]
        for tally, mine, each in zip(self.tallies, wanted, doubtful, strict=True):
            tally.is_exact = tally.is_exact and sum(mine) == len(each)
        for at, texts in enumerate(index.texts(rows.tolist())):
            if at % _CHECKED_ROWS == 0:
                check()
            metadata = orjson.loads(texts[1]) if texts is not None and texts[1] else {}
            for place, name in enumerate(self._fields):
                if metadata and wanted[place][at]:
                    for value in stored_values(metadata, name):
                        self.tallies[place].add(value, 1)
