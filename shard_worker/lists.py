"""The approximate index: the bits of rows 0 … n of a shard, re-ordered by list, in one mapped file.

    header      magic, index uuid, rows, bytes per row, lists, CRC32C of all that follows
    ends        int64 (lists,): where each list ends
    centroids   uint8 (lists, row_bytes): the majority vote of each list's rows
    codes       uint8 (rows, row_bytes), ordered by (list, row); begins on a page
    rows        uint32 (rows,): the shard's row at each position

The file replaces the segments of the same rows: the exact scan reads the codes from end to end, so
nothing is held twice. It is mapped at first, and copied into RAM when the segments are gone. It is
derived from the store like every file of bits, and sealed: written aside, synced, renamed, never
written again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from shard_worker.alive import AliveMarks
from shard_worker.clustering import SAMPLE_PER_LIST, Quantizer, train
from shard_worker.errors import ChecksumMismatch
from shard_worker.hamming import ListScanner, nearest
from shard_worker.layout import sync_folder

LISTS_FILE = "bits-lists.bits"
_MAGIC = b"LIST\x00\x00\x00\x01"
_HEADER = struct.Struct("<8s16sQIII4x")
_CODES_ALIGNMENT = 4096
_CHUNK_ROWS = 1 << 16
_CHECK_BYTES = 1 << 24

Reader = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""The packed bits (n, row_bytes) of rows int64 (n,)."""


Hits = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Of one query: distances int32 (k,) in bits, ascending, and positions int64 (k,)."""


class ListedBits:
    """An open file of lists. Any number of readers; ``mark_dead`` by one writer."""

    def __init__(self, path: Path, row_bytes: int, uuid: bytes) -> None:
        """Map and check ``path``. Raises ChecksumMismatch, OSError."""
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise ChecksumMismatch(f"{path} is truncated")
        magic, found_uuid, rows, found_bytes, lists, crc = _HEADER.unpack(head)
        if (magic, found_uuid, found_bytes) != (_MAGIC, uuid, row_bytes):
            raise ChecksumMismatch(f"{path} does not belong to this index")
        layout = _Layout(rows, row_bytes, lists)
        if size != layout.total:
            raise ChecksumMismatch(f"{path} holds {size} bytes, {layout.total} were written")
        if _checksum(path) != crc:
            raise ChecksumMismatch(f"{path} is damaged")
        self._layout = layout
        self._take_parts(np.memmap(path, dtype=np.uint8, mode="r"))
        self._positions: NDArray[np.uint32] | None = None
        self._alive = AliveMarks(rows)

    def _take_parts(self, whole: NDArray[np.uint8]) -> None:
        """Views of the file's parts: of the mapped file, or of its copy in RAM."""
        layout = self._layout

        def part(span: tuple[int, int], dtype: type) -> NDArray[Any]:
            return np.asarray(whole[span[0] : span[1]]).view(dtype)

        self.rows: NDArray[np.uint32] = part(layout.rows, np.uint32)
        self.codes: NDArray[np.uint8] = part(layout.codes, np.uint8).reshape(layout.shape)
        self.centroids: NDArray[np.uint8] = part(layout.centroids, np.uint8).reshape(
            -1, layout.shape[1]
        )
        starts = np.concatenate([np.zeros(1, np.int64), part(layout.ends, np.int64)])
        self._scanner = ListScanner(self.codes, starts)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lists(self) -> int:
        return len(self.centroids)

    @property
    def memory_bytes(self) -> int:
        """RAM when every page that searches touch is resident."""
        made = 0 if self._positions is None else self._positions.nbytes
        parts = (self.codes, self.rows, self.centroids)
        return sum(part.nbytes for part in parts) + made + self._alive.memory_bytes

    def hold(self) -> None:
        """Copy the mapped file into our own memory; searches go on meanwhile.

        The system cannot evict it then, and it lies in huge pages, which numpy asks for: a scan of
        2 M codes by each core took 14.0 ms instead of the 16.0 of 4-KB pages.
        """
        whole = np.empty(self._layout.total, dtype=np.uint8)
        with self.path.open("rb") as file:
            for first in range(0, len(whole), _CHECK_BYTES):
                file.readinto(whole[first : first + _CHECK_BYTES].data)
        self._take_parts(whole)

    def mark_dead(self, rows: NDArray[np.int64]) -> None:
        """Never return these rows again."""
        if len(rows):
            self._alive.mark_dead(self.positions_of(rows))

    def positions_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows lie. Asked for dead rows and by training: made then, 4 bytes of RAM a row."""
        if self._positions is None:
            positions = np.empty(len(self), dtype=np.uint32)
            positions[self.rows] = np.arange(len(self), dtype=np.uint32)
            self._positions = positions
        return self._positions[rows].astype(np.int64)

    def is_row_alive(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row (n,) is alive."""
        if not self._alive.dead:  # spares the positions
            return np.ones(len(rows), dtype=np.bool_)
        return self._alive.of(self.positions_of(rows))

    def scan(self, queries: NDArray[np.uint8], count: int) -> Iterator[Hits]:
        """The nearest living positions among all, for each query."""
        hits = nearest(self.codes, queries, count, self._alive.bitmap)
        for distances, positions in zip(*hits, strict=True):
            found = positions >= 0
            yield distances[found], positions[found]

    def probe(
        self, queries: NDArray[np.uint8], nprobe: int, count: int, enough: int
    ) -> Iterator[Hits]:
        """The ``count`` nearest living positions within the ``nprobe`` nearest lists of each query.

        FAISS's lists know no dead rows, so more are taken and dropped. A query that gets fewer than
        ``enough`` though there are more asks again, in four times as many lists.
        """
        if nprobe >= self.lists:
            yield from self.scan(queries, count)
            return
        share = self._alive.dead / len(self)
        wanted = min(len(self), count + int(2 * count * share / max(1 - share, 0.1)))
        enough = min(enough, count, len(self) - self._alive.dead)
        lists = nearest(self.centroids, queries, nprobe)[1]
        found = self._scanner.nearest(queries, lists, wanted)
        for query, distances, positions in zip(queries, *found, strict=True):
            good = np.flatnonzero(positions >= 0)
            good = good[self._alive.of(positions[good])][:count]
            if len(good) < enough:
                yield from self.probe(query[None], 4 * nprobe, count, enough)
            else:
                yield distances[good], positions[good]


