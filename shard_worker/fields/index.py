"""``FieldIndex``: which rows of one generation pass a filter, and how it stays so.

Rows never change, and get numbers in order, so an index of them stays right for ever:
what a write adds is rows behind them. Segments (segment.py) are written by housekeeping, or by a
load that has none beside it; rows that are in none yet, the *recent* ones, are looked at one by
one. So a write to a served index costs the field index nothing, and after a crash there is nothing
to mend. A segment takes in those before it that are not much longer, up to 65,536 rows, so a row is
indexed a few times at most.

What a filter was found to pass is kept, and only rows that came later are looked at again. Dead
rows are among it; the search leaves them out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.filters.matching import matches
from bitsift.filters.tree import Node
from bitsift.shard_worker.deadline import Check
from bitsift.shard_worker.fields.bounds import (
    Bounds,
    ColumnOf,
    Unindexed,
    bounds_of,
    full,
    packed,
    put,
)
from bitsift.shard_worker.fields.column import SEGMENT_ROWS_MAX, Column
from bitsift.shard_worker.fields.kept import KeptFilters, Known
from bitsift.shard_worker.fields.recent import RecentTexts
from bitsift.shard_worker.fields.segment import Segment, Texts, build, facts_of
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.fields import Block, FieldBlocks
from bitsift.shard_worker.types import FieldFacts

SEAL_ROWS = 1 << 10
"""So many recent rows become a segment: until then each new filter looks at them, 15 µs a row."""
_GROWTH = 4
"""A segment takes in the one before it that has at most so many times its rows."""
_CHECKED_ROWS = 1 << 8
"""Documents read between two looks at the deadline."""
Take = Callable[[Segment, ColumnOf], None]
_LARGE_CHARACTERS = 1 << 14
"""Of metadata: each test of a larger one, 1 ms or more, is preceded by a look at the deadline."""


class FieldIndex:
    """The field index of one store. Any number of readers; segments are sealed one at a time."""

    def __init__(self, store: Store) -> None:
        """Takes the segments that are sound; rows of others are recent until they are sealed."""
        self._store = store
        self._blocks = FieldBlocks(store)
        self._sealing = threading.Lock()
        self.keeps_up = True
        """Whether writes seal segments: until there is housekeeping."""
        self._kept = KeptFilters()
        self._segments = self._sound_segments()
        self._damaged: frozenset[Segment] = frozenset()
        self._facts = self._segments, facts_of(self._segments)
        self.recent = RecentTexts(self._blocks.texts)
        for segment in self._segments:
            store.reader.note_damaged(segment.first + row for row in segment.unread)

    def _sound_segments(self) -> tuple[Segment, ...]:
        found, stop = [], 0
        for (first, count), catalog in sorted(self._blocks.catalogs().items()):
            segment = Segment.unpacked(first, count, catalog)
            if segment is not None and stop <= first and segment.stop <= self._store.rows:
                found.append(segment)
                stop = segment.stop
        return tuple(found)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """In the order of their rows, of which some may be in none."""
        return self._segments

    @property
    def kept_bytes(self) -> int:
        """RAM of what is remembered of filters."""
        return self._kept.size_bytes

    @property
    def facts(self) -> dict[str, FieldFacts]:
        """What the segments say of the fields that most rows have."""
        segments, facts = self._facts
        if segments is not self._segments:
            segments = self._segments
            facts = facts_of(segments)
            self._facts = segments, facts
        return facts

    # --- which rows ------------------------------------------------------------------------

    def known(self, node: Node, rows: int, check: Check) -> Known:
        """What is known of which of the first ``rows`` rows pass ``node``.

        ``check`` is called now and then; what it raises ends the search.
        """
        found = self._kept.get(node)
        if found is None or found.count < rows:
            start = 0 if found is None else found.count // 8 * 8
            later = self._bounds(node, start, rows, check)
            found = self._kept.put(node, found, start, later)
        return found

    def settle(self, known: Known, node: Node, rows: NDArray[np.int64], check: Check) -> None:
        """Read the documents of ``rows`` (n,), which are in doubt, and remember who passes: of
        those that were read, where ``check`` ends it.
        """
        passing, done = np.zeros(len(rows), dtype=np.bool_), 0
        try:
            for start in range(0, len(rows), _CHECKED_ROWS):
                check()
                part = rows[start : start + _CHECKED_ROWS].tolist()
                for place, texts in enumerate(self._blocks.texts(part), start):
                    passing[place] = texts is not None and _passes(node, texts, check)
                done = start + len(part)
        finally:
            if done:
                known.settle(rows[:done], passing[:done])

    def _bounds(self, node: Node, start: int, rows: int, check: Check) -> Bounds:
        """Bounds of the rows ``start`` … ``rows``; ``start`` begins a byte."""
        lower, upper = (np.zeros(-(-(rows - start) // 8), dtype=np.uint8) for _ in range(2))

        def take(first: int, bounds: Bounds) -> None:
            at, skipped = max(first - start, 0), max(start - first, 0)
            put(lower, at, bounds.lower, skipped, bounds.count)
            put(upper, at, bounds.upper, skipped, bounds.count)

        done = start
        for segment, bounds in self._of_segments(node, start, rows, check):
            if done < segment.first:
                take(done, self._looked_at(node, done, segment.first, check))
            take(segment.first, bounds)
            done = segment.stop
        if done < rows:
            take(done, self._looked_at(node, done, rows, check))
        whole = full(rows - start)  # a segment may go on
        lower &= whole
        upper &= whole
        return Bounds(lower, lower if np.array_equal(lower, upper) else upper, rows - start)

    def _of_segments(
        self, node: Node, start: int, rows: int, check: Check
    ) -> list[tuple[Segment, Bounds]]:
        """Of each segment that has some of the rows ``start`` … ``rows``."""
        found: list[tuple[Segment, Bounds]] = []

        def begin() -> Take:
            found.clear()
            return lambda segment, column_of: found.append(
                (segment, _of_segment(segment, column_of, node))
            )

        self.visit(start, rows, begin, check)
        return found

    def visit(self, start: int, rows: int, begin: Callable[[], Take], check: Check) -> None:
        """Let what ``begin`` gives take each segment that has some of the rows ``start`` …
        ``rows``, in order, with its columns, which are to be used at once.

        Where segments change meanwhile it begins again. Rows that come in no segment are read.
        """
        while True:
            segments, take = self._segments, begin()
            with self._blocks.reading() as block:
                for segment in segments:
                    if segment.stop > start and segment.first < rows:
                        check()
                        take(segment, self._column_of(segment, block))
            if segments is self._segments:
                return
            # else a segment may have gone before its blocks were read

    def texts(self, rows: Sequence[int]) -> Iterator[Texts | None]:
        """Ids and metadata of the documents of ``rows``; None for a damaged one."""
        return self._blocks.texts(rows)

    def _looked_at(self, node: Node, first: int, stop: int, check: Check) -> Bounds:
        """Of rows that are in no segment: their documents are read."""
        found = []
        for begin in range(first, stop, _CHECKED_ROWS):
            check()
            end = min(begin + _CHECKED_ROWS, stop)
            for row, texts in enumerate(self.recent.of(begin, end), begin - first):
                if texts is not None and _passes(node, texts, check):
                    found.append(row)
        count = stop - first
        return Bounds.exactly(packed([np.array(found, dtype=np.int64)], count), count)

    def _column_of(self, segment: Segment, block: Block) -> ColumnOf:
        span = segment.first, segment.count
        opened: dict[str, Column] = {}  # a filter may ask for one several times

        def column_of(name: str) -> Column | None:
            if name in opened:
                return opened[name]
            number = segment.columns.get(name)
            if number is None:
                if name in segment.facts or not segment.is_complete:
                    raise Unindexed
                return None
            held = block(span, number)
            if held is None:
                self._damaged |= {segment}
                raise Unindexed
            return opened.setdefault(name, Column(held))

        return column_of

    # --- sealing ---------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether rows are to be sealed, and can be."""
        return self._store.writes_stopped is None and self._next(SEAL_ROWS) is not None

    def seal(
        self,
        writing: AbstractContextManager[Any],
        go_on: Callable[[], None] = lambda: None,
        rows_min: int = 1,
    ) -> None:
        """Write segments of the rows that are in none, and of damaged ones again.

        Fewer than ``rows_min`` last rows are left. ``writing`` is the writer's lock, held for each
        commit; ``go_on`` is called before each segment, and raises where this is to end. Searches
        and writes go on. Raises StorageFull, WritesStopped.
        """
        with self._sealing:
            while (span := self._next(rows_min)) is not None:
                go_on()
                self._seal(*span, writing)

    def keep_up(self) -> None:
        """Seal a whole segment of the rows that came last: read back at the end of a load of 40 M
        documents, they took a quarter of its time.

        The writer's lock is held, for a second or more. So nothing is done where there is
        housekeeping, nor where many more rows are in no segment, or it failed once. Raises as
        ``seal``.
        """
        last = self._segments[-1].stop if self._segments else 0
        is_due = SEGMENT_ROWS_MAX <= self._store.rows - last < 2 * SEGMENT_ROWS_MAX
        if not (is_due and self.keeps_up and self._sealing.acquire(blocking=False)):
            return
        try:
            self.keeps_up = False
            span = self._next(SEGMENT_ROWS_MAX)
            if span is not None and span[1] > last:  # else some before it are damaged
                self._seal(*span, contextlib.nullcontext())
                self.keeps_up = True
        finally:
            self._sealing.release()

    def _next(self, rows_min: int) -> tuple[int, int, tuple[Segment, ...]] | None:
        """The next segment to write: its first row, its end, and whom it takes in."""
        if not self._blocks.is_kept:
            return None
        rows, sound = self._store.rows, [it for it in self._segments if it not in self._damaged]
        first = 0
        for place, segment in enumerate([*sound, None]):
            following = rows if segment is None else segment.first
            if first < following:
                stop = min(following, _chunk(first) + SEGMENT_ROWS_MAX)
                is_last = segment is None and stop == rows < _chunk(first) + SEGMENT_ROWS_MAX
                if is_last and rows - first < rows_min:
                    return None
                first = _taken_in(sound[:place], first, stop)
                gone = [it for it in self._segments if first < it.stop and it.first < stop]
                return first, stop, tuple(gone)
            if segment is not None:
                first = segment.stop
        return None

    def _seal(
        self,
        first: int,
        stop: int,
        gone: Sequence[Segment],
        writing: AbstractContextManager[Any],
    ) -> None:
        segment, blocks = build(
            first, stop - first, self.recent.of(first, stop), self._store.index_fields
        )
        others = [it for it in self._segments if it not in gone]
        segments = tuple(sorted([*others, segment], key=lambda it: it.first))
        replaced = {(it.first, it.count): it.numbers for it in gone}

        def follow() -> None:
            self._segments = segments
            self._damaged -= set(gone)

        with writing:
            span, end = (first, stop - first), max(it.stop for it in segments)
            self._blocks.replace(span, blocks, replaced, end, follow)

    def forget_sealed(self) -> None:
        """Keep the texts of rows that are in segments no longer: what seals the rows that come next
        may take these in once more, so it is done when none come.
        """
        self.recent.forget_before(_contiguous(self._segments))

    def clear(self) -> None:
        """Forget all segments, on the disk too: all rows are recent. No other write may run."""
        with self._sealing:
            self._blocks.clear()
            self._segments, self._damaged = (), frozenset()


