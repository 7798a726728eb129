"""What the store holds of each row: its code, its document, and whether it is dead. Only reads.

Each method takes the transaction it reads in, or begins a short one of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import google_crc32c
import lmdb
import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, ChecksumMismatch, Corrupt
from bitsift.shard_worker.deadline import Check
from bitsift.shard_worker.store.block_reader import BlockReader
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.ids import Lookup
from bitsift.shard_worker.store.lmdb_file import DAMAGE, DATA_FILE
from bitsift.shard_worker.store.packing import (
    CRC,
    CRC_BYTES,
    ROW,
    checksums,
    content_digest,
    resalt_document,
    row_salt,
    rows_per_block,
    salt_of,
)
from bitsift.shard_worker.types import (
    EVERYTHING,
    FIELDS,
    GIVEN_VECTOR_POSITION,
    NUMBER_BYTES,
    Document,
    Found,
    Unread,
    Wanted,
)

Content = tuple[str, str, str, str, int]
"""id, title, text, metadata as JSON text, position."""
CONTENT_BYTES_MAX = 1 << 30
"""Of a document as JSON. A damaged or hostile frame claims what it likes; ours are far smaller."""


DAMAGED_MAX = 10_000
"""Damaged rows that are remembered; a disk may damage all of them."""


class RowReader:
    """The rows of one store. Any number of threads."""

    def __init__(self, path: Path, env: Environment, width: int) -> None:
        self.path = path
        self.width = width
        self.record_bytes = width + CRC_BYTES
        self.block_rows = rows_per_block(width)
        self.damaged: frozenset[int] = frozenset()
        """Rows that did not pass a checksum when a search read them, dead ones perhaps."""
        self._env = env
        self._databases = env.databases
        self._thread = threading.local()
        self._blocks = BlockReader(
            path / DATA_FILE, env.page_bytes, self.record_bytes, self.block_rows
        )
        self._blocks.load(path)

    def close(self) -> None:
        self._blocks.close()

    def note_damaged(self, rows: Iterable[int]) -> None:
        """Remember rows that did not pass a checksum."""
        if len(self.damaged) < DAMAGED_MAX:
            self.damaged |= set(itertools.islice(rows, DAMAGED_MAX))

    # --- codes -----------------------------------------------------------------------------

    def read_codes(
        self, rows: NDArray[np.int64], check: Check | None = None
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """int8 codes (n, width) of ``rows`` (n,), and which of them passed their checksum (n,).

        ``check`` is called now and then; what it raises ends the reading.
        """
        records = self._blocks.read(rows, check)
        intact = self._are_intact(records, rows)
        if not intact.all():
            with self._env.begin(buffers=True) as txn:
                for place in np.flatnonzero(~intact).tolist():
                    records[place] = self._padded(self.record(txn, int(rows[place])))
            intact = self._are_intact(records, rows)
        return records[:, : self.width].view(np.int8), intact

    def _are_intact(self, records: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of ``records`` (n, width + 4) are those of their ``rows`` (n,)."""
        stored = np.ascontiguousarray(records[:, self.width :]).view("<u4").ravel()
        return np.asarray(checksums(records, self.width) ^ row_salt(rows) == stored)

    def _padded(self, record: bytes) -> NDArray[np.uint8]:
        """``record``, or zeros where it is short."""
        size = self.record_bytes
        return np.frombuffer(record if len(record) == size else bytes(size), dtype=np.uint8)

    def record(self, txn: lmdb.Transaction, row: int) -> bytes:
        """Code and checksum of ``row`` by LMDB, its block remembered; empty if it is missing."""
        block, offset = divmod(row, self.block_rows)
        try:
            waiting = txn.get(ROW.pack(row), db=self._databases["tail"])
            if waiting is not None:
                return bytes(waiting[: self.record_bytes])
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
        size = self.record_bytes  # what follows is the row's version
        found = (
            txn.get(ROW.pack(r), blank, db=self._databases["tail"]) for r in range(start, stop)
        )
        return b"".join(bytes(f[:size]) if len(f) >= size else blank for f in found)

    def scan_codes(
        self, first: int, rows: int
    ) -> Iterator[tuple[int, NDArray[np.int8], NDArray[np.bool_]]]:
        """Yield (first row, codes (n, width), which of them passed their checksum (n,))."""
        for start, records in self.scan_records(first, rows):
            rows_there = np.arange(start, start + len(records), dtype=np.int64)
            intact = self._are_intact(records, rows_there)
            yield start, records[:, : self.width].view(np.int8), intact

    def intact(self, first: int, records: list[bytes]) -> NDArray[np.bool_]:
        """Which of the consecutive ``records`` from row ``first`` on are sound: bool (n,)."""
        table = np.stack([self._padded(record) for record in records])
        return self._are_intact(table, np.arange(first, first + len(records), dtype=np.int64))

    def learn_blocks(self, first: int, rows: int) -> None:
        """Remember where the blocks that became full lie, while their pages are still warm.

        Hints only, and their rows are committed: what fails here is found by later reads.
        """
        full = range(first // self.block_rows, rows // self.block_rows)
        if not full:
            return
        hindrances = lmdb.Error, OSError, MemoryError, BitsiftError
        with contextlib.suppress(*hindrances), self._env.begin(buffers=True) as txn:
            for block in full:
                value = txn.get(ROW.pack(block), b"", db=self._databases["codes"])
                self._blocks.learn(block, memoryview(value))

    def save_hints(self, folder: Path, rows: int) -> None:
        """Keep in ``folder`` where the blocks of the first ``rows`` rows lie."""
        self._blocks.save(folder, rows // self.block_rows)

    # --- documents -------------------------------------------------------------------------

    def documents(
        self, rows: Sequence[int], wanted: Wanted = EVERYTHING, check: Check | None = None
    ) -> list[Found]:
        """What is ``wanted`` of the documents of ``rows``.

        In the place of a damaged one stands the error that says so, of one that does not fit any
        more ``Unread``. ``check`` is called before each; what it raises ends the reading.
        """
        found = self._documents(rows, wanted, check)
        return self._with_codes(rows, found, check) if wanted.with_code else found

    def _documents(
        self, rows: Sequence[int], wanted: Wanted, check: Check | None = None
    ) -> list[Found]:
        """All but the codes, which are counted."""
        found: list[Found] = []
        left, fields = wanted.bytes_max, wanted.fields & FIELDS
        code_bytes = NUMBER_BYTES * self.width if wanted.with_code else 0
        with self._env.begin() as txn:
            for row in rows:
                if check is not None:
                    check()
                try:
                    document, size_bytes = self._partly(txn, row, fields, left, code_bytes)
                except BitsiftError as error:
                    found.append(error)
                    continue
                if document is None or size_bytes > left:
                    found.append(Unread(size_bytes))
                else:
                    found.append(document)
                    left -= size_bytes
        return found

    def _with_codes(
        self, rows: Sequence[int], found: list[Found], check: Check | None
    ) -> list[Found]:
        """``found`` of ``rows``, with their codes, or the error in the place of a damaged one."""
        held = [(place, item) for place, item in enumerate(found) if isinstance(item, Document)]
        if not held:
            return found
        wanted = np.array([rows[place] for place, _ in held], dtype=np.int64)
        codes, intact = self.read_codes(wanted, check)
        for (place, document), code, is_intact in zip(held, codes, intact, strict=True):
            said = f"{self.path}: the code of row {rows[place]} is damaged"
            sound = dataclasses.replace(document, code=code.tobytes())
            found[place] = sound if is_intact else ChecksumMismatch(said)
        return found

    def _partly(
        self,
        txn: lmdb.Transaction,
        row: int,
        fields: frozenset[str],
        bytes_max: int,
        code_bytes: int = 0,
    ) -> tuple[Document | None, int]:
        """The ``fields`` of the document of ``row``, and the bytes of their JSON and its code.

        None for the document where that is over ``bytes_max`` and could be known without reading.
        """
        body = self._body(txn, row)
        if fields == FIELDS:
            size_bytes = self._claimed_bytes(body) + code_bytes
            if size_bytes > bytes_max:
                return None, size_bytes
            return _document(self._decompressed(body), size_bytes), size_bytes
        document_id, title, text, metadata, position = self._decompressed(body)
        content = (
            document_id,
            title if "title" in fields else "",
            text if "text" in fields else "",
            metadata if "metadata" in fields else "",
            position,
        )
        size_bytes = len(orjson.dumps(content)) + code_bytes
        return _document(content, size_bytes), size_bytes

    def document(self, txn: lmdb.Transaction, row: int) -> Document:
        """The document of ``row``. Raises ChecksumMismatch or Corrupt naming the row."""
        return _document(self.content(txn, row))

    def content(self, txn: lmdb.Transaction, row: int) -> Content:
        """The document of ``row`` as it is stored. Raises ChecksumMismatch or Corrupt."""
        return self._decompressed(self._body(txn, row))

    def _body(self, txn: lmdb.Transaction, row: int) -> bytes:
        """The compressed document of ``row``. Raises ChecksumMismatch or Corrupt."""
        try:
            packed = txn.get(ROW.pack(row), db=self._databases["documents"])
        except DAMAGE as error:
            raise Corrupt(f"{self.path}: row {row}: {error}; restore it from a backup") from error
        if packed is None or len(packed) <= CRC_BYTES:
            raise Corrupt(f"{self.path}: the document of row {row} is missing")
        body = bytes(packed[CRC_BYTES:])
        if google_crc32c.value(body) ^ salt_of(row) != CRC.unpack_from(packed)[0]:
            raise ChecksumMismatch(f"{self.path}: the document of row {row} is damaged")
        return body

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

    def _decompressed(self, body: bytes) -> Content:
        """A decompressor may be used by one thread at a time, so each thread has its own."""
        decompressor = getattr(self._thread, "decompressor", None)
        if decompressor is None:
            decompressor = self._thread.decompressor = zstandard.ZstdDecompressor()
        self._claimed_bytes(body)
        document_id, title, text, metadata, position = orjson.loads(decompressor.decompress(body))
        return document_id, title, text, metadata, position

    def _claimed_bytes(self, body: bytes) -> int:
        """What ``body`` takes uncompressed, as its header says. Raises Corrupt."""
        claimed = int(zstandard.frame_content_size(body))
        if claimed > CONTENT_BYTES_MAX:
            raise Corrupt(
                f"{self.path}: a document claims a size of {claimed:,} bytes, but at most "
                f"{CONTENT_BYTES_MAX:,} are allowed; restore it from a backup"
            )
        return claimed

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


def _document(content: Content, size_bytes: int = 0) -> Document:
    document_id, title, text, metadata, position = content
    held = orjson.loads(metadata) if metadata else {}
    return Document(document_id, title, text, held, position, size_bytes)