class _Layout:
    """Where each part of a file begins and ends, in bytes."""

    def __init__(self, rows: int, row_bytes: int, lists: int) -> None:
        self.shape = rows, row_bytes
        self.ends = _HEADER.size, _HEADER.size + lists * 8
        self.centroids = self.ends[1], self.ends[1] + lists * row_bytes
        start = -(-self.centroids[1] // _CODES_ALIGNMENT) * _CODES_ALIGNMENT
        self.codes = start, start + rows * row_bytes
        start = -(-self.codes[1] // 8) * 8
        self.rows = start, start + rows * 4
        self.total = self.rows[1]


def write_lists(
    folder: Path, uuid: bytes, row_bytes: int, rows: int, lists: int, read: Reader
) -> Path:
    """Group rows 0 … ``rows`` into ``lists`` lists and seal the file in ``folder``.

    RAM: 14 bytes a row while it runs; the bits themselves go through the page cache. ``read`` may
    be called while other threads search.
    """
    assert 0 < lists <= rows < 1 << 32
    sample_size = min(rows, SAMPLE_PER_LIST * lists)
    random = np.random.default_rng(rows)
    centroids = train(read(np.sort(random.choice(rows, sample_size, replace=False))), lists)
    quantizer = Quantizer(centroids)
    owners = np.empty(rows, dtype=np.uint16)
    for chunk in _chunks(rows):
        owners[chunk] = quantizer.assign(read(np.arange(chunk.start, chunk.stop)))
    order = np.argsort(owners, kind="stable").astype(np.uint32)
    ends = np.cumsum(np.bincount(owners, minlength=lists)).astype(np.int64)
    aside = folder / (LISTS_FILE + ".partial")
    _write(aside, uuid, row_bytes, centroids, ends, order, read)
    path = folder / LISTS_FILE
    aside.replace(path)
    sync_folder(folder)
    return path


def _write(
    path: Path,
    uuid: bytes,
    row_bytes: int,
    centroids: NDArray[np.uint8],
    ends: NDArray[np.int64],
    order: NDArray[np.uint32],
    read: Reader,
) -> None:
    layout = _Layout(len(order), row_bytes, len(centroids))
    with path.open("wb") as file:
        crc = 0

        def put(part: NDArray[Any], start: int) -> None:
            nonlocal crc
            for piece in (b"\0" * (start - file.tell()), np.ascontiguousarray(part)):
                crc = google_crc32c.extend(crc, piece)
                file.write(piece)  # type: ignore[arg-type]

        file.write(b"\0" * _HEADER.size)
        put(ends, layout.ends[0])
        put(centroids, layout.centroids[0])
        for chunk in _chunks(len(order)):
            bits = read(order[chunk].astype(np.int64))
            put(bits, layout.codes[0] + chunk.start * row_bytes)
        put(order, layout.rows[0])
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, uuid, len(order), row_bytes, len(centroids), crc))
        file.flush()
        os.fsync(file.fileno())


def _chunks(rows: int) -> Iterator[slice]:
    for first in range(0, rows, _CHUNK_ROWS):
        yield slice(first, min(rows, first + _CHUNK_ROWS))


def _checksum(path: Path) -> int:
    """CRC32C of what follows the header. Read, not mapped: mapped pages would count as RAM of this
    process, beside those of the segments that the lists are to replace.
    """
    crc = 0
    with path.open("rb") as file:
        file.seek(_HEADER.size)
        while chunk := file.read(_CHECK_BYTES):
            crc = google_crc32c.extend(crc, chunk)
    return int(crc)