def _taken_in(before: Sequence[Segment], first: int, stop: int) -> int:
    """Where a segment up to ``stop`` begins that takes in those ``before`` it."""
    chunk = _chunk(first)
    ends = stop == chunk + SEGMENT_ROWS_MAX
    for segment in reversed(before):
        near = segment.stop == first and segment.first >= chunk
        if not near or (not ends and segment.count > _GROWTH * (stop - first)):
            break
        first = segment.first
    return first


def _chunk(row: int) -> int:
    """The first row that a segment with ``row`` may have."""
    return row // SEGMENT_ROWS_MAX * SEGMENT_ROWS_MAX


def _contiguous(segments: Sequence[Segment]) -> int:
    """The first row that is in none of them."""
    stop = 0
    for segment in segments:
        if segment.first > stop:
            break
        stop = segment.stop
    return stop


def _of_segment(segment: Segment, column_of: ColumnOf, node: Node) -> Bounds:
    bounds = bounds_of(node, column_of, segment.count)
    if segment.unread:  # nobody knows what these say, so no filter finds them
        unread = packed([np.array(segment.unread)], segment.count)
        bounds = bounds.without(unread)
    return bounds


def _passes(node: Node, texts: Texts, check: Check) -> bool:
    document_id, metadata = texts
    if len(metadata) <= _LARGE_CHARACTERS:
        return matches(node, document_id, orjson.loads(metadata) if metadata else {})
    return matches(node, document_id, orjson.loads(metadata), check)
