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

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from shard_worker.layout import replace_file

BLOCKS_FILE = "blocks.pages"
SLOW_READ_S = 100e-6
"""A read of one row that takes longer came from the disk: from the page cache it takes 2 µs. Then
all that follow are asked for at once: 40 random pages took 6.3 ms one by one, 0.8 ms together."""
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
        """
        if len(value) != self._block_rows * self._record_bytes:
            return
        address = np.frombuffer(value, dtype=np.uint8).ctypes.data
        if address % self._page_bytes != _PAGE_HEADER_BYTES:
            return  # a small value, in a page with others
        page = ctypes.c_uint64.from_address(address - _PAGE_HEADER_BYTES).value
        if page >= 1 << 32 or self._read(page, 0) != bytes(value[: self._record_bytes]):
            return
        with self._growing:
            if block >= len(self._pages):
                grown = np.zeros(block + _GROWTH_BLOCKS, dtype=np.uint32)
                grown[: len(self._pages)] = self._pages
                self._pages = grown
            self._pages[block] = page

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The record of each row; empty where its block is not known, or the file is short."""
        pages, places = self._pages, [divmod(row, self._block_rows) for row in rows]
        known = [
            (int(pages[block]) if block < len(pages) else 0, offset) for block, offset in places
        ]
        records: list[bytes] = []
        asked, before = False, time.perf_counter()
        for place, (page, offset) in enumerate(known):
            records.append(self._read(page, offset) if page else b"")
            now = time.perf_counter()
            if not asked and now - before > SLOW_READ_S:
                asked = True
                self._will_need(known[place + 1 :])
            before = now
        return records

    def _will_need(self, places: Sequence[tuple[int, int]]) -> None:
        """Have the system read the pages of all ``places``, without waiting for them."""
        for page, offset in places:
            if page:
                start, length = self._position(page, offset), self._record_bytes
                os.posix_fadvise(self._file, start, length, os.POSIX_FADV_WILLNEED)

    def _read(self, page: int, offset: int) -> bytes:
        record = os.pread(self._file, self._record_bytes, self._position(page, offset))
        return record if len(record) == self._record_bytes else b""

    def _position(self, page: int, offset: int) -> int:
        return page * self._page_bytes + _PAGE_HEADER_BYTES + offset * self._record_bytes

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


def is_intact(record: bytes, width: int, salt: int) -> bool:
    """Whether the checksum behind the code of ``width`` bytes is that of the code in its row."""
    if len(record) <= width:
        return False
    crc = int.from_bytes(record[width:], "little")
    return bool(google_crc32c.value(record[:width]) ^ salt == crc)


def codes_of(records: Sequence[bytes], width: int) -> NDArray[np.int8]:
    """The codes (n, width) in records that are all there."""
    joined = np.frombuffer(b"".join(record[:width] for record in records), dtype=np.int8)
    return joined.reshape(len(records), width)
