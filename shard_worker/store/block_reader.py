"""Reading single codes from the data file, without the block around them.

py-lmdb's ``get`` touches every page of a value before it returns, also with ``buffers=True`` (its
preload.h: so that no page fault is taken with the GIL held). For one code of a cold block that is
128 KiB in 32 page faults, one after the other. A full block never changes and never moves, so the
page that LMDB put it on is remembered once, 4 bytes for some hundred rows, and a row is read by
``pread``: one or two pages, and no SIGBUS where the file is short.

The pages are a hint, kept beside the store and verified by every row's checksum: a row that does
not pass is read through LMDB.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.deadline import Check
from bitsift.shard_worker.layout import replace_file
from bitsift.shard_worker.native import kernels

BLOCKS_FILE = "blocks.pages"
SLOW_READ_S = 100e-6
"""When a few reads take longer, one of them came from the disk: from the page cache a row takes
1 µs. Then all that follow are asked for at once: 40 random pages took 6.3 ms one by one, 0.8 ms
together."""
_READS_TIMED = 4
_READS_CHECKED = 64
"""Reads from the disk between two looks at the deadline."""
_PAGE_HEADER_BYTES = 16
_GROWTH_BLOCKS = 1 << 14


class BlockReader:
    """Reads records of ``record_bytes`` from blocks of ``block_rows``. Any number of threads."""

    def __init__(self, data: Path, page_bytes: int, record_bytes: int, block_rows: int) -> None:
        self._record_bytes = record_bytes
        self._block_rows = block_rows
        self._page_bytes = page_bytes
        self._pages = np.zeros(0, dtype=np.uint32)  # by block; 0 is LMDB's meta page: not known
        self._growing = threading.Lock()
        self._file = os.open(data, os.O_RDONLY)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)

    def close(self) -> None:
        os.close(self._file)

    def learn(self, block: int, value: memoryview) -> None:
        """Remember where a full block lies: ``value`` is LMDB's own view of it.

        A large value fills pages of its own; the first begins with its number (LMDB's MDB_page).
        A hint: where it cannot be checked, nothing is remembered.
        """
        if len(value) != self._block_rows * self._record_bytes:
            return
        address = np.frombuffer(value, dtype=np.uint8).ctypes.data
        if address % self._page_bytes != _PAGE_HEADER_BYTES:
            return  # a small value, in a page with others
        page = ctypes.c_uint64.from_address(address - _PAGE_HEADER_BYTES).value
        if page >= 1 << 32:
            return
        begin = page * self._page_bytes + _PAGE_HEADER_BYTES
        with contextlib.suppress(OSError):
            if os.pread(self._file, self._record_bytes, begin) == value[: self._record_bytes]:
                self._remember(block, page)

    def _remember(self, block: int, page: int) -> None:
        with self._growing:
            if block >= len(self._pages):
                grown = np.zeros(block + _GROWTH_BLOCKS, dtype=np.uint32)
                grown[: len(self._pages)] = self._pages
                self._pages = grown
            self._pages[block] = page

    def read(self, rows: NDArray[np.int64], check: Check | None = None) -> NDArray[np.uint8]:
        """The record of each row, uint8 (n, record_bytes); zeros where its block is not known, or
        the file is short.

        ``check`` is called now and then; what it raises ends the reading.
        """
        places = self._positions(rows)
        records = np.empty((len(rows), self._record_bytes), dtype=np.uint8)
        done = self._read(places, records, SLOW_READ_S)
        if done < len(places):
            self._will_need(places[done:])
        for first in range(done, len(places), _READS_CHECKED):
            if check is not None:
                check()
            few = slice(first, first + _READS_CHECKED)
            self._read(places[few], records[few], 0.0)
        return records

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the file the record of each row (n,) begins; 0 where that is not known."""
        pages, (blocks, offsets) = self._pages, np.divmod(rows, self._block_rows)
        page = np.zeros(len(rows), dtype=np.int64)
        inside = blocks < len(pages)
        if inside.all():
            page[:] = pages[blocks]
        else:
            page[inside] = pages[blocks[inside]]
        places = page * self._page_bytes + offsets * self._record_bytes + _PAGE_HEADER_BYTES
        return np.asarray(places * (page > 0))

    def _read(self, places: NDArray[np.int64], records: NDArray[np.uint8], slow_s: float) -> int:
        """Fill ``records`` (n, record_bytes); how many of them: see ``kernels.read``."""
        if kernels.is_there():
            return kernels.read(self._file, places, records, _READS_TIMED, slow_s)
        size, started = self._record_bytes, time.perf_counter()
        for number, place in enumerate(places.tolist(), start=1):
            found = os.pread(self._file, size, place) if place else b""
            records[number - 1] = np.frombuffer(found.ljust(size, b"\0"), dtype=np.uint8)
            if slow_s and number % _READS_TIMED == 0:
                now = time.perf_counter()
                if now - started > slow_s:
                    return number
                started = now
        return len(places)

    def _will_need(self, places: NDArray[np.int64]) -> None:
        """Have the system read the pages of all ``places``, without waiting for them."""
        if kernels.is_there():
            kernels.will_need(self._file, places, self._record_bytes)
            return
        for place in places[places > 0].tolist():
            os.posix_fadvise(self._file, place, self._record_bytes, os.POSIX_FADV_WILLNEED)

    # --- kept beside the store ---------------------------------------------------------------

    def save(self, folder: Path, blocks: int) -> None:
        """Write the pages of the first ``blocks`` blocks."""
        pages = self._pages[:blocks].tobytes()
        crc = google_crc32c.value(pages).to_bytes(4, "little")
        replace_file(folder / BLOCKS_FILE, crc, pages)

    def load(self, folder: Path) -> None:
        """Take what was saved; a missing or damaged file costs slower first reads, no more."""
        try:
            data = (folder / BLOCKS_FILE).read_bytes()
        except OSError:
            return
        crc, pages = data[:4], data[4:]
        if len(pages) % 4 == 0 and google_crc32c.value(pages).to_bytes(4, "little") == crc:
            self._pages = np.frombuffer(pages, dtype=np.uint32).copy()
