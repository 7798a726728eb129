"""What a search of the bits sees: lists, then segments, one immutable object.

A *slot* is where a row's bits are: its position among the lists, else the row itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits.lists import ListedBits
from bitsift.shard_worker.bits.live_rows import ALL_ALIVE, AliveMarks
from bitsift.shard_worker.bits.planes import Planes

SEGMENT_ROWS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows of the shard from ``first`` on: their ``bits``, and who is alive.

    ``bits`` are the written part of ``room``, whose pages take RAM when they are first written, not
    when they are reserved. A segment that was loaded has no room to grow until it must: room in
    huge pages costs up to 2 MB.
    """

    first: int
    bits: Planes
    room: Planes
    alive: AliveMarks = ALL_ALIVE

    def __len__(self) -> int:
        return len(self.bits.first)

    def plus(self, bits: NDArray[np.uint8]) -> Segment:
        """The segment with as many of ``bits`` behind its rows as it takes.

        Readers of this one see nothing of it.
        """
        rows = min(len(self) + len(bits), SEGMENT_ROWS)
        room = self.room
        if rows > len(room):
            room = Planes.empty(SEGMENT_ROWS, bits.shape[1])
            room.first[: len(self)], room.rest[: len(self)] = self.bits.first, self.bits.rest
        room.put(len(self), bits[: rows - len(self)])
        return Segment(
            self.first, room[:rows], room, self.alive
        )  # `replace` takes five times as long

    def without(self, offsets: NDArray[np.int64]) -> Segment:
        return replace(self, alive=self.alive.without(offsets, SEGMENT_ROWS))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What is searched: swapped as a whole, so that a reader sees one state of it, in which of a
    replaced document either the old row is alive or the new one.

    A *slot* is where a row's bits are: its position among the lists, else the row itself. ``lost``
    are living rows whose bits could not be made, for their codes are damaged.
    """

    listed: ListedBits | None = None
    listed_alive: AliveMarks = ALL_ALIVE
    segments: tuple[Segment, ...] = ()
    lost: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return self.first + sum(map(len, self.segments))

    @property
    def first(self) -> int:
        """The first row of the tail."""
        return 0 if self.listed is None else len(self.listed)

    def plus(self, bits: NDArray[np.uint8]) -> Parts:
        """These, and rows behind them."""
        if not len(bits):
            return self
        segments = self.segments
        while len(bits):
            if not segments or len(segments[-1]) == SEGMENT_ROWS:
                first = self.first + sum(map(len, segments))
                room = Planes.empty(SEGMENT_ROWS, bits.shape[1])
                segments = (*segments, Segment(first, room[:0], room))
            grown = segments[-1].plus(bits)
            bits = bits[len(grown) - len(segments[-1]) :]
            segments = (*segments[:-1], grown)
        return Parts(self.listed, self.listed_alive, segments, self.lost)

    def without(self, dead: NDArray[np.int64]) -> Parts:
        """These, with the rows ``dead`` (n,) dead."""
        if not len(dead):
            return self
        listed_alive, segments = self.listed_alive, list(self.segments)
        inside = dead[dead < self.first]
        if self.listed is not None and len(inside):
            positions = self.listed.positions_of(inside)
            listed_alive = listed_alive.without(positions, len(self.listed))
        for number, places in self._by_segment(dead):
            segment = segments[number]
            segments[number] = segment.without(dead[places] - segment.first)
        lost = self.lost.difference(dead.tolist()) if self.lost else self.lost
        return replace(self, listed_alive=listed_alive, segments=tuple(segments), lost=lost)

    def only(self, passing: NDArray[np.uint8], listed: NDArray[np.uint8] | None = None) -> Parts:
        """These where only the living rows in the bitmap ``passing`` are alive, lowest bit first.

        ``listed`` is ``positions_in(passing)`` where the caller has it. A search of these finds no
        other row, whichever way it goes.
        """
        listed_alive = self.listed_alive
        if self.listed is not None:
            by_position = self.positions_in(passing) if listed is None else listed
            listed_alive = listed_alive.only(by_position, len(self.listed))
        marks = [
            segment.alive.only(_from_row(passing, segment.first, len(segment)), len(segment))
            for segment in self.segments
        ]
        return self.with_marks([listed_alive, *marks])

    @property
    def marks(self) -> tuple[AliveMarks, ...]:
        """Of the lists, then of each segment."""
        return (self.listed_alive, *(segment.alive for segment in self.segments))

    def with_marks(self, marks: Sequence[AliveMarks]) -> Parts:
        """These with other ``marks``, in that order."""
        segments = zip(self.segments, marks[1:], strict=True)
        own = tuple(replace(segment, alive=alive) for segment, alive in segments)
        return replace(self, listed_alive=marks[0], segments=own)

    def positions_in(self, passing: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bitmap ``passing`` of rows, as one of positions in the lists."""
        if self.listed is None:
            return np.empty(0, dtype=np.uint8)
        flags = np.unpackbits(passing, count=self.first, bitorder="little")
        return np.packbits(flags.take(self.listed.rows), bitorder="little")

    @property
    def living(self) -> int:
        """How many rows are alive."""
        dead = self.listed_alive.dead + sum(segment.alive.dead for segment in self.segments)
        return len(self) - dead

    def living_slots(self) -> NDArray[np.int64]:
        """The slots of all rows that are alive, int64 (n,) ascending."""
        slots = [self.listed_alive.living(self.first)]
        slots += [it.alive.living(len(it)) + it.first for it in self.segments]
        return np.concatenate(slots)

    def _by_segment(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """The number of each segment with the places of the ``rows`` that it holds."""
        if len(self.segments) == 1 and self.listed is None and len(rows):
            yield 0, np.arange(len(rows))
            return
        numbers = (rows - self.first) // SEGMENT_ROWS
        for number in np.unique(numbers[rows >= self.first]).tolist():
            yield number, np.flatnonzero((numbers == number) & (rows >= self.first))

    def is_alive(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        alive = np.ones(len(rows), dtype=np.bool_)
        if self.listed is not None and self.listed_alive.dead:  # spares the positions
            inside = rows < self.first
            alive[inside] = self.listed_alive.of(self.listed.positions_of(rows[inside]))
        for number, places in self._by_segment(rows):
            segment = self.segments[number]
            alive[places] = segment.alive.of(rows[places] - segment.first)
        return alive

    def bits_of(self, slots: NDArray[np.int64], row_bytes: int) -> NDArray[np.uint8]:
        if self.listed is None and len(self.segments) == 1:
            return self.segments[0].bits.take(slots)
        found = np.empty((len(slots), row_bytes), dtype=np.uint8)
        if self.listed is not None:
            inside = np.flatnonzero(slots < self.first)
            found[inside] = self.listed.codes.take(slots[inside])
        for number, places in self._by_segment(slots):
            segment = self.segments[number]
            found[places] = segment.bits.take(slots[places] - segment.first)
        return found

    def slots_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.listed is None:
            return rows
        slots, inside = rows.copy(), rows < self.first
        slots[inside] = self.listed.positions_of(rows[inside])
        return slots

    def rows_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.listed is None:
            return slots
        rows, inside = slots.copy(), slots < self.first
        rows[inside] = self.listed.rows[slots[inside]]
        return rows


def _from_row(bitmap: NDArray[np.uint8], first: int, rows: int) -> NDArray[np.uint8]:
    """The part of ``bitmap`` that is of ``rows`` rows from ``first`` on."""
    if first % 8 == 0:
        return bitmap[first // 8 : (first + rows + 7) // 8]
    flags = np.unpackbits(bitmap, count=first + rows, bitorder="little")
    return np.packbits(flags[first:], bitorder="little")
