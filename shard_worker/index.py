"""The bits in RAM: rows grouped into lists where the shard was trained, then a growing tail.

The tail is a list of segments of ``SEGMENT_ROWS`` rows; only the last one grows, into memory that
was reserved for all of it. So memory never doubles while an index of tens of millions of rows is
loaded, and a full segment's snapshot file is written once. Training moves rows from the segments
into a file of lists (lists.py), which takes their place: no bit is held twice.

Readers need no lock: what they see is one immutable object, which a write replaces. Everything here
is derived from the store: a missing, short or damaged file costs a rebuild, never an answer. A file
names the index and the generation it belongs to, for compaction numbers the rows anew.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from shard_worker.alive import ALL_ALIVE, AliveMarks
from shard_worker.errors import ChecksumMismatch, Corrupt
from shard_worker.hamming import nearest
from shard_worker.layout import replace_file
from shard_worker.lists import LISTS_FILE, ListedBits, Owner, write_lists

log = logging.getLogger(__name__)

SEGMENT_ROWS = 1 << 20
_MAGIC = b"BITS\x00\x00\x00\x01"
_HEADER = struct.Struct("<8s16sIQQII")
"""Magic, index uuid, generation, first row, rows, bytes per row, CRC32C."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The rows nearest to one query, ordered by (distance, row).

    ``distances`` int32 (n,) in bits; ``rows`` int64 (n,); ``bits`` uint8 (n, row_bytes).
    """

    distances: NDArray[np.int32]
    rows: NDArray[np.int64]
    bits: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """Rows of the shard from ``first`` on: ``bits`` uint8 (rows, row_bytes), and who is alive.

    ``bits`` are the written part of ``room``, whose pages take RAM when they are first written, not
    when they are reserved. A segment that was loaded has no room to grow until it must: room in
    huge pages costs up to 2 MB.
    """

    first: int
    bits: NDArray[np.uint8]
    room: NDArray[np.uint8]
    alive: AliveMarks = ALL_ALIVE

    def __len__(self) -> int:
        return len(self.bits)

    def plus(self, bits: NDArray[np.uint8]) -> _Segment:
        """The segment with as many of ``bits`` behind its rows as it takes.

        Readers of this one see nothing of it.
        """
        rows = min(len(self) + len(bits), SEGMENT_ROWS)
        room = self.room
        if rows > len(room):
            room = np.empty((SEGMENT_ROWS, bits.shape[1]), dtype=np.uint8)
            room[: len(self)] = self.bits
        room[len(self) : rows] = bits[: rows - len(self)]
        return replace(self, bits=room[:rows], room=room)

    def without(self, offsets: NDArray[np.int64]) -> _Segment:
        return replace(self, alive=self.alive.without(offsets, SEGMENT_ROWS))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What is searched: swapped as a whole, so that a reader sees one state of it, in which of a
    replaced document either the old row is alive or the new one.

    A *slot* is where a row's bits are: its position among the lists, else the row itself.
    """

    listed: ListedBits | None = None
    listed_alive: AliveMarks = ALL_ALIVE
    segments: tuple[_Segment, ...] = ()

    def __len__(self) -> int:
        return self.first + sum(map(len, self.segments))

    @property
    def first(self) -> int:
        """The first row of the tail."""
        return 0 if self.listed is None else len(self.listed)

    def plus(self, bits: NDArray[np.uint8]) -> Parts:
        """These, and rows behind them."""
        segments = self.segments
        while len(bits):
            if not segments or len(segments[-1]) == SEGMENT_ROWS:
                first = self.first + sum(map(len, segments))
                room = np.empty((SEGMENT_ROWS, bits.shape[1]), dtype=np.uint8)
                segments = (*segments, _Segment(first, room[:0], room))
            grown = segments[-1].plus(bits)
            bits = bits[len(grown) - len(segments[-1]) :]
            segments = (*segments[:-1], grown)
        return replace(self, segments=segments)

    def without(self, dead: NDArray[np.int64]) -> Parts:
        """These, with the rows ``dead`` (n,) dead."""
        listed_alive, segments = self.listed_alive, list(self.segments)
        inside = dead[dead < self.first]
        if self.listed is not None and len(inside):
            positions = self.listed.positions_of(inside)
            listed_alive = listed_alive.without(positions, len(self.listed))
        for number, places in self._by_segment(dead):
            segment = segments[number]
            segments[number] = segment.without(dead[places] - segment.first)
        return replace(self, listed_alive=listed_alive, segments=tuple(segments))

    def _by_segment(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """The number of each segment with the places of the ``rows`` that it holds."""
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
            return self.segments[0].bits[slots]
        found = np.empty((len(slots), row_bytes), dtype=np.uint8)
        if self.listed is not None:
            inside = np.flatnonzero(slots < self.first)
            found[inside] = self.listed.codes[slots[inside]]
        for number, places in self._by_segment(slots):
            segment = self.segments[number]
            found[places] = segment.bits[slots[places] - segment.first]
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


class BinaryIndex:
    """All bits of one generation of one shard. One writer at a time; readers at any time."""

    def __init__(self, row_bytes: int, index_uuid: str, generation: int = 0) -> None:
        self.row_bytes = row_bytes
        self.generation = generation
        self._uuid = bytes.fromhex(index_uuid.replace("-", ""))
        self._parts = Parts()
        self._saved: dict[int, int] = {}
        """How many rows of each segment its snapshot file holds."""

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def listed(self) -> ListedBits | None:
        """The rows that are grouped into lists, if any."""
        return self._parts.listed

    @property
    def memory_bytes(self) -> int:
        """RAM of the bits and of the alive marks."""
        parts = self._parts
        listed = 0 if parts.listed is None else parts.listed.memory_bytes
        marks = sum(segment.alive.memory_bytes for segment in parts.segments)
        bits = sum(map(len, parts.segments)) * self.row_bytes
        return listed + parts.listed_alive.memory_bytes + bits + marks

    @property
    def unsaved_rows(self) -> int:
        """Rows that no snapshot file holds."""
        return sum(map(len, self._parts.segments)) - sum(self._saved.values())

    def apply(self, bits: NDArray[np.uint8], dead: NDArray[np.int64]) -> None:
        """Append rows, ``bits`` uint8 (n, row_bytes), and never return ``dead`` rows (m,) again.

        Both at once, for every search.
        """
        assert bits.ndim == 2, bits.shape
        assert bits.shape[1] == self.row_bytes, bits.shape
        self._parts = self._parts.plus(bits).without(dead)

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Append rows: ``bits`` uint8 (n, row_bytes)."""
        self.apply(bits, np.empty(0, dtype=np.int64))

    def mark_dead(self, rows: NDArray[np.int64]) -> None:
        """Never return these rows (n,) again."""
        self.apply(np.empty((0, self.row_bytes), dtype=np.uint8), np.asarray(rows, dtype=np.int64))

    def moment(self) -> Parts:
        """What is there now, for who looks at it more than once."""
        return self._parts

    def search(
        self,
        queries: NDArray[np.uint8],
        count: int,
        nprobe: int | None = None,
        enough: int | None = None,
    ) -> list[Pool]:
        """The ``count`` nearest living rows to each of ``queries`` (n, row_bytes).

        With ``nprobe`` only the rows of so many lists are compared, and the tail. An exact scan
        finds fewer than ``count`` only when fewer living rows exist, a probe fewer than ``enough``
        (by default ``count``).
        """
        parts = self._parts
        found: list[list[tuple[NDArray[np.int32], NDArray[np.int64]]]] = [[] for _ in queries]
        if parts.listed is not None:
            if nprobe is None:
                hits = parts.listed.scan(queries, count, parts.listed_alive)
            else:
                wanted = enough or count
                hits = parts.listed.probe(queries, nprobe, count, wanted, parts.listed_alive)
            for part, hit in zip(found, hits, strict=True):
                part.append(hit)
        for segment in parts.segments:
            distances, offsets = nearest(segment.bits, queries, count, segment.alive.bitmap)
            for part, d, o in zip(found, distances, offsets, strict=True):
                part.append((d[o >= 0], o[o >= 0] + segment.first))
        return [self._pool(parts, part, count) for part in found]

    def _pool(
        self,
        parts: Parts,
        found: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]],
        count: int,
    ) -> Pool:
        """The nearest of what the parts of the index found for one query."""
        if len(found) == 1 and parts.listed is None:  # in order already
            return Pool(*found[0], parts.bits_of(found[0][1], self.row_bytes))
        distances = np.concatenate([np.empty(0, np.int32), *(part[0] for part in found)])
        slots = np.concatenate([np.empty(0, np.int64), *(part[1] for part in found)])
        rows = parts.rows_of(slots)
        order = np.lexsort((rows, distances))[:count]
        return Pool(distances[order], rows[order], parts.bits_of(slots[order], self.row_bytes))

    def bits_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The packed bits of rows (n,): uint8 (n, row_bytes)."""
        parts = self._parts
        return parts.bits_of(parts.slots_of(rows), self.row_bytes)

    def contiguous(self, rows: int) -> NDArray[np.uint8]:
        """Bits of some rows that lie side by side in RAM, at most ``rows``, without a copy."""
        parts = self._parts
        if parts.listed is not None:
            return parts.listed.codes[:rows]
        return max(parts.segments, key=len).bits[:rows]

    # --- lists -----------------------------------------------------------------------------

    def write_lists(self, folder: Path, lists: int) -> ListedBits:
        """Group all rows that are there now into ``lists`` lists, in a new file in ``folder``.

        Searches go on meanwhile, and see nothing of it until ``adopt``.
        """
        path = write_lists(folder, self.owner, self.row_bytes, len(self), lists, self.bits_of)
        return ListedBits(path, self.row_bytes, self.owner)

    def adopt(self, listed: ListedBits, dead: NDArray[np.int64]) -> None:
        """Let ``listed`` take the place of the rows it holds. No other write may run meanwhile."""
        parts = Parts(listed)
        for first in range(len(listed), len(self), SEGMENT_ROWS):
            tail = np.arange(first, min(first + SEGMENT_ROWS, len(self)), dtype=np.int64)
            parts = parts.plus(self.bits_of(tail))
        self._parts, self._saved = parts.without(dead), {}

    # --- snapshots -------------------------------------------------------------------------

    @property
    def owner(self) -> Owner:
        """What its files are marked with."""
        return self._uuid, self.generation

    def save(self, folder: Path) -> None:
        """Write the segments that grew since they were last written; remove files of none.

        Searches and writes go on meanwhile; ``adopt`` and another ``save`` may not.
        """
        parts = self._parts
        for number, segment in enumerate(parts.segments):
            if len(segment) == self._saved.get(number):
                continue
            facts = segment.first, len(segment), self.row_bytes, google_crc32c.value(segment.bits)
            header = _HEADER.pack(_MAGIC, *self.owner, *facts)
            replace_file(_segment_path(folder, number), header, segment.bits.reshape(-1).data)
            self._saved[number] = len(segment)
        for path in folder.glob("bits-[0-9]*.bits"):
            if int(path.stem.removeprefix("bits-")) >= len(parts.segments):
                path.unlink()

    def load(self, folder: Path, rows: int) -> str | None:
        """Fill this empty index with the snapshot in ``folder``, up to the store's ``rows``.

        Returns why it stopped before ``rows``, or None. What is missing must be added from the
        store. Never raises for a bad snapshot: it is derived data. Raises Corrupt for a good one
        of rows that the store does not have: they were committed before it was written.
        """
        assert len(self) == 0
        for leftover in folder.glob("bits-*.partial"):
            leftover.unlink()
        self._load_lists(folder, rows)
        number = 0
        while len(self) < rows:
            path = _segment_path(folder, number)
            try:
                segment = self._read_segment(path, len(self))
            except (OSError, ChecksumMismatch) as error:
                return str(error)
            if segment.first + len(segment) > rows:
                raise _lost_rows(path, segment.first + len(segment), rows)
            self._parts = replace(self._parts, segments=(*self._parts.segments, segment))
            self._saved[number] = len(segment)
            if len(segment) < SEGMENT_ROWS and len(self) < rows:
                return f"{path} is older than the store"
            number += 1
        return None

    def _load_lists(self, folder: Path, rows: int) -> None:
        path = folder / LISTS_FILE
        if not path.exists():
            return
        try:
            listed = ListedBits(path, self.row_bytes, self.owner)
        except (OSError, ChecksumMismatch) as error:
            log.warning("the approximate index is made anew: %s", error)
            return
        if len(listed) > rows:
            raise _lost_rows(path, len(listed), rows)
        self._parts = Parts(listed)

    def _read_segment(self, path: Path, first: int) -> _Segment:
        """The segment in a snapshot file. Raises ChecksumMismatch, OSError."""
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                raise ChecksumMismatch(f"{path} is truncated")
            magic, *found, first_row, rows, row_bytes, crc = _HEADER.unpack(head)
            expected = _MAGIC, self.owner, first, self.row_bytes
            if (magic, tuple(found), first_row, row_bytes) != expected:
                raise ChecksumMismatch(f"{path} is not this segment of this index")
            size = path.stat().st_size - _HEADER.size
            if not 0 < rows <= SEGMENT_ROWS or size != rows * row_bytes:
                raise ChecksumMismatch(f"{path} holds {size} bytes for {rows} rows")
            bits = np.empty((rows, self.row_bytes), dtype=np.uint8)
            file.readinto(bits.data)
        if google_crc32c.value(bits) != crc:
            raise ChecksumMismatch(f"{path} is damaged")
        return _Segment(first, bits, bits)


def _lost_rows(path: Path, saved: int, rows: int) -> Corrupt:
    return Corrupt(
        f"{path} holds {saved} rows, the store only {rows}: the store lost what was committed to "
        "it; restore it from a backup"
    )


def open_index(
    folder: Path,
    index: BinaryIndex,
    rows: int,
    rebuild: Callable[[int, int], Iterator[NDArray[np.uint8]]],
) -> None:
    """Load the snapshot, then add what it lacks: ``rebuild(first, rows)`` yields bits in order.

    Raises Corrupt when the snapshot holds rows that the store lost.
    """
    reason = index.load(folder, rows)
    if reason is not None:
        log.info("bits of rows %d to %d come from the store: %s", len(index), rows, reason)
    for bits in rebuild(len(index), rows):
        index.add(bits)
    assert len(index) == rows, (len(index), rows)


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"bits-{number:05d}.bits"
