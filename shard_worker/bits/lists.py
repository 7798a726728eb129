"""The approximate index: the bits of rows 0 … n of a shard, re-ordered by list, in one mapped file.

    header      magic, index uuid, generation, rows, bytes per row, lists, CRC32C of what follows
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

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch
from bitsift.shard_worker.bits.clustering import SAMPLE_PER_LIST, Quantizer, train
from bitsift.shard_worker.bits.hamming import ListScanner, nearest
from bitsift.shard_worker.bits.live_rows import AliveMarks
from bitsift.shard_worker.bits.planes import Planes
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.layout import replacing, sync_folder

LISTS_FILE = "bits-lists.bits"
_MAGIC = b"LIST\x00\x00\x00\x01"
_HEADER = struct.Struct("<8s16sIQIII")
_CODES_ALIGNMENT = 4096
_CHUNK_ROWS = 1 << 16
_CHECK_BYTES = 1 << 24

Reader = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""The packed bits (n, row_bytes) of rows int64 (n,)."""


Owner = tuple[bytes, int]
"""Whose bits they are: the uuid of the index, and the generation that numbers the rows."""
Hits = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Of one query: distances int32 (k,) in bits, ascending, and positions int64 (k,)."""


class ListedBits:
    """An open file of lists, of which nothing changes. Any number of readers."""

    def __init__(self, path: Path, row_bytes: int, owner: Owner) -> None:
        """Map and check ``path``. Raises ChecksumMismatch, OSError."""
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise ChecksumMismatch(f"{path} is truncated")
        magic, *found_owner, rows, found_bytes, lists, crc = _HEADER.unpack(head)
        if (magic, tuple(found_owner), found_bytes) != (_MAGIC, owner, row_bytes):
            raise ChecksumMismatch(f"{path} does not belong to this index")
        layout = _Layout(rows, row_bytes, lists)
        if size != layout.total:
            raise ChecksumMismatch(f"{path} holds {size} bytes, {layout.total} were written")
        if _checksum(path) != crc:
            raise ChecksumMismatch(f"{path} is damaged")
        self._layout = layout
        self._mapped = np.memmap(path, dtype=np.uint8, mode="r")
        self.rows: NDArray[np.uint32] = self._part(layout.rows, np.uint32)
        self.centroids: NDArray[np.uint8] = self._part(layout.centroids, np.uint8).reshape(
            -1, row_bytes
        )
        self.ends: NDArray[np.int64] = self._part(layout.ends, np.int64)
        codes = self._part(layout.codes, np.uint8).reshape(layout.shape)
        self._take_codes(Planes.whole(codes))
        self._positions: NDArray[np.uint32] | None = None

    def _part(self, span: tuple[int, int], dtype: type) -> NDArray[Any]:
        """A view of a part of the mapped file."""
        return np.asarray(self._mapped[span[0] : span[1]]).view(dtype)

    def _take_codes(self, codes: Planes) -> None:
        self.codes = codes
        starts = np.concatenate([np.zeros(1, np.int64), self.ends])
        self._scanner = ListScanner(codes, starts)

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
        return sum(part.nbytes for part in parts) + made

    def hold(self) -> None:
        """Copy the mapped file into our own memory while searches go on.

        The system cannot evict it then, and it lies in huge pages, which numpy asks for: a scan of
        2 M codes by each core took 14.0 ms instead of the 16.0 of 4-KB pages.
        """
        held = Planes.empty(*self._layout.shape)
        with self.path.open("rb") as file:
            file.seek(self._layout.codes[0])
            for _ in held.filled_from(file):
                pass
        self.rows, self.centroids, self.ends = map(np.array, (self.rows, self.centroids, self.ends))
        self._take_codes(held)
        del self._mapped

    def move(self, path: Path) -> None:
        """Rename the file; what is mapped stays."""
        self.path.replace(path)
        self.path = path  # at once: it is there, be the folder synced or not
        sync_folder(path.parent)

    def positions_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Maps rows to list positions. Built lazily (4 bytes per row), because only deletes and
        training need it.
        """
        if self._positions is None:
            positions = np.empty(len(self), dtype=np.uint32)
            positions[self.rows] = np.arange(len(self), dtype=np.uint32)
            self._positions = positions
        return self._positions[rows].astype(np.int64)

    def scan(
        self,
        queries: NDArray[np.uint8],
        count: int,
        alive: AliveMarks,
        deadlines: Sequence[Deadline] | None = None,
        first_share: float | None = None,
    ) -> Iterator[Hits]:
        """The nearest living positions among all, for each query; ``alive`` is by position."""
        hits = nearest(self.codes, queries, count, alive.bitmap, deadlines, first_share)
        for distances, positions in zip(*hits, strict=True):
            found = positions >= 0
            yield distances[found], positions[found]

    def probe(
        self,
        queries: NDArray[np.uint8],
        nprobe: int,
        count: int,
        enough: int,
        alive: AliveMarks,
        deadlines: Sequence[Deadline] | None = None,
        first_share: float | None = None,
    ) -> Iterator[Hits]:
        """The ``count`` nearest living positions within the ``nprobe`` nearest lists of each query;
        with ``first_share`` as ``ListScanner.nearest`` finds them.

        A query that gets fewer than ``enough`` though there are more asks again, in four times as
        many lists.
        """
        if nprobe >= self.lists:
            yield from self.scan(queries, count, alive, deadlines)
            return
        enough = min(enough, count, len(self) - alive.dead)
        lists = nearest(self.centroids, queries, nprobe, deadlines=deadlines)[1]
        marks = alive.bitmap
        found = self._scanner.nearest(queries, lists, count, marks, deadlines, first_share)
        for place, (distances, positions) in enumerate(zip(*found, strict=True)):
            good = positions >= 0
            own = None if deadlines is None else deadlines[place : place + 1]
            if np.count_nonzero(good) < enough and (own is None or own[0].is_open()):
                query = queries[place : place + 1]
                yield from self.probe(query, 4 * nprobe, count, enough, alive, own, first_share)
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
    folder: Path, owner: Owner, row_bytes: int, rows: int, lists: int, read: Reader
) -> Path:
    """Group rows 0 … ``rows`` into ``lists`` lists and seal the file in ``folder``.

    RAM: 6 bytes a row while it runs; the bits themselves go through the page cache. ``read`` may
    be called while other threads search.
    """
    assert 0 < lists <= rows < 1 << 32
    sample_size = min(rows, SAMPLE_PER_LIST * lists)
    random = np.random.default_rng(rows)
    centroids = train(read(np.sort(random.choice(rows, sample_size, replace=False))), lists)
    quantizer = Quantizer(centroids)
    owners, sizes = np.empty(rows, dtype=np.uint16), np.zeros(lists, dtype=np.int64)
    for chunk in _chunks(rows):
        owners[chunk] = quantizer.assign(read(np.arange(chunk.start, chunk.stop)))
        sizes += np.bincount(owners[chunk], minlength=lists)
    ends = np.cumsum(sizes)
    order = _order(owners, ends)
    chunks = (read(order[chunk].astype(np.int64)) for chunk in _chunks(rows))
    return _write(folder, owner, centroids, ends, chunks, order)


