"""The store: one LMDB environment per shard, the only truth.

    codes      block number -> packed rows of that block: int8 code + CRC32C each
    documents  row          -> CRC32C + zstd(JSON [id, title, text, metadata, position])
    ids        hash of id   -> the row that holds the document (more on a hash collision)
    dead       row          -> "" : replaced or deleted rows
    meta       "counters"   -> JSON {"rows", "dead", ...}

Codes are packed in blocks of many rows per value: one record per key would waste a third of the
disk (FIELD-NOTES), and a read still touches one or two pages (blocks.py). Texts live apart, so that
rescoring never drags them off the disk. Every row carries its own CRC32C, mixed with its row
number, because LMDB 0.9 has no page checksums. One transaction per acknowledged batch, synced
before it returns. Never ``writemap``: a full disk would be a SIGBUS instead of an error.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import lmdb
import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from shard_worker import ids as id_map
from shard_worker.blocks import BlockReader, codes_of, is_intact
from shard_worker.errors import BitsiftError, ChecksumMismatch, Corrupt, NotFound, StorageFull
from shard_worker.packing import (
    CRC,
    CRC_BYTES,
    ROW,
    id_keys,
    pack_codes,
    pack_documents,
    row_salt,
    rows_per_block,
)
from shard_worker.types import Document, Documents, Outcome

MAP_BYTES = 1 << 40
"""Address space reserved for the map; the file grows only as it is used."""
READERS_MAX = 256
DATA_FILE = "data.mdb"
_COUNTERS = b"counters"
_REREAD_ROWS = 1 << 16
"""Documents held at a time while the ids of a killed load are read again."""


class Store:
    """One shard's LMDB environment. One writer at a time, readers at any time, one process."""

    def __init__(self, folder: Path, width: int) -> None:
        """Open or create the store in ``folder`` for codes of ``width`` bytes."""
        self.path = folder
        self.width = width
        self._record = width + CRC_BYTES
        self._block_rows = rows_per_block(width)
        self._thread = threading.local()
        folder.mkdir(exist_ok=True)
        self._env = lmdb.open(
            str(folder), map_size=MAP_BYTES, max_dbs=8, max_readers=READERS_MAX, writemap=False,
            readahead=False, sync=True, metasync=True, lock=True,
        )  # fmt: skip
        self._env.reader_check()
        names = (b"codes", b"documents", b"ids", b"dead", b"meta")
        self._codes, self._documents, self._ids, self._dead, self._meta = map(
            self._env.open_db, names
        )
        counters = self._counters()
        self.rows = counters.get("rows", 0)
        self.dead_rows = counters.get("dead", 0)
        self._merged_rows = counters.get("ids", self.rows)
        self._pending = self._unmerged(self._merged_rows)
        page_bytes = self._env.stat()["psize"]
        self._blocks = BlockReader(folder / DATA_FILE, page_bytes, self._record, self._block_rows)
        self._blocks.load(folder)

    def close(self) -> None:
        self._blocks.close()
        self._env.close()

    def save_hints(self) -> None:
        """Keep what makes the next start faster and is no part of the truth."""
        self._blocks.save(self.path, self.rows // self._block_rows)

    # --- writing ---------------------------------------------------------------------------

    def append(
        self, batch: Documents, *, replace: bool
    ) -> tuple[list[Outcome], NDArray[np.int64], NDArray[np.int64]]:
        """Store a batch in one synced transaction.

        Returns what became of each document, the batch positions that were stored (n,) (they got
        the next row numbers, in order) and the rows that died. With ``replace`` a document of
        the same id is replaced; without, it is kept and the new one is SAME or DUPLICATE.
        Raises StorageFull when the disk or the map is full; nothing is stored then.
        """
        keys = id_keys(batch.ids)
        with self._growing(), self._env.begin(write=True) as txn:
            outcomes, stored, dead = self._admit(txn, batch, keys, replace)
            self._put_codes(txn, batch.codes[stored])
            with txn.cursor(db=self._documents) as cursor:
                cursor.putmulti(pack_documents(batch, stored.tolist(), self.rows), append=True)
            for row in dead.tolist():
                txn.put(ROW.pack(row), b"", db=self._dead)
            rows, dead_rows = self.rows + len(stored), self.dead_rows + len(dead)
            self._put_counters(txn, rows, dead_rows, self._merged_rows)
        added = np.arange(self.rows, rows, dtype=np.int64)
        self._pending = self._pending.plus(keys[stored], added)
        self._learn_blocks(self.rows, rows)
        self.rows, self.dead_rows = rows, dead_rows
        if len(self._pending) >= id_map.PENDING_MAX:
            self.merge_ids()
        return outcomes, stored, dead

    def merge_ids(self) -> None:
        """Move the ids that are only in RAM to the disk. Raises StorageFull; nothing is lost."""
        if not len(self._pending):
            return
        begin = functools.partial(self._env.begin, write=True)
        with self._growing():
            id_map.merge(begin, self._ids, self._pending, self._newest_of_each)
            with begin() as txn:
                self._put_counters(txn, self.rows, self.dead_rows, self.rows)
        self._merged_rows, self._pending = self.rows, id_map.Pending()

    @contextlib.contextmanager
    def _growing(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StorageFull(f"{self.path} cannot grow ({error}); add disk space") from error

    def _put_counters(self, txn: lmdb.Transaction, rows: int, dead: int, merged: int) -> None:
        """``ids`` is left out where the ids of all rows are merged, as before there was any RAM."""
        counters = {"rows": rows, "dead": dead} | ({"ids": merged} if merged < rows else {})
        txn.put(_COUNTERS, orjson.dumps(counters), db=self._meta)

    def _admit(
        self, txn: lmdb.Transaction, batch: Documents, keys: NDArray[np.uint64], replace: bool
    ) -> tuple[list[Outcome], NDArray[np.int64], NDArray[np.int64]]:
        """Decide on each document: the last of an id wins with ``replace``, else the first."""
        known = id_map.holds(txn, self._ids, self._pending, keys)
        if not known.any() and len(np.unique(keys)) == len(keys):
            everything = np.arange(len(keys), dtype=np.int64)
            return [Outcome.STORED] * len(keys), everything, everything[:0]
        outcomes: list[Outcome] = []
        winners: dict[str, int] = {}
        dead: list[int] = []
        for place, document_id in enumerate(batch.ids):
            held = self._row_of(txn, self._pending, document_id) if known[place] else None
            if replace:
                if held is not None and document_id not in winners:
                    dead.append(held)
                winners[document_id] = place
                outcomes.append(Outcome.STORED)
            elif held is not None:
                position = self._document(txn, held).position
                same = position == batch.positions[place] and position >= 0
                outcomes.append(Outcome.SAME if same else Outcome.DUPLICATE)
            elif document_id in winners:
                outcomes.append(Outcome.DUPLICATE)
            else:
                winners[document_id] = place
                outcomes.append(Outcome.STORED)
        stored = np.array(sorted(winners.values()), dtype=np.int64)
        return outcomes, stored, np.array(dead, dtype=np.int64)

    def _put_codes(self, txn: lmdb.Transaction, codes: NDArray[np.int8]) -> None:
        """Pack ``codes`` (n, width) behind the last row; the last block is rewritten."""
        records = pack_codes(codes, self.rows)
        done = 0
        while done < len(codes):
            block, offset = divmod(self.rows + done, self._block_rows)
            chunk: bytes | memoryview = records[done : done + self._block_rows - offset].data
            key = ROW.pack(block)
            if offset:
                head = bytes(txn.get(key, db=self._codes) or b"")
                chunk = b"".join([head[: offset * self._record], chunk])
            txn.put(key, chunk, db=self._codes)
            done += self._block_rows - offset

    def _learn_blocks(self, first: int, rows: int) -> None:
        """Remember where the blocks that became full lie, while their pages are still warm."""
        with self._env.begin(buffers=True) as txn:
            for block in range(first // self._block_rows, rows // self._block_rows):
                self._blocks.learn(block, memoryview(txn.get(ROW.pack(block), b"", db=self._codes)))

    def _newest_of_each(self, txn: lmdb.Transaction, rows: list[int]) -> list[int]:
        """Of rows whose ids share a hash, the newest of each id; damaged ones are kept."""
        newest: dict[str | int, int] = {}
        for row in sorted(set(rows)):
            try:
                newest[self._document(txn, row).id] = row
            except Corrupt:
                newest[row] = row
        return sorted(newest.values())

    def _unmerged(self, first: int) -> id_map.Pending:
        """The ids of the rows from ``first`` on, from their documents. A damaged one is lost."""
        pending = id_map.Pending()
        for start in range(first, self.rows, _REREAD_ROWS):
            rows = range(start, min(start + _REREAD_ROWS, self.rows))
            found = zip(rows, self.documents(rows), strict=True)
            named = [(row, held.id) for row, held in found if isinstance(held, Document)]
            kept = np.array([row for row, _ in named], dtype=np.int64)
            pending = pending.plus(id_keys([name for _, name in named]), kept)
        return pending

    # --- reading ---------------------------------------------------------------------------

    def read_codes(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """int8 codes (n, width) of ``rows`` (n,), and which of them passed their checksum (n,)."""
        wanted, salts = rows.tolist(), row_salt(rows).tolist()
        records = self._blocks.read(wanted)
        good = [is_intact(r, self.width, salt) for r, salt in zip(records, salts, strict=True)]
        if not all(good):
            with self._env.begin(buffers=True) as txn:
                for place in np.flatnonzero(~np.array(good)).tolist():
                    records[place] = self._record_of(txn, wanted[place])
                    good[place] = is_intact(records[place], self.width, salts[place])
        codes = np.zeros((len(rows), self.width), dtype=np.int8)
        intact = np.array(good, dtype=np.bool_)
        codes[intact] = codes_of(
            [r for r, fine in zip(records, good, strict=True) if fine], self.width
        )
        return codes, intact

    def _record_of(self, txn: lmdb.Transaction, row: int) -> bytes:
        """Code and checksum of ``row`` by LMDB, its block remembered; empty if it is missing."""
        block, offset = divmod(row, self._block_rows)
        packed = memoryview(txn.get(ROW.pack(block), b"", db=self._codes))
        self._blocks.learn(block, packed)
        return bytes(packed[offset * self._record : (offset + 1) * self._record])

    def scan_codes(
        self, first: int, rows: int, *, checked: bool = True
    ) -> Iterator[tuple[int, NDArray[np.int8]]]:
        """Yield (first row, codes (n, width)) block by block for rows ``first`` … ``rows``.

        Raises ChecksumMismatch naming the row when ``checked``. Short read transactions: one per
        block, so that a long scan pins no pages.
        """
        for block in range(first // self._block_rows, -(-rows // self._block_rows)):
            start = block * self._block_rows
            count = min(rows - start, self._block_rows)
            with self._env.begin(buffers=True) as txn:
                packed = txn.get(ROW.pack(block), db=self._codes)
                if packed is None or len(packed) < count * self._record:
                    raise Corrupt(f"{self.path}: block {block} of codes is missing or short")
                records = np.frombuffer(packed, dtype=np.uint8, count=count * self._record)
                records = records.reshape(count, self._record).copy()
            skipped = max(0, first - start)
            if checked:
                self._check(records[skipped:], start + skipped)
            yield start + skipped, records[skipped:, : self.width].view(np.int8)

    def _check(self, records: NDArray[np.uint8], first: int) -> None:
        rows = np.arange(first, first + len(records), dtype=np.int64)
        crcs = np.ascontiguousarray(records[:, self.width :]).view("<u4").ravel() ^ row_salt(rows)
        for row, record, crc in zip(rows, records, crcs, strict=True):
            if google_crc32c.value(record[: self.width].tobytes()) != crc:
                raise ChecksumMismatch(f"{self.path}: the code of row {row} is damaged")

    def documents(self, rows: Sequence[int]) -> list[Document | BitsiftError]:
        """The documents of ``rows``; in the place of a damaged one, the error that says so."""
        found: list[Document | BitsiftError] = []
        with self._env.begin() as txn:
            for row in rows:
                try:
                    found.append(self._document(txn, row))
                except BitsiftError as error:
                    found.append(error)
        return found

    def find(self, document_id: str) -> int | None:
        """The row that holds a document id, or None."""
        pending = self._pending
        with self._env.begin() as txn:
            return self._row_of(txn, pending, document_id)

    def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        """For each id the load position it is stored with, or None where it is not stored."""
        pending = self._pending
        with self._env.begin() as txn:
            rows = [self._row_of(txn, pending, document_id) for document_id in ids]
            return [None if row is None else self._document(txn, row).position for row in rows]

    def dead(self) -> NDArray[np.int64]:
        """All dead rows, int64 (n,), ascending."""
        with self._env.begin() as txn, txn.cursor(db=self._dead) as cursor:
            keys = b"".join(cursor.iternext(keys=True, values=False))
        return np.frombuffer(keys, dtype=">u8").astype(np.int64)

    def _row_of(
        self, txn: lmdb.Transaction, pending: id_map.Pending, document_id: str
    ) -> int | None:
        (key,) = id_keys([document_id])
        for row in id_map.rows_of(txn, self._ids, pending, key):
            if self._document(txn, row).id == document_id:
                return row
        return None

    def _document(self, txn: lmdb.Transaction, row: int) -> Document:
        packed = txn.get(ROW.pack(row), db=self._documents)
        if packed is None:
            raise NotFound(f"{self.path}: there is no document in row {row}")
        body = bytes(packed[CRC_BYTES:])
        salt = int(row_salt(np.array([row], dtype=np.int64))[0])
        if google_crc32c.value(body) ^ salt != CRC.unpack_from(packed)[0]:
            raise ChecksumMismatch(f"{self.path}: the document of row {row} is damaged")
        document_id, title, text, metadata, position = orjson.loads(self._decompress(body))
        return Document(
            document_id, title, text, orjson.loads(metadata) if metadata else {}, position
        )

    def _decompress(self, body: bytes) -> bytes:
        """A decompressor may be used by one thread at a time, so each thread has its own."""
        decompressor = getattr(self._thread, "decompressor", None)
        if decompressor is None:
            decompressor = self._thread.decompressor = zstandard.ZstdDecompressor()
        return bytes(decompressor.decompress(body))

    def _counters(self) -> dict[str, Any]:
        with self._env.begin() as txn:
            value = txn.get(_COUNTERS, db=self._meta)
        return {} if value is None else dict(orjson.loads(value))
