"""The bits in RAM: a growing list of FAISS ``IndexBinaryFlat`` segments, and their snapshot files.

A segment holds ``SEGMENT_ROWS`` rows; only the last one grows. So memory never doubles while an
index of tens of millions of rows is loaded, searches of full segments need no lock, and a full
segment's snapshot file is written once. Everything here is derived from the store: a missing,
short or damaged snapshot costs a rebuild, never an answer.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import google_crc32c
import numpy as np
from numpy.typing import NDArray

from shard_worker.errors import ChecksumMismatch
from shard_worker.layout import replace_file

log = logging.getLogger(__name__)

SEGMENT_ROWS = 1 << 20
_MAGIC = b"BITS\x00\x00\x00\x01"
_HEADER = struct.Struct("<8s16sQQII")  # magic, index uuid, first row, rows, bytes per row, CRC32C


@dataclass(eq=False)
class _Segment:
    """Rows ``first`` … ``first + len`` of the shard, with one bit per row that says it is alive."""

    first: int
    flat: faiss.IndexBinaryFlat
    alive: NDArray[np.uint8] | None = None  # made with the first dead row
    saved: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def empty(cls, first: int, row_bytes: int) -> _Segment:
        return cls(first, faiss.IndexBinaryFlat(row_bytes * 8))

    def __len__(self) -> int:
        return int(self.flat.ntotal)

    def view(self) -> NDArray[np.uint8]:
        """The packed bits of all rows, uint8 (rows, row_bytes), without a copy."""
        rows, row_bytes = len(self), self.flat.code_size
        if rows == 0:
            return np.empty((0, row_bytes), dtype=np.uint8)
        flat = faiss.rev_swig_ptr(self.flat.xb.data(), rows * row_bytes)
        return np.asarray(flat).reshape(rows, row_bytes)

    def search(
        self, queries: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Nearest living rows as (distances, shard rows), both (n, ≤ count), -1 where none."""
        parameters = None
        if self.alive is not None:
            selector = faiss.IDSelectorBitmap(self.alive)
            parameters = faiss.SearchParameters(sel=selector)
        distances, rows = self.flat.search(queries, min(count, len(self)), params=parameters)
        rows[rows >= 0] += self.first
        return distances, rows


