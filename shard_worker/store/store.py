"""``Store``: one LMDB environment, the databases that format.py describes, and its transactions.

Codes are packed in blocks of many rows per value: one record per key would waste a third of the
disk (measured), and a read still touches one or two pages (blocks.py). Texts live apart, so that
rescoring never drags them off the disk. Every row carries its own CRC32C, mixed with its row
number, because LMDB 0.9 has no page checksums; what has none is summed up in the counters. One
transaction per acknowledged batch, synced before it returns. Never ``writemap``: a full disk would
be a SIGBUS instead of an error.

The map reserves address space for all that the file may ever grow to. Growing it later would need a
moment without any reader.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch, WritesStopped
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import Delete, Documents, Operation
from bitsift.shard_worker.store.admission import Admitted, Stored, admit
from bitsift.shard_worker.store.counters import Counters, Past
from bitsift.shard_worker.store.deletions import pack_deletion
from bitsift.shard_worker.store.id_map import StoredIds
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, damage_named
from bitsift.shard_worker.store.packing import (
    id_keys,
    pack_codes,
    pack_documents,
    sum_of,
)
from bitsift.shard_worker.store.parts import Parts, make_store
from bitsift.shard_worker.store.tombstones import Tally, Tombstone
from bitsift.shard_worker.types import ShardIdentity, ShardSettings
from bitsift.write_status import WriteStatus

STORE_BYTES_MAX = ShardSettings().store_bytes_max
IDS_CHECKED_AT_START = 1 << 23
"""A larger id map is checked by ``bitsift verify`` only."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What one transaction did: the statuses of each operation, the codes int8 (n, width) that got
    the next row numbers, in order, the rows that died, and ids and metadata of the new rows.
    """

    statuses: list[list[WriteStatus]]
    codes: NDArray[np.int8]
    dead: Rows
    texts: Sequence[tuple[str, str]] = ()


Then = Callable[[Written], None]
"""Brings RAM to what a transaction did, before anyone is told of it."""
_Array = TypeVar("_Array", bound=NDArray[Any])


def _joined(arrays: list[_Array]) -> _Array:
    """``arrays``, at least one, behind each other; one alone is not copied."""
    return arrays[0] if len(arrays) == 1 else cast(_Array, np.concatenate(arrays))


class Store:
    """One shard's LMDB environment. One writer at a time, readers at any time, one process."""

    def __init__(
        self, folder: Path, identity: ShardIdentity, max_bytes: int = STORE_BYTES_MAX
    ) -> None:
        """Open the store in ``folder``, whose data file may grow to ``max_bytes``.

        Raises Corrupt when it is missing, short or contradicts itself, FormatMismatch when it is
        that of another shard, or in a format that this program does not read.
        """
        self.parts = Parts(folder, identity, max_bytes)
        self.index_fields = identity.index_fields
        self.format = self.parts.format
        self.reader, self.versions = self.parts.reader, self.parts.versions
        self.tombstones = self.parts.tombstones
        self._decided_by = Stored(self.reader, self.versions, self.parts.deletions)
        self._env, self._databases = self.parts.env, self.parts.env.databases
        self._commits = self.parts.commits
        self._merging = threading.Lock()
        try:
            with damage_named(folder / DATA_FILE):
                self.ids = StoredIds(self._env, self.parts.room, self._commits, self.reader)
                self.ids.read(self.counters.merged_rows)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        folder: Path,
        identity: ShardIdentity,
        generation: int = 0,
        max_bytes: int = STORE_BYTES_MAX,
        past: Past = Past(),  # noqa: B008 (frozen)
    ) -> Store:
        """Make an empty store in the current format in ``folder``; open it. Raises StorageFull."""
        counters = Counters(
            generation=generation,
            newest_version=past.newest_version,
            forgotten_version=past.forgotten_version,
        )
        make_store(folder, identity, counters, max_bytes)
        return cls(folder, identity, max_bytes)

    def reap_readers(self) -> None:
        """Drop readers whose process was killed: they would keep old pages forever."""
        self._env.reap_readers()

    def close(self) -> None:
        self.parts.close()

    @property
    def path(self) -> Path:
        """The folder it lies in."""
        return self._env.folder

    @property
    def counters(self) -> Counters:
        """What the store says of itself, as of the last change that RAM knows of."""
        return self._commits.counters

    @property
    def writes_stopped(self) -> str | None:
        """Why nothing is written any more, or None."""
        return self._commits.stopped

    def stop_writes(self, why: str, *, in_doubt: bool = False) -> WritesStopped:
        """Take no writes from now on; the error that says so (see ``Commits.stop``)."""
        return self._commits.stop(why, in_doubt=in_doubt)

    @property
    def rows(self) -> int:
        """All rows, dead ones included."""
        return self.counters.rows

    @property
    def dead_rows(self) -> int:
        return self.counters.dead

    @property
    def generation(self) -> int:
        """How many compactions led to this store."""
        return self.counters.generation

    @property
    def pending_ids(self) -> int:
        """Ids that are only in RAM and in the documents."""
        return self.ids.pending

    @property
    def used_bytes(self) -> int:
        """What the data file needs: its last page in use."""
        return self._env.used_bytes

    # --- writing ---------------------------------------------------------------------------

    def write(
        self,
        operations: Sequence[Operation],
        then: Then = lambda _: None,
        *,
        version: int = NO_VERSION,
    ) -> Written:
        """Do all ``operations`` in one synced transaction; no two of them may share an id.

        Those that bring no version of their own have ``version``; format 1 keeps none. ``then``
        brings what else is in RAM to the same state. Raises StorageFull when the disk or the map is
        full: nothing is done then. Raises WritesStopped when the disk failed, or RAM could not
        follow what was committed: it may be there after a restart.
        """
        lookup, first, now_ms = self.ids.lookup(), self.rows, int(time.time() * 1e3)
        with self._commits.transaction() as txn:
            done = [admit(self._decided_by, txn, lookup, operation) for operation in operations]
            written = self._put(txn, operations, done, version, now_ms)
            if not any(part.changes for part in done):
                return written  # nothing was changed, and nothing is synced
            tally = self._put_deletions(txn, operations, done, version, now_ms)
            newest = max(self._kept(one, version) for one in operations)
            counters = self.counters.after(len(written.codes), written.dead, newest, tally)
            keys = _joined([part.keys[part.stored] for part in done])
            added = np.arange(first, counters.rows, dtype=np.int64)

            def follow() -> None:
                self.ids.add(keys, added)
                then(written)

            self._commits.commit(txn, counters, follow)
        self.reader.learn_blocks(first, self.rows)
        return written

    def _put(
        self,
        txn: lmdb.Transaction,
        operations: Sequence[Operation],
        done: Sequence[Admitted],
        version: int,
        now_ms: int,
    ) -> Written:
        """Codes, documents and dead rows of what was admitted, when there is room for them."""
        row, codes = self.rows, list[NDArray[np.int8]]()
        documents, versions = list[tuple[bytes, bytes]](), list[NDArray[np.uint64]]()
        texts = list[tuple[str, str]]()
        for operation, part in zip(operations, done, strict=True):
            if isinstance(operation, Documents) and (count := len(part.stored)):
                whole = count == len(operation)
                codes.append(operation.codes if whole else operation.codes[part.stored])
                documents += pack_documents(operation, part.stored.tolist(), row)
                texts += [
                    (operation.ids[at], operation.metadata[at]) for at in part.stored.tolist()
                ]
                versions.append(np.full(count, operation.version or version, dtype=np.uint64))
                row += count
        together = _joined(codes) if codes else np.empty((0, self.reader.width), dtype=np.int8)
        if codes:
            records = pack_codes(together, self.rows)
            self.parts.writer.put_rows(txn, self.rows, records, documents, _joined(versions))
        marks = self._marks(operations, done, version, now_ms)
        self.parts.writer.put_dead(txn, marks)
        dead = np.array(sorted(marks), dtype=np.int64)
        pairs = zip(operations, done, strict=True)
        said = [part.said(self._kept(one, version)) for one, part in pairs]
        return Written([*said], together, dead, texts)

    def _kept(self, operation: Operation, version: int) -> int:
        """The version that is kept of it: format 1 keeps none."""
        return NO_VERSION if self.versions is None else operation.version or version

    def _marks(
        self,
        operations: Sequence[Operation],
        done: Sequence[Admitted],
        version: int,
        now_ms: int,
    ) -> dict[int, bytes]:
        """What is said of each row that dies: its deletion, or nothing where it was replaced."""
        marks = dict[int, bytes]()
        for operation, part in zip(operations, done, strict=True):
            deleted = isinstance(operation, Delete) and self.parts.deletions is not None
            given = operation.version or version
            for row in part.dead.tolist():
                marks[row] = pack_deletion((given, now_ms), row) if deleted else b""
        return marks

    def _put_deletions(
        self,
        txn: lmdb.Transaction,
        operations: Sequence[Operation],
        done: Sequence[Admitted],
        version: int,
        now_ms: int,
    ) -> Tally:
        """What does not lie with dead rows; how many tombstones there are then."""
        tally, deletions = self.counters.tally, self.parts.deletions
        if deletions is None:
            return tally
        for operation, part in zip(operations, done, strict=True):
            stamp, ids = (operation.version or version, now_ms), operation.ids
            tally = deletions.put(txn, ids, part.keys, part.touched, stamp, tally)
        return tally

    def merge_ids(
        self, writing: contextlib.AbstractContextManager[Any], *, wait: bool = True
    ) -> None:
        """Move the ids that are only in RAM to the disk, with the lock ``writing`` held in parts.

        Raises StorageFull or WritesStopped; nothing is lost then. Without ``wait`` nothing is done
        while another thread does it.
        """
        if not self.ids.pending or not self._merging.acquire(blocking=wait):
            return
        try:
            with writing:
                rows = self.rows
                self.ids.gather()
            self.ids.merge(rows, writing)
        finally:
            self._merging.release()

    def rebuild_ids(self) -> None:
        """Rebuild the id map from the documents; those of damaged documents are lost.

        No other write may run meanwhile.
        """
        self.ids.clear()
        self.merge_ids(contextlib.nullcontext())

    def ids_are_intact(self) -> bool:
        """Whether the id map on the disk is what was written, and leads to all ids.

        Reads all of it; no write may run meanwhile. Raises Corrupt where its pages are not a tree.
        """
        if not self.parts.leads_to_all_keys("ids"):
            return False
        return self.ids.pass_checksum()

    # --- reading ---------------------------------------------------------------------------

    def find(self, document_id: str) -> int | None:
        """The row that holds a document id, or None."""
        (row,) = self.find_all([document_id])
        return row

    def find_all(self, ids: Sequence[str]) -> list[int | None]:
        """For each id the row that holds it, or None."""
        while True:
            known = self.rows
            lookup = self.ids.lookup()
            with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
                rows = [
                    self.reader.row_of(txn, lookup, document_id, key)
                    for document_id, key in zip(ids, id_keys(ids), strict=True)
                ]
                if None not in rows or self._commits.counters_in(txn).rows == known:
                    return rows
            if self.writes_stopped is not None:
                return rows  # what RAM lacks was not acknowledged, and does not come any more
            time.sleep(0)  # replaced in between: what took the place is not in ``lookup`` yet

    def foresee(self, operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        """What ``write`` would decide on each of ``operations`` now, without doing it.

        A document that is just being replaced may be MISSING: its new row is not known yet.
        """
        lookup = self.ids.lookup()
        with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
            return [admit(self._decided_by, txn, lookup, one).statuses for one in operations]

    def versions_of(self, ids: Sequence[str]) -> list[int | None]:
        """For each id what a write of it is compared with: the version of its document, else of its
        deletion, else None. None (0) is the version of what format 1 stored.
        """
        rows, keys = self.find_all(ids), id_keys(ids)
        deletions = self.parts.deletions
        if self.versions is None or deletions is None:
            return [None if row is None else NO_VERSION for row in rows]
        found, lookup = list[int | None](), self.ids.lookup()
        with self._env.begin() as txn:
            for row, document_id, key in zip(rows, ids, keys, strict=True):
                if row is not None:
                    found.append(self.versions.of(txn, row))
                    continue
                last = self.reader.newest_row_of(txn, lookup, document_id, key)
                stone = deletions.of(txn, document_id, key, last)
                found.append(None if stone is None else stone.version)
        return found

    def row_versions(self, first: int, stop: int) -> NDArray[np.uint64]:
        """The versions of rows ``first`` … ``stop``: uint64 (n,); 0 where there is none."""
        if self.versions is None:
            return np.zeros(stop - first, dtype=np.uint64)
        return self.versions.scan(first, stop)[0]

    def dead(self) -> Rows:
        """All dead rows, int64 (n,), ascending. Raises ChecksumMismatch, Corrupt."""
        with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
            rows = self.reader.dead(txn)
            counters = self._commits.counters_in(txn)
        found = len(rows), sum_of(rows.astype(np.uint64))
        if found != (counters.dead, counters.dead_sum):
            raise ChecksumMismatch(self.parts.damaged_dead)
        return rows

    def deleted(self) -> list[Tombstone]:
        """All deletions that are remembered, by the hash of their ids. Raises Corrupt."""
        if (deletions := self.parts.deletions) is None:
            return []
        lookup = self.ids.lookup()
        with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
            keys, _ = deletions.keys(txn)
            return [stone for key in keys for stone in deletions.under(txn, lookup, key)]

    def entries(self) -> dict[str, int]:
        """How many entries each database has."""
        with self._env.begin() as txn:
            return {
                name: txn.stat(database)["entries"] for name, database in self._databases.items()
            }

    def copy_data(self, descriptor: int) -> None:
        """Write a copy of the data file as it is committed now; writes go on meanwhile.

        Raises OSError.
        """
        self._env.copy(descriptor)
