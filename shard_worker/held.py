"""What the store holds of each row: its code, its document, and whether it is dead. Only reads.

Each method takes the transaction it reads in, or begins a short one of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import lmdb
import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from shard_worker.blocks import BlockReader
from shard_worker.datafile import DAMAGE, DATA_FILE
from shard_worker.errors import BitsiftError, ChecksumMismatch, Corrupt
from shard_worker.ids import Lookup
from shard_worker.packing import (
    CRC,
    CRC_BYTES,
    ROW,
    content_digest,
    resalt_document,
    row_salt,
    rows_per_block,
    salt_of,
)
from shard_worker.types import GIVEN_VECTOR_POSITION, Document

Content = tuple[str, str, str, str, int]
"""id, title, text, metadata as JSON text, position."""


class HeldRows:
    """The rows of one store. Any number of threads."""

    def __init__(
        self, path: Path, env: lmdb.Environment, databases: Mapping[str, Any], width: int
    ) -> None:
        self.path = path
        self.width = width
        self.record_bytes = width + CRC_BYTES
        self.block_rows = rows_per_block(width)
        self._env = env
        self._databases = databases
        self._thread = threading.local()
        self._blocks = BlockReader(
            path / DATA_FILE, env.stat()["psize"], self.record_bytes, self.block_rows
        )
        self._blocks.load(path)

    def close(self) -> None:
        self._blocks.close()

    # --- codes -----------------------------------------------------------------------------

    def read_codes(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """int8 codes (n, width) of ``rows`` (n,), and which of them passed their checksum (n,)."""
        records = self._blocks.read(rows)
        table, intact = self._table(records, rows)
        if not intact.all():
            with self._env.begin(buffers=True) as txn:
                for place in np.flatnonzero(~intact).tolist():
                    records[place] = self.record(txn, int(rows[place]))
            table, intact = self._table(records, rows)
        return table[:, : self.width].view(np.int8), intact

    def _table(
        self, records: list[bytes], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """``records`` as uint8 (n, width + 4), and which of them are those of their rows."""
        size, width, checksum = self.record_bytes, self.width, google_crc32c.value
        if any(len(record) != size for record in records):
            records = [record if len(record) == size else bytes(size) for record in records]
        table = np.frombuffer(b"".join(records), dtype=np.uint8).reshape(-1, size)
        crcs = np.array([checksum(record[:width]) for record in records], dtype=np.uint32)
        stored = np.ascontiguousarray(table[:, width:]).view("<u4").ravel()
        return table, np.asarray(crcs ^ row_salt(rows) == stored)

    def record(self, txn: lmdb.Transaction, row: int) -> bytes:
        """Code and checksum of ``row`` by LMDB, its block remembered; empty if it is missing."""
        block, offset = divmod(row, self.block_rows)
        try:
            waiting = txn.get(ROW.pack(row), db=self._databases["tail"])
            if waiting is not None:
                return bytes(waiting)
            packed = memoryview(txn.get(ROW.pack(block), b"", db=self._databases["codes"]))
        except DAMAGE:
            return b""
        self._blocks.learn(block, packed)
        return bytes(packed[offset * self.record_bytes : (offset + 1) * self.record_bytes])

    def scan_records(self, first: int, rows: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (first row, records (n, width + 4)) block by block for ``first`` … ``rows``.

        What is missing is zeros, which pass no checksum. Short read transactions: one per block, so
        that a long scan pins no pages.
        """
        for block in range(first // self.block_rows, -(-rows // self.block_rows)):
            start, stop = block * self.block_rows, min(rows, (block + 1) * self.block_rows)
            wanted = (stop - start) * self.record_bytes
            records = np.zeros(wanted, dtype=np.uint8)
            with self._env.begin(buffers=True) as txn, contextlib.suppress(*DAMAGE):
                full = txn.get(ROW.pack(block), db=self._databases["codes"])
                packed = self._tail(txn, start, stop) if full is None else full
                held = np.frombuffer(packed, dtype=np.uint8)[:wanted]
                records[: len(held)] = held
            skipped = max(0, first - start)
            yield start + skipped, records.reshape(-1, self.record_bytes)[skipped:]

    def _tail(self, txn: lmdb.Transaction, start: int, stop: int) -> bytes:
        """The records of rows that fill no block yet."""
        blank = bytes(self.record_bytes)
        found = (
            txn.get(ROW.pack(r), blank, db=self._databases["tail"]) for r in range(start, stop)
        )
        return b"".join(bytes(f) if len(f) == self.record_bytes else blank for f in found)

    def scan_codes(
        self, first: int, rows: int
    ) -> Iterator[tuple[int, NDArray[np.int8], NDArray[np.bool_]]]:
        """Yield (first row, codes (n, width), which of them passed their checksum (n,))."""
        for start, records in self.scan_records(first, rows):
            flat, size = records.tobytes(), self.record_bytes
            parts = [flat[at : at + size] for at in range(0, len(flat), size)]
            yield start, records[:, : self.width].view(np.int8), self.intact(start, parts)

    def intact(self, first: int, records: list[bytes]) -> NDArray[np.bool_]:
        """Which of the consecutive ``records`` from row ``first`` on are sound: bool (n,)."""
        return self._table(records, np.arange(first, first + len(records), dtype=np.int64))[1]

    def learn_blocks(self, first: int, rows: int) -> None:
        """Remember where the blocks that became full lie, while their pages are still warm."""
        with self._env.begin(buffers=True) as txn:
            for block in range(first // self.block_rows, rows // self.block_rows):
                value = txn.get(ROW.pack(block), b"", db=self._databases["codes"])
                self._blocks.learn(block, memoryview(value))

    def save_hints(self, folder: Path, rows: int) -> None:
        """Keep in ``folder`` where the blocks of the first ``rows`` rows lie."""
        self._blocks.save(folder, rows // self.block_rows)

    # --- documents -------------------------------------------------------------------------

    def documents(self, rows: Sequence[int]) -> list[Document | BitsiftError]:
        """The documents of ``rows``; in the place of a damaged one, the error that says so."""
        found: list[Document | BitsiftError] = []
        with self._env.begin() as txn:
            for row in rows:
                try:
                    found.append(self.document(txn, row))
                except BitsiftError as error:
                    found.append(error)
        return found

    def document(self, txn: lmdb.Transaction, row: int) -> Document:
        """The document of ``row``. Raises ChecksumMismatch or Corrupt naming the row."""
        document_id, title, text, metadata, position = self.content(txn, row)
        held = orjson.loads(metadata) if metadata else {}
        return Document(document_id, title, text, held, position)

    def content(self, txn: lmdb.Transaction, row: int) -> Content:
        """The document of ``row`` as it is stored. Raises ChecksumMismatch or Corrupt."""
        try:
            packed = txn.get(ROW.pack(row), db=self._databases["documents"])
        except DAMAGE as error:
            raise Corrupt(f"{self.path}: row {row}: {error}; restore it from a backup") from error
        if packed is None or len(packed) <= CRC_BYTES:
            raise Corrupt(f"{self.path}: the document of row {row} is missing")
        body = bytes(packed[CRC_BYTES:])
        if google_crc32c.value(body) ^ salt_of(row) != CRC.unpack_from(packed)[0]:
            raise ChecksumMismatch(f"{self.path}: the document of row {row} is damaged")
        document_id, title, text, metadata, position = orjson.loads(self._decompress(body))
        return document_id, title, text, metadata, position

    def copied_documents(
        self, rows: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> list[tuple[bytes, bytes]]:
        """(key, value) of the documents of ``rows`` (n,), as those of the rows ``numbers`` (n,).

        A damaged one stays damaged, a missing one is left out.
        """
        salts = zip(row_salt(rows).tolist(), row_salt(numbers).tolist(), strict=True)
        items = []
        with self._env.begin() as txn:
            for row, number, (old, new) in zip(rows.tolist(), numbers.tolist(), salts, strict=True):
                packed = txn.get(ROW.pack(row), db=self._databases["documents"])
                if packed is not None and len(packed) > CRC_BYTES:
                    items.append((ROW.pack(number), resalt_document(bytes(packed), old, new)))
        return items

    def has_content(self, txn: lmdb.Transaction, row: int, digest: bytes) -> bool:
        """Whether ``row`` says what ``content_digest`` was made of, with a vector by the model."""
        try:
            _, title, text, metadata, position = self.content(txn, row)
        except Corrupt:
            return False
        return position != GIVEN_VECTOR_POSITION and content_digest(title, text, metadata) == digest

    def _decompress(self, body: bytes) -> bytes:
        """A decompressor may be used by one thread at a time, so each thread has its own."""
        decompressor = getattr(self._thread, "decompressor", None)
        if decompressor is None:
            decompressor = self._thread.decompressor = zstandard.ZstdDecompressor()
        return bytes(decompressor.decompress(body))

    # --- which row -------------------------------------------------------------------------

    def row_of(
        self, txn: lmdb.Transaction, lookup: Lookup, document_id: str, key: np.uint64
    ) -> int | None:
        """The living row that holds ``document_id``, or None; ``key`` is its ``id_keys``."""
        row = self.newest_row_of(txn, lookup, document_id, key)
        return None if row is None or self.is_dead(txn, row) else row

    def newest_row_of(
        self, txn: lmdb.Transaction, lookup: Lookup, document_id: str, key: np.uint64
    ) -> int | None:
        """The last row that was given to ``document_id``, which may have been deleted since.

        A damaged document whose hash is that of the id counts as the one that is looked for: two
        ids with one hash of 64 bits are far less likely.
        """
        for row in lookup.rows_of(txn, key):
            try:
                found = self.content(txn, row)[0] == document_id
            except Corrupt:
                found = True
            if found:
                return row
        return None

    def is_dead(self, txn: lmdb.Transaction, row: int) -> bool:
        return txn.get(ROW.pack(row), db=self._databases["dead"]) is not None

    def dead(self, txn: lmdb.Transaction) -> NDArray[np.int64]:
        """All dead rows, int64 (n,), ascending."""
        with txn.cursor(db=self._databases["dead"]) as cursor:
            keys = b"".join(cursor.iternext(keys=True, values=False))
        return np.frombuffer(keys, dtype=">u8").astype(np.int64)