class BinaryIndex:
    """All bits of one shard. One writer at a time; readers at any time."""

    def __init__(self, row_bytes: int, index_uuid: str) -> None:
        self.row_bytes = row_bytes
        self._uuid = bytes.fromhex(index_uuid.replace("-", ""))
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(len(segment) for segment in self._segments)

    @property
    def memory_bytes(self) -> int:
        """RAM of the bits and of the alive marks."""
        marks = sum(s.alive.nbytes for s in self._segments if s.alive is not None)
        return len(self) * self.row_bytes + marks

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Append rows: ``bits`` uint8 (n, row_bytes)."""
        assert bits.ndim == 2, bits.shape
        assert bits.shape[1] == self.row_bytes, bits.shape
        while len(bits):
            if not self._segments or len(self._segments[-1]) == SEGMENT_ROWS:
                self._segments.append(_Segment.empty(len(self), self.row_bytes))
            last = self._segments[-1]
            room = SEGMENT_ROWS - len(last)
            with last.lock:
                last.flat.add(np.ascontiguousarray(bits[:room]))
            bits = bits[room:]

    def mark_dead(self, rows: NDArray[np.int64]) -> None:
        """Never return these rows again."""
        for row in np.asarray(rows).tolist():
            segment = self._segments[row // SEGMENT_ROWS]
            byte, bit = divmod(row - segment.first, 8)
            if segment.alive is None:
                segment.alive = np.full(SEGMENT_ROWS // 8, 0xFF, dtype=np.uint8)
            segment.alive[byte] &= 0xFF ^ (1 << bit)

    def is_alive(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row (n,) is alive."""
        alive = np.ones(len(rows), dtype=np.bool_)
        for number, segment in enumerate(self._segments):
            inside = np.flatnonzero(rows // SEGMENT_ROWS == number)
            if segment.alive is not None and len(inside):
                local = rows[inside] - segment.first
                alive[inside] = segment.alive[local // 8] >> (local % 8).astype(np.uint8) & 1
        return alive

    def search(
        self, queries: NDArray[np.uint8], count: int
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Per query (n, row_bytes) the nearest living rows: distances int32, rows int64 (≤ count,).

        Ordered by (distance, row). Fewer than ``count`` only when fewer living rows exist.
        """
        parts = []
        for segment in list(self._segments):
            if len(segment) == SEGMENT_ROWS:
                parts.append(segment.search(queries, count))
            else:
                with segment.lock:
                    parts.append(segment.search(queries, count))
        if not parts:
            nothing = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
            return [nothing] * len(queries)
        distances = np.concatenate([part[0] for part in parts], axis=1)
        rows = np.concatenate([part[1] for part in parts], axis=1)
        return [_nearest(d, r, count) for d, r in zip(distances, rows, strict=True)]

    def bits_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The packed bits of rows (n,): uint8 (n, row_bytes)."""
        found = np.empty((len(rows), self.row_bytes), dtype=np.uint8)
        for number in np.unique(rows // SEGMENT_ROWS).tolist():
            segment = self._segments[number]
            inside = np.flatnonzero(rows // SEGMENT_ROWS == number)
            with segment.lock:
                found[inside] = segment.view()[rows[inside] - segment.first]
        return found

    # --- snapshots -------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the segments that grew since they were last written."""
        for number, segment in enumerate(self._segments):
            rows = len(segment)
            if rows == segment.saved:
                continue
            with segment.lock:
                bits = segment.view()[:rows].tobytes()
            crc = google_crc32c.value(bits)
            header = _HEADER.pack(_MAGIC, self._uuid, segment.first, rows, self.row_bytes, crc)
            replace_file(_segment_path(folder, number), header, bits)
            segment.saved = rows

    def load(self, folder: Path, rows: int) -> str | None:
        """Fill this empty index with the snapshot in ``folder``, up to the store's ``rows``.

        Returns why it stopped before ``rows``, or None. What is missing must be added from the
        store. Never raises for a bad snapshot: it is derived data.
        """
        assert not self._segments
        for leftover in folder.glob("bits-*.partial"):
            leftover.unlink()
        for number in range(-(-rows // SEGMENT_ROWS)):
            path = _segment_path(folder, number)
            try:
                bits = self._read_segment(path, number * SEGMENT_ROWS)
            except (OSError, ChecksumMismatch) as error:
                return str(error)
            if number * SEGMENT_ROWS + len(bits) > rows:
                return f"{path} holds rows that the store does not have"
            if len(bits):
                self.add(bits)
                self._segments[-1].saved = len(bits)
            if len(bits) < min(SEGMENT_ROWS, rows - number * SEGMENT_ROWS):
                return f"{path} is older than the store"
        return None

    def _read_segment(self, path: Path, first: int) -> NDArray[np.uint8]:
        """The bits in a segment file, uint8 (rows, row_bytes). Raises ChecksumMismatch, OSError."""
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            bits = np.fromfile(file, dtype=np.uint8)
        if len(head) < _HEADER.size:
            raise ChecksumMismatch(f"{path} is truncated")
        magic, uuid, first_row, rows, row_bytes, crc = _HEADER.unpack(head)
        if (magic, uuid, first_row, row_bytes) != (_MAGIC, self._uuid, first, self.row_bytes):
            raise ChecksumMismatch(f"{path} is not this segment of this index")
        if rows > SEGMENT_ROWS or len(bits) != rows * row_bytes:
            raise ChecksumMismatch(f"{path} holds {len(bits)} bytes for {rows} rows")
        if google_crc32c.value(bits) != crc:
            raise ChecksumMismatch(f"{path} is damaged")
        return bits.reshape(rows, row_bytes)


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


def _nearest(
    distances: NDArray[np.int32], rows: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ``count`` nearest of gathered segment results, without FAISS's -1 padding."""
    found = rows >= 0
    distances, rows = distances[found], rows[found]
    order = np.lexsort((rows, distances))[:count]
    return distances[order], rows[order]
