"""The bits in RAM: rows grouped into lists where the shard was trained, then a growing tail.

The tail is a list of segments of ``SEGMENT_ROWS`` rows; only the last one grows, into memory that
was reserved for all of it. So memory never doubles while an index of tens of millions of rows is
loaded, readers need no lock, and a full segment's snapshot file is written once. Training moves
rows from the segments into a file of lists (lists.py), which takes their place: no bit is held
twice. Everything here is derived from the store: a missing, short or damaged file costs a rebuild,
never an answer.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from shard_worker.alive import AliveMarks
from shard_worker.errors import ChecksumMismatch
from shard_worker.hamming import nearest
from shard_worker.layout import replace_file
from shard_worker.lists import LISTS_FILE, ListedBits, write_lists

log = logging.getLogger(__name__)

SEGMENT_ROWS = 1 << 20
_MAGIC = b"BITS\x00\x00\x00\x01"
_HEADER = struct.Struct("<8s16sQQII")  # magic, index uuid, first row, rows, bytes per row, CRC32C


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


class _Segment:
    """Rows ``first`` … ``first + len`` of the shard, with one bit per row that says it is alive.

    The pages of ``bits`` take RAM when they are first written, not when they are reserved. One that
    was loaded has no room to grow until it must: room in huge pages costs up to 2 MB.
    """

    def __init__(self, first: int, row_bytes: int, room: int) -> None:
        self.first = first
        self.bits = np.empty((room, row_bytes), dtype=np.uint8)
        self.alive = AliveMarks(SEGMENT_ROWS)
        self.saved = 0
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, bits: NDArray[np.uint8]) -> int:
        """Append what fits of ``bits`` and return how many rows did; readers see all or none."""
        added = min(len(bits), SEGMENT_ROWS - self._rows)
        if self._rows + added > len(self.bits):
            grown = np.empty((SEGMENT_ROWS, self.bits.shape[1]), dtype=np.uint8)
            grown[: self._rows] = self.bits[: self._rows]
            self.bits = grown
        self.bits[self._rows : self._rows + added] = bits[:added]
        self._rows += added
        return added


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What is searched: swapped as a whole, so that a reader sees one state of it.

    A *slot* is where a row's bits are: its position among the lists, else the row itself.
    """

    listed: ListedBits | None
    segments: tuple[_Segment, ...]

    @property
    def first(self) -> int:
        """The first row of the tail."""
        return 0 if self.listed is None else len(self.listed)

    def by_segment(self, rows: NDArray[np.int64]) -> Iterator[tuple[_Segment, NDArray[np.intp]]]:
        """Each segment with the places of the ``rows`` that it holds."""
        numbers = (rows - self.first) // SEGMENT_ROWS
        for number in np.unique(numbers[rows >= self.first]).tolist():
            yield self.segments[number], np.flatnonzero((numbers == number) & (rows >= self.first))

    def bits_of(self, slots: NDArray[np.int64], row_bytes: int) -> NDArray[np.uint8]:
        found = np.empty((len(slots), row_bytes), dtype=np.uint8)
        if self.listed is not None:
            inside = np.flatnonzero(slots < self.first)
            found[inside] = self.listed.codes[slots[inside]]
        for segment, places in self.by_segment(slots):
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
    """All bits of one shard. One writer at a time; readers at any time."""

    def __init__(self, row_bytes: int, index_uuid: str) -> None:
        self.row_bytes = row_bytes
        self._uuid = bytes.fromhex(index_uuid.replace("-", ""))
        self._parts = _Parts(None, ())

    def __len__(self) -> int:
        parts = self._parts
        return parts.first + sum(len(segment) for segment in parts.segments)

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
        return listed + sum(map(len, parts.segments)) * self.row_bytes + marks

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Append rows: ``bits`` uint8 (n, row_bytes)."""
        assert bits.ndim == 2, bits.shape
        assert bits.shape[1] == self.row_bytes, bits.shape
        while len(bits):
            parts = self._parts
            if not parts.segments or len(parts.segments[-1]) == SEGMENT_ROWS:
                segment = _Segment(len(self), self.row_bytes, SEGMENT_ROWS)
                self._parts = parts = _Parts(parts.listed, (*parts.segments, segment))
            bits = bits[parts.segments[-1].add(bits) :]

    def mark_dead(self, rows: NDArray[np.int64]) -> None:
        """Never return these rows again."""
        _mark_dead(self._parts, np.asarray(rows, dtype=np.int64))

    def is_alive(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row (n,) is alive."""
        parts = self._parts
        alive = np.ones(len(rows), dtype=np.bool_)
        if parts.listed is not None:
            alive[rows < parts.first] = parts.listed.is_row_alive(rows[rows < parts.first])
        for segment, places in parts.by_segment(rows):
            alive[places] = segment.alive.of(rows[places] - segment.first)
        return alive

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
                hits = parts.listed.scan(queries, count)
            else:
                hits = parts.listed.probe(queries, nprobe, count, enough or count)
            for part, hit in zip(found, hits, strict=True):
                part.append(hit)
        for segment in parts.segments:
            bits = segment.bits[: len(segment)]
            distances, offsets = nearest(bits, queries, count, segment.alive.bitmap)
            for part, d, o in zip(found, distances, offsets, strict=True):
                part.append((d[o >= 0], o[o >= 0] + segment.first))
        return [self._pool(parts, part, count) for part in found]

    def _pool(
        self,
        parts: _Parts,
        found: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]],
        count: int,
    ) -> Pool:
        """The nearest of what the parts of the index found for one query."""
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
        segment = max(parts.segments, key=len)
        return segment.bits[: min(rows, len(segment))]

    # --- lists -----------------------------------------------------------------------------

    def write_lists(self, folder: Path, lists: int) -> ListedBits:
        """Group all rows that are there now into ``lists`` lists, in a new file in ``folder``.

        Searches go on meanwhile, and see nothing of it until ``adopt``.
        """
        path = write_lists(folder, self._uuid, self.row_bytes, len(self), lists, self.bits_of)
        return ListedBits(path, self.row_bytes, self._uuid)

    def adopt(self, listed: ListedBits, dead: NDArray[np.int64]) -> None:
        """Let ``listed`` take the place of the rows it holds. No other write may run meanwhile."""
        tail = np.arange(len(listed), len(self), dtype=np.int64)
        successor = BinaryIndex(self.row_bytes, self._uuid.hex())
        successor._parts = _Parts(listed, ())
        for first in range(0, len(tail), SEGMENT_ROWS):
            successor.add(self.bits_of(tail[first : first + SEGMENT_ROWS]))
        successor.mark_dead(dead)
        self._parts = successor._parts

    # --- snapshots -------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the segments that grew since they were last written; remove files of none."""
        parts = self._parts
        for number, segment in enumerate(parts.segments):
            rows = len(segment)
            if rows == segment.saved:
                continue
            bits = segment.bits[:rows].reshape(-1).data
            crc = google_crc32c.value(segment.bits[:rows])
            header = _HEADER.pack(_MAGIC, self._uuid, segment.first, rows, self.row_bytes, crc)
            replace_file(_segment_path(folder, number), header, bits)
            segment.saved = rows
        for path in folder.glob("bits-[0-9]*.bits"):
            if int(path.stem.removeprefix("bits-")) >= len(parts.segments):
                path.unlink()

    def load(self, folder: Path, rows: int) -> str | None:
        """Fill this empty index with the snapshot in ``folder``, up to the store's ``rows``.

        Returns why it stopped before ``rows``, or None. What is missing must be added from the
        store. Never raises for a bad snapshot: it is derived data.
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
                return f"{path} holds rows that the store does not have"
            parts = self._parts
            self._parts = _Parts(parts.listed, (*parts.segments, segment))
            if len(segment) < SEGMENT_ROWS and len(self) < rows:
                return f"{path} is older than the store"
            number += 1
        return None

    def _load_lists(self, folder: Path, rows: int) -> None:
        path = folder / LISTS_FILE
        if not path.exists():
            return
        try:
            listed = ListedBits(path, self.row_bytes, self._uuid)
        except (OSError, ChecksumMismatch) as error:
            log.warning("the approximate index is made anew: %s", error)
            return
        if len(listed) > rows:
            log.warning("%s holds rows that the store does not have; it is made anew", path)
            return
        self._parts = _Parts(listed, ())

    def _read_segment(self, path: Path, first: int) -> _Segment:
        """The segment in a snapshot file. Raises ChecksumMismatch, OSError."""
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                raise ChecksumMismatch(f"{path} is truncated")
            magic, uuid, first_row, rows, row_bytes, crc = _HEADER.unpack(head)
            if (magic, uuid, first_row, row_bytes) != (_MAGIC, self._uuid, first, self.row_bytes):
                raise ChecksumMismatch(f"{path} is not this segment of this index")
            size = path.stat().st_size - _HEADER.size
            if not 0 < rows <= SEGMENT_ROWS or size != rows * row_bytes:
                raise ChecksumMismatch(f"{path} holds {size} bytes for {rows} rows")
            segment = _Segment(first, self.row_bytes, rows)
            file.readinto(segment.bits[:rows].data)
        if google_crc32c.value(segment.bits[:rows]) != crc:
            raise ChecksumMismatch(f"{path} is damaged")
        segment.saved = segment._rows = rows
        return segment


def _mark_dead(parts: _Parts, rows: NDArray[np.int64]) -> None:
    if parts.listed is not None:
        parts.listed.mark_dead(rows[rows < parts.first])
    for segment, places in parts.by_segment(rows):
        segment.alive.mark_dead(rows[places] - segment.first)


def open_index(
    folder: Path,
    index: BinaryIndex,
    rows: int,
    rebuild: Callable[[int, int], Iterator[NDArray[np.uint8]]],
) -> None:
    """Load the snapshot, then add what it lacks: ``rebuild(first, rows)`` yields bits in order."""
    reason = index.load(folder, rows)
    if reason is not None:
        log.info("bits of rows %d to %d come from the store: %s", len(index), rows, reason)
    for bits in rebuild(len(index), rows):
        index.add(bits)
    assert len(index) == rows, (len(index), rows)


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"bits-{number:05d}.bits"
