"""The bits in RAM: rows grouped into lists where the shard was trained, then a growing tail.

The tail is a list of segments of ``SEGMENT_ROWS`` rows; only the last one grows, into memory that
was reserved for all of it. So memory never doubles while an index of tens of millions of rows is
loaded, and a full segment's snapshot file is written once. Training moves rows from the segments
into a file of lists (lists.py), which takes their place: no bit is held twice.

Readers need no lock: what they see is one immutable object, which a write replaces. Everything here
is derived from the store: a missing, short or damaged file costs a rebuild, never an answer. A file
names the index and the generation it belongs to, because compaction renumbers the rows.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch, Corrupt
from bitsift.shard_worker.bits import parts as bit_parts
from bitsift.shard_worker.bits.hamming import nearest
from bitsift.shard_worker.bits.lists import LISTS_FILE, ListedBits, Owner, write_lists
from bitsift.shard_worker.bits.parts import Parts, Segment
from bitsift.shard_worker.bits.planes import Planes
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.layout import remove_partials, replacing

log = logging.getLogger(__name__)

_MAGIC = b"BITS\x00\x00\x00\x01"
_HEADER = struct.Struct("<8s16sIQQII")
"""Magic, index uuid, generation, first row, rows, bytes per row, CRC32C."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The rows nearest to one query, ordered by (distance, row), of the moment ``parts``.

    ``distances`` int32 (n,) in bits; ``rows`` and ``slots`` int64 (n,).
    """

    distances: NDArray[np.int32]
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    parts: Parts
    row_bytes: int

    def __len__(self) -> int:
        return len(self.rows)

    def bits(self, first: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Those of the places ``first`` … ``stop``, uint8 (n, row_bytes): most of a wide pool is
        never looked at, and each row is a miss of the cache.
        """
        return self.parts.bits_of(self.slots[first:stop], self.row_bytes)

    def at(self, places: NDArray[np.bool_] | NDArray[np.intp]) -> Pool:
        """The rows at ``places``."""
        chosen = self.distances[places], self.rows[places], self.slots[places]
        return Pool(*chosen, self.parts, self.row_bytes)


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
        """RAM of the bits and of the alive marks, without the room for rows to come."""
        parts = self._parts
        listed = 0 if parts.listed is None else parts.listed.memory_bytes
        marks = sum(min(it.alive.memory_bytes, -(-len(it) // 8)) for it in parts.segments)
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

    def note_lost(self, rows: Iterable[int]) -> None:
        """The codes of these rows are damaged, so their bits are unknown: no search finds them.
        Every answer must say so while they live, and no snapshot may contain them.
        """
        self._parts = replace(self._parts, lost=self._parts.lost.union(rows))

    def moment(self) -> Parts:
        """An immutable snapshot, for callers that read it more than once."""
        return self._parts

    def search(
        self,
        queries: NDArray[np.uint8],
        count: int,
        nprobe: int | None = None,
        enough: int | None = None,
        deadlines: Sequence[Deadline] | None = None,
        parts: Parts | None = None,
        first_share: float | None = None,
    ) -> list[Pool]:
        """The ``count`` nearest living rows to each of ``queries`` (n, row_bytes), of those of
        ``parts``: of all by default.

        With ``nprobe`` only the rows of so many lists are compared, and the tail; with
        ``first_share`` rows, but for that tail, by their first bits, and so many by the rest. A
        scan finds fewer than ``count`` only when fewer living rows exist, a probe fewer than
        ``enough`` (by default ``count``). A query whose deadline is over is left out at the next
        step of the scan: its pool is not to be used.
        """
        parts = self._parts if parts is None else parts
        found: list[list[tuple[NDArray[np.int32], NDArray[np.int64]]]] = [[] for _ in queries]
        if parts.listed is not None:
            if nprobe is None:
                marks = parts.listed_alive
                hits = parts.listed.scan(queries, count, marks, deadlines, first_share)
            else:
                wanted = enough or count
                asked = queries, nprobe, count, wanted, parts.listed_alive, deadlines
                hits = parts.listed.probe(*asked, first_share)
            for part, hit in zip(found, hits, strict=True):
                part.append(hit)
        for segment in parts.segments:
            own = segment.bits, queries, count, segment.alive.bitmap, deadlines
            distances, offsets = nearest(*own, first_share if nprobe is None else None)
            for part, d, o in zip(found, distances, offsets, strict=True):
                part.append((d[o >= 0], o[o >= 0] + segment.first))
        return [self._pool(parts, part, count) for part in found]

    def search_gathered(
        self,
        queries: NDArray[np.uint8],
        count: int,
        parts: Parts,
        deadlines: Sequence[Deadline] | None = None,
    ) -> list[Pool]:
        """What an exact scan of ``parts`` finds, where few rows are alive: their bits are brought
        together first.
        """
        slots = parts.living_slots()
        hits = nearest(parts.bits_of(slots, self.row_bytes), queries, count, None, deadlines)
        found = []
        for distances, places in zip(*hits, strict=True):
            there = places >= 0
            found.append(self._pool(parts, [(distances[there], slots[places[there]])], count))
        return found

    def _pool(
        self,
        parts: Parts,
        found: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]],
        count: int,
    ) -> Pool:
        """The nearest of what the parts of the index found for one query."""
        if len(found) == 1 and parts.listed is None:  # in order already
            return Pool(*found[0], found[0][1], parts, self.row_bytes)
        distances = np.concatenate([np.empty(0, np.int32), *(part[0] for part in found)])
        slots = np.concatenate([np.empty(0, np.int64), *(part[1] for part in found)])
        rows = parts.rows_of(slots)
        order = np.lexsort((rows, distances))[:count]
        return Pool(distances[order], rows[order], slots[order], parts, self.row_bytes)

    def bits_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The packed bits of rows (n,): uint8 (n, row_bytes)."""
        parts = self._parts
        return parts.bits_of(parts.slots_of(rows), self.row_bytes)

    def contiguous(self, rows: int) -> Planes:
        """Bits of some rows that lie side by side in RAM, at most ``rows``, without a copy."""
        parts = self._parts
        if parts.listed is not None:
            return parts.listed.codes[:rows]
        return max(parts.segments, key=len).bits[:rows]

    # --- lists -----------------------------------------------------------------------------

    def write_lists(self, folder: Path, lists: int) -> ListedBits:
        """Group all rows that are there now into ``lists`` lists, in a new file in ``folder``.

        Searches go on, and see nothing of it until ``adopt``.
        """
        path = write_lists(folder, self.owner, self.row_bytes, len(self), lists, self.bits_of)
        return ListedBits(path, self.row_bytes, self.owner)

    def adopt(self, listed: ListedBits, dead: NDArray[np.int64]) -> None:
        """Let ``listed`` replace the rows that it contains. No other write may run at the same
        time.
        """
        parts = Parts(listed, lost=self._parts.lost)
        for first in range(len(listed), len(self), bit_parts.SEGMENT_ROWS):
            tail = np.arange(first, min(first + bit_parts.SEGMENT_ROWS, len(self)), dtype=np.int64)
            parts = parts.plus(self.bits_of(tail))
        self._parts, self._saved = parts.without(dead), {}

    # --- snapshots -------------------------------------------------------------------------

    @property
    def owner(self) -> Owner:
        """What its files are marked with."""
        return self._uuid, self.generation

    def save(self, folder: Path) -> None:
        """Write the segments that grew since they were last written; remove files of none.

        Those with lost rows are left out: the next start reads their codes again, and knows.
        Searches and writes may go on; ``adopt`` and another ``save`` may not.
        """
        parts = self._parts
        if parts.listed is not None and parts.listed.path != folder / LISTS_FILE:
            parts.listed.move(folder / LISTS_FILE)  # first: segments are of the rows behind them
        for number, segment in enumerate(parts.segments):
            has_lost = any(0 <= row - segment.first < len(segment) for row in parts.lost)
            if has_lost or len(segment) == self._saved.get(number):
                continue
            crc = 0
            for piece in segment.bits.pieces():
                crc = google_crc32c.extend(crc, piece)
            facts = segment.first, len(segment), self.row_bytes, crc
            with replacing(_segment_path(folder, number)) as file:
                file.write(_HEADER.pack(_MAGIC, *self.owner, *facts))
                for piece in segment.bits.pieces():
                    file.write(piece.reshape(-1).data)
            self._saved[number] = len(segment)
        for path in folder.glob("bits-[0-9][0-9][0-9][0-9][0-9].bits"):
            if int(path.stem.removeprefix("bits-")) >= len(parts.segments):
                path.unlink()

    def load(self, folder: Path, rows: int) -> str | None:
        """Fill this empty index with the snapshot in ``folder``, up to the store's ``rows``.

        Returns why it stopped before ``rows``, or None. What is missing must be added from the
        store. Never raises for a bad snapshot: it is derived data. Raises Corrupt for a good one
        of rows that the store does not have: they were committed before it was written.
        """
        assert len(self) == 0
        remove_partials(folder)
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
            if len(segment) < bit_parts.SEGMENT_ROWS and len(self) < rows:
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
            log.warning("rebuilding the approximate index: %s", error)
            return
        if len(listed) > rows:
            raise _lost_rows(path, len(listed), rows)
        self._parts = Parts(listed)

    def _read_segment(self, path: Path, first: int) -> Segment:
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
            if not 0 < rows <= bit_parts.SEGMENT_ROWS or size != rows * row_bytes:
                raise ChecksumMismatch(f"{path} holds {size} bytes for {rows} rows")
            bits, found_crc = Planes.empty(rows, self.row_bytes), 0
            for piece in bits.filled_from(file):
                found_crc = google_crc32c.extend(found_crc, piece)
        if found_crc != crc:
            raise ChecksumMismatch(f"{path} is damaged")
        return Segment(first, bits, bits)


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
        log.info(
            "rebuilding the bits of rows %d to %d from the store: %s", len(index), rows, reason
        )
    for bits in rebuild(len(index), rows):
        index.add(bits)
    assert len(index) == rows, (len(index), rows)


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"bits-{number:05d}.bits"