def _order(owners: NDArray[np.uint16], ends: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The rows by (list, row); ``owners`` are their lists, ``ends`` int64 (lists,) where each ends.

    Sorted piece by piece, since numpy's argsort takes eight bytes a row at a time: grouping 40 M
    rows in two shards was the moment of the most RAM.
    """
    order = np.empty(len(owners), dtype=np.uint32)
    free = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    for chunk in _chunks(len(owners)):
        by_list = np.argsort(owners[chunk], kind="stable")
        used, firsts, counts = np.unique(
            owners[chunk][by_list], return_index=True, return_counts=True
        )
        places = np.repeat(free[used] - firsts, counts) + np.arange(len(by_list))
        order[places] = chunk.start + by_list
        free[used] += counts
    return order


def write_living(
    folder: Path, owner: Owner, listed: ListedBits, new_rows: NDArray[np.int64]
) -> Path:
    """The lists of ``listed`` for another generation, in a new file in ``folder``.

    ``new_rows`` int64 (rows,) gives the number that each row has there, -1 for those that are not.
    """
    numbers = new_rows[listed.rows]
    kept = np.flatnonzero(numbers >= 0)
    ends = np.searchsorted(kept, listed.ends).astype(np.int64)
    chunks = (listed.codes.take(kept[chunk]) for chunk in _chunks(len(kept)))
    return _write(folder, owner, listed.centroids, ends, chunks, numbers[kept].astype(np.uint32))


def _write(
    folder: Path,
    owner: Owner,
    centroids: NDArray[np.uint8],
    ends: NDArray[np.int64],
    codes: Iterable[NDArray[np.uint8]],
    rows: NDArray[np.uint32],
) -> Path:
    """Seal a file: ``codes`` come in pieces, in the order of ``rows``."""
    layout = _Layout(len(rows), centroids.shape[1], len(centroids))
    path = folder / LISTS_FILE
    with replacing(path) as file:
        crc = 0

        def put(part: NDArray[Any], start: int | None = None) -> None:
            nonlocal crc
            padding = b"\0" * (0 if start is None else start - file.tell())
            for piece in (padding, np.ascontiguousarray(part)):
                crc = google_crc32c.extend(crc, piece)
                file.write(piece)  # type: ignore[arg-type]

        file.write(b"\0" * _HEADER.size)
        put(ends, layout.ends[0])
        put(centroids, layout.centroids[0])
        put(centroids[:0], layout.codes[0])
        for bits in codes:
            put(bits)
        put(rows, layout.rows[0])
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, *owner, *layout.shape, len(centroids), crc))
    return path


def _chunks(rows: int) -> Iterator[slice]:
    for first in range(0, rows, _CHUNK_ROWS):
        yield slice(first, min(rows, first + _CHUNK_ROWS))


def _checksum(path: Path) -> int:
    """CRC32C of what follows the header. Read, not mapped: mapped pages would count as RAM of this
    process, in addition to those of the segments that the lists replace.
    """
    crc = 0
    with path.open("rb") as file:
        file.seek(_HEADER.size)
        while chunk := file.read(_CHECK_BYTES):
            crc = google_crc32c.extend(crc, chunk)
    return int(crc)
