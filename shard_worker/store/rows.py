"""Putting rows into the databases of a store, inside of one of its transactions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.lmdb_file import Room
from bitsift.shard_worker.store.packing import ROW
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.store.versions import Versions, pack_waiting, unpack_waiting

SLACK_BYTES = 256 << 10
"""Room asked for beyond what is counted."""
_ROW_BYTES = 80
"""What a row's version and its mark of a dead row may add, in half-filled pages."""
_SMALL_VALUE_BYTES = 2_000
"""LMDB puts larger values into pages of their own."""


class RowWriter:
    """Puts codes, documents, versions and dead rows; the counters are the caller's."""

    def __init__(
        self, env: Environment, room: Room, reader: RowReader, versions: Versions | None
    ) -> None:
        """``versions`` None: the store's format has none."""
        self._versions = versions
        self._env = env
        self._databases = env.databases
        self._room = room
        self._reader = reader

    def put_rows(
        self,
        txn: lmdb.Transaction,
        first: int,
        records: NDArray[np.uint8],
        documents: Sequence[tuple[bytes, bytes]],
        versions: NDArray[np.uint64],
    ) -> None:
        """Put rows from ``first`` on: ``records`` (n, width + 4), the items of ``documents``, and
        their ``versions`` (n,).

        Room is asked for here, while all is still in RAM; deletes live on the reserve. A small
        value shares a page with others, of which a third may stay empty; a large one has its own.
        Raises StorageFull.
        """
        if not len(records):
            return
        sizes, small = [len(value) for _, value in documents], _SMALL_VALUE_BYTES
        needed = sum(sizes) * 3 // 2 + 64 * len(sizes)
        if max(sizes) > small:
            needed = sum(
                size * 3 // 2 + 64 if size <= small else size + 2 * self._env.page_bytes
                for size in sizes
            )
        needed += records.nbytes * 21 // 20 + len(records) * _ROW_BYTES + SLACK_BYTES
        self._room.make(self._env.used_bytes, needed)
        self._put_records(txn, first, records, versions)
        with txn.cursor(db=self._databases["documents"]) as cursor:
            cursor.putmulti(documents, append=True)

    def put_dead(self, txn: lmdb.Transaction, marks: Mapping[int, bytes]) -> None:
        """Mark rows dead, each with what is said of its deletion (deletions.py)."""
        if marks:
            with txn.cursor(db=self._databases["dead"]) as cursor:
                cursor.putmulti([(ROW.pack(row), marks[row]) for row in sorted(marks)])

    def _put_records(
        self,
        txn: lmdb.Transaction,
        first: int,
        records: NDArray[np.uint8],
        versions: NDArray[np.uint64],
    ) -> None:
        """Put ``records`` (n, width + 4) from row ``first`` on; what fills a block becomes one.

        Rows wait in the tail, one by one, until they fill a block: rewriting the block with each
        would be 128 KiB a document.
        """
        end, size, done = first + len(records), self._reader.block_rows, first
        for block in range(first // size, end // size):
            stop = (block + 1) * size
            head, head_versions = self._take_tail(txn, range(block * size, done))
            body = records[done - first : stop - first].tobytes()
            txn.put(ROW.pack(block), head + body, db=self._databases["codes"])
            if self._versions is not None:
                together = np.concatenate([head_versions, versions[done - first : stop - first]])
                self._versions.put_block(txn, block, together)
            done = stop
        waiting = [record.tobytes() for record in records[done - first :]]
        if self._versions is not None:
            behind = pack_waiting(versions[done - first :], done)
            waiting = [record + more for record, more in zip(waiting, behind, strict=True)]
        with txn.cursor(db=self._databases["tail"]) as cursor:
            cursor.putmulti(zip(map(ROW.pack, range(done, end)), waiting, strict=True), append=True)

    def _take_tail(self, txn: lmdb.Transaction, rows: range) -> tuple[bytes, NDArray[np.uint64]]:
        """Empty the tail, which holds ``rows`` and no others; their records and versions.

        A record that is lost is zeros, whose checksum will say so; a version is none (0) then.
        """
        size, records = self._reader.record_bytes, []
        versions = np.zeros(len(rows), dtype=np.uint64)
        if not len(rows):
            return b"", versions
        keys = list(map(ROW.pack, rows))
        with txn.cursor(db=self._databases["tail"]) as cursor:
            found = cursor.getmulti(keys)
        if len(found) != len(keys):
            there = {bytes(key): value for key, value in found}
            found = [(key, there.get(key, b"")) for key in keys]
        txn.drop(self._databases["tail"], delete=False)
        for place, (row, (_, waiting)) in enumerate(zip(rows, found, strict=True)):
            record = bytes(waiting)
            records.append(record[:size] if len(record) >= size else bytes(size))
            if self._versions is not None:
                with contextlib.suppress(ChecksumMismatch):
                    versions[place] = unpack_waiting(record[size:], row)
        return b"".join(records), versions
