"""The store: one LMDB environment per shard, the only truth.

    codes      block number -> packed rows of that block: int8 code + CRC32C each
    tail       row          -> the same of one row: those that do not fill a block yet
    documents  row          -> CRC32C + zstd(JSON [id, title, text, metadata, position])
    ids        hash of id   -> the row that holds the document (more on a hash collision)
    dead       row          -> "" : replaced or deleted rows
    meta       "counters"   -> how many rows, dead rows, ...; "identity" -> the shard that this is

Codes are packed in blocks of many rows per value: one record per key would waste a third of the
disk (FIELD-NOTES), and a read still touches one or two pages (blocks.py). Texts live apart, so that
rescoring never drags them off the disk. Every row carries its own CRC32C, mixed with its row
number, because LMDB 0.9 has no page checksums; what has none is summed up in the counters. One
transaction per acknowledged batch, synced before it returns. Never ``writemap``: a full disk would
be a SIGBUS instead of an error.

The map reserves address space for all that the file may ever grow to. Growing it later would need a
moment without any reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from shard_worker import ids as id_map
from shard_worker.admission import Admitted, admit
from shard_worker.datafile import DATA_FILE, Room, check_data_file, damage_named
from shard_worker.errors import (
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    StorageFull,
    WritesStopped,
)
from shard_worker.held import HeldRows
from shard_worker.packing import (
    ROW,
    id_keys,
    pack_codes,
    pack_documents,
    pack_meta,
    sum_of,
    unpack_meta,
)
from shard_worker.tree import leads_to_all_keys
from shard_worker.types import (
    Document,
    Documents,
    Operation,
    Outcome,
    ShardIdentity,
    ShardSettings,
)

log = logging.getLogger(__name__)

READERS_MAX = 256
DATABASES = ("codes", "tail", "documents", "ids", "dead", "meta")
"""Their names; what each holds is said above."""
STORE_BYTES_MAX = ShardSettings().store_bytes_max
IDS_CHECKED_AT_START = 1 << 23
"""A larger id map is checked by ``bitsift verify`` only."""
_COUNTERS, _IDENTITY = b"counters", b"identity"
_REREAD_ROWS = 1 << 16
"""Documents held at a time while the ids of a killed load are read again."""
_DEAD_BYTES, _ID_BYTES, _SLACK_BYTES = 32, 128, 256 << 10
"""Room asked for: what a dead row or an id may add, both in half-filled pages, and for all else."""
_SMALL_VALUE_BYTES = 2_000
"""LMDB puts larger values into pages of their own."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counters:
    """What the store says of itself, in the transaction of every change.

    ``merged_rows`` have their ids in the database; ``dead_sum`` and ``ids_sum`` are checksums.
    ``transaction`` is LMDB's number of the transaction that wrote this: an older state in the place
    of the newest has another.
    """

    rows: int = 0
    dead: int = 0
    merged_rows: int = 0
    generation: int = 0
    dead_sum: int = 0
    ids_sum: int = 0
    transaction: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What one transaction did: the outcomes of each operation, the codes int8 (n, width) that got
    the next row numbers, in order, and the rows that died.
    """

    outcomes: list[list[Outcome]]
    codes: NDArray[np.int8]
    dead: Rows


class Store:
    """One shard's LMDB environment. One writer at a time, readers at any time, one process."""

    def __init__(
        self, folder: Path, identity: ShardIdentity, max_bytes: int = STORE_BYTES_MAX
    ) -> None:
        """Open the store in ``folder``, whose data file may grow to ``max_bytes``.

        Raises Corrupt when it is missing, short or contradicts itself, FormatMismatch when it is
        that of another shard.
        """
        check_data_file(folder / DATA_FILE)
        with damage_named(folder / DATA_FILE):
            self._open(folder, identity.width, max_bytes)
        try:
            with damage_named(folder / DATA_FILE):
                self._check_identity(identity)
                self.counters = self._read_counters()
                self._check_dead()
                self._ids = self._id_map()
                self.read_ids(self.counters.merged_rows)
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
    ) -> Store:
        """Make an empty store in ``folder`` and open it. Raises StorageFull."""
        made = cls.__new__(cls)
        try:
            folder.mkdir(exist_ok=True)
            made._open(folder, identity.width, max_bytes, create=True)
            with contextlib.closing(made), made._env.begin(write=True) as txn:
                facts = dataclasses.asdict(identity)
                txn.put(_IDENTITY, pack_meta(facts), db=made._databases["meta"])
                made._put_counters(txn, Counters(generation=generation))
        except (lmdb.Error, OSError) as error:
            raise StorageFull(f"{folder}: no store can be made ({error})") from error
        return cls(folder, identity, max_bytes)

    def _open(self, folder: Path, width: int, max_bytes: int, *, create: bool = False) -> None:
        self.writes_stopped: str | None = None
        self._merging = threading.Lock()
        self._env = lmdb.open(
            str(folder), map_size=max_bytes, max_dbs=8, max_readers=READERS_MAX, writemap=False,
            readahead=False, sync=True, metasync=True, lock=True,
        )  # fmt: skip
        self.reap_readers()
        try:
            self._databases = {
                name: self._env.open_db(name.encode(), create=create) for name in DATABASES
            }
        except BaseException:
            self._env.close()
            raise
        self._page_bytes = self._env.stat()["psize"]
        self._room = Room(folder / DATA_FILE, max_bytes)
        self.held = HeldRows(folder, self._env, self._databases, width)

    def _check_identity(self, identity: ShardIdentity) -> None:
        """A data file that was put in the place of another, or made anew, is refused."""
        with self._env.begin() as txn:
            found, expected = self._meta(txn, _IDENTITY), dataclasses.asdict(identity)
        if found != expected:
            raise FormatMismatch(
                f"{self.path / DATA_FILE} holds shard {found.get('shard')} of index "
                f"{found.get('index_uuid')}; expected shard {identity.shard} of index "
                f"{identity.index_uuid}"
            )

    def _read_counters(self) -> Counters:
        with self._env.begin() as txn:
            counters, transaction = self._counters_in(txn), txn.id()
        if counters.transaction != transaction:
            raise Corrupt(
                f"{self.path / DATA_FILE} is in the state of transaction {counters.transaction}, "
                f"not of {transaction}, its last; restore it from a backup"
            )
        return counters

    def _counters_in(self, txn: lmdb.Transaction) -> Counters:
        """The counters that ``txn`` sees. Raises ChecksumMismatch, FormatMismatch."""
        facts = self._meta(txn, _COUNTERS)
        if facts.keys() != Counters.__dataclass_fields__.keys():
            raise FormatMismatch(f"{self.path / DATA_FILE} has counters of another version")
        return Counters(**facts)

    def _check_dead(self) -> None:
        """A dead row that is not found would be alive."""
        if not self._leads_to_all_keys("dead"):
            raise Corrupt(self._damaged_dead)

    @property
    def _damaged_dead(self) -> str:
        path = self.path / DATA_FILE
        return f"{path}: the list of dead rows is damaged; restore it from a backup"

    def _leads_to_all_keys(self, name: str) -> bool:
        """Whether all keys of a database are found. No write may run meanwhile. Raises Corrupt."""
        path = self.path / DATA_FILE
        with self._env.begin() as txn:
            record = bytes(txn.get(name.encode(), b""))
        with path.open("rb") as data:
            try:
                return leads_to_all_keys(data.fileno(), self._page_bytes, record)
            except Corrupt as error:
                raise Corrupt(f"{path}: {name}: {error}; restore it from a backup") from error

    def _meta(self, txn: lmdb.Transaction, key: bytes) -> dict[str, Any]:
        try:
            return unpack_meta(bytes(txn.get(key, b"", db=self._databases["meta"])))
        except ChecksumMismatch as error:
            raise ChecksumMismatch(
                f"{self.path / DATA_FILE}: {key.decode()}: {error}; restore it from a backup"
            ) from error

    def _id_map(self) -> id_map.IdMap:
        counters = self.counters
        return id_map.IdMap(self._databases["ids"], counters.merged_rows, counters.ids_sum)

    def reap_readers(self) -> None:
        """Forget readers whose process was killed: they would keep old pages for ever."""
        self._env.reader_check()

    def close(self) -> None:
        self.held.close()
        self._room.close()
        self._env.close()

    @property
    def path(self) -> Path:
        """The folder it lies in."""
        return self.held.path

    def moved_to(self, folder: Path) -> None:
        """Its data file was given a name in ``folder``: for what is said and kept from now on."""
        self.held.path = folder
        self._room.path = folder / DATA_FILE

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
        return self._ids.pending

    @property
    def used_bytes(self) -> int:
        """What the data file needs: its last page in use."""
        return int((self._env.info()["last_pgno"] + 1) * self._page_bytes)

    # --- writing ---------------------------------------------------------------------------

    def write(self, operations: Sequence[Operation]) -> Written:
        """Do all ``operations`` in one synced transaction; no two of them may share an id.

        Raises StorageFull when the disk or the map is full, WritesStopped when the disk failed;
        nothing is done then.
        """
        lookup = self._ids.lookup()
        with self._guarded(), self._env.begin(write=True) as txn:
            done = [admit(self.held, txn, lookup, operation) for operation in operations]
            written = self._put(txn, operations, done)
            counters = self._counters_after(written)
            if counters != self.counters:  # else nothing was changed, and nothing is synced
                self._put_counters(txn, counters)
        first = self.rows
        keys = [part.keys[part.stored] for part in done]
        added = np.arange(first, counters.rows, dtype=np.int64)
        self._ids.add(np.concatenate(keys), added)
        self.counters = counters  # after the ids: who knows of a row finds its id
        self.held.learn_blocks(first, counters.rows)
        return written

    def _put(
        self, txn: lmdb.Transaction, operations: Sequence[Operation], done: Sequence[Admitted]
    ) -> Written:
        """Codes, documents and dead rows of what was admitted, when there is room for them."""
        row, codes = self.rows, [np.empty((0, self.held.width), dtype=np.int8)]
        documents = list[tuple[bytes, bytes]]()
        for operation, part in zip(operations, done, strict=True):
            if isinstance(operation, Documents) and len(part.stored):
                codes.append(operation.codes[part.stored])
                documents += pack_documents(operation, part.stored.tolist(), row)
                row += len(part.stored)
        together = np.concatenate(codes)
        self._put_rows(txn, pack_codes(together, self.rows), documents)
        dead = np.unique(np.concatenate([part.dead for part in done]))
        self._put_dead(txn, dead)
        return Written([part.outcomes for part in done], together, dead)

    def _put_rows(
        self,
        txn: lmdb.Transaction,
        records: NDArray[np.uint8],
        documents: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """Append ``records`` (n, width + 4) and the items of ``documents``. Raises StorageFull.

        Room is asked for here, while all is still in RAM; deletes live on the reserve. A small
        value shares a page with others, of which a third may stay empty; a large one has its own.
        """
        if not len(records):
            return
        sizes = (len(value) for _, value in documents)
        needed = sum(
            size * 3 // 2 + 64 if size <= _SMALL_VALUE_BYTES else size + 2 * self._page_bytes
            for size in sizes
        )
        needed += records.nbytes * 21 // 20 + len(records) * _DEAD_BYTES + _SLACK_BYTES
        self._room.make(self.used_bytes, needed)
        self._put_records(txn, records)
        with txn.cursor(db=self._databases["documents"]) as cursor:
            cursor.putmulti(documents, append=True)

    def _put_dead(self, txn: lmdb.Transaction, rows: Rows) -> None:
        with txn.cursor(db=self._databases["dead"]) as cursor:
            cursor.putmulti([(ROW.pack(row), b"") for row in rows.tolist()])

    def _counters_after(self, written: Written) -> Counters:
        counters = dataclasses.replace(self.counters, rows=self.rows + len(written.codes))
        return self._counters_with_dead(counters, written.dead)

    @staticmethod
    def _counters_with_dead(counters: Counters, dead: Rows) -> Counters:
        checksum = (counters.dead_sum + sum_of(dead.astype(np.uint64))) % (1 << 64)
        return dataclasses.replace(counters, dead=counters.dead + len(dead), dead_sum=checksum)

    def merge_ids(
        self, writing: contextlib.AbstractContextManager[Any], *, wait: bool = True
    ) -> None:
        """Move the ids that are only in RAM to the disk, with the lock ``writing`` held in parts.

        Raises StorageFull or WritesStopped; nothing is lost then. Without ``wait`` nothing is done
        while another thread does it.
        """
        if not self._ids.pending or not self._merging.acquire(blocking=wait):
            return
        try:
            with writing:
                rows = self.rows
                self._ids.gather()
            begin = functools.partial(self._env.begin, write=True)
            step = functools.partial(self._merge_step, writing)
            self._ids.merge(begin, rows, step, self._newest_of_each)
        finally:
            self._merging.release()

    @contextlib.contextmanager
    def _merge_step(
        self, writing: contextlib.AbstractContextManager[Any]
    ) -> Iterator[id_map.Committing]:
        """One transaction of a merge: room for it, and the counters that belong to it."""
        with writing, self._guarded():
            ids = min(self._ids.pending, id_map.MERGED_AT_ONCE)
            self._room.make(self.used_bytes, ids * _ID_BYTES + _SLACK_BYTES)
            after = self.counters

            def committing(txn: lmdb.Transaction, merged_rows: int, checksum: int) -> None:
                nonlocal after
                after = dataclasses.replace(after, merged_rows=merged_rows, ids_sum=checksum)
                self._put_counters(txn, after)

            yield committing
            self.counters = after

    def rebuild_ids(self) -> None:
        """Make the id map anew from the documents; those of damaged documents are lost.

        No other write may run meanwhile.
        """
        counters = dataclasses.replace(self.counters, merged_rows=0, ids_sum=0)
        with self._guarded(), self._env.begin(write=True) as txn:
            txn.drop(self._databases["ids"], delete=False)
            self._put_counters(txn, counters)
        self.counters = counters
        self._ids = self._id_map()
        self.read_ids(self.counters.merged_rows)
        self.merge_ids(contextlib.nullcontext())

    def ids_are_intact(self) -> bool:
        """Whether the id map on the disk is what was written, and leads to all ids.

        Reads all of it; no write may run meanwhile. Raises Corrupt where its pages are not a tree.
        """
        if not self._leads_to_all_keys("ids"):
            return False
        with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
            return self._ids.stored_checksum(txn) == self._ids.checksum

    # --- compaction ------------------------------------------------------------------------

    def put_copied(
        self, records: NDArray[np.uint8], documents: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Append rows of another generation: ``records`` (n, width + 4) and the items of
        ``documents``, both with the checksums of their new row numbers. Their ids come later.
        """
        counters = dataclasses.replace(self.counters, rows=self.rows + len(records))
        with self._guarded(), self._env.begin(write=True) as txn:
            self._put_rows(txn, records, documents)
            self._put_counters(txn, counters)
        first, self.counters = self.rows, counters
        self.held.learn_blocks(first, self.rows)

    def put_ids(self, parts: Iterator[list[tuple[bytes, bytes]]], rows: int) -> None:
        """Fill the empty id map with the ids of the first ``rows`` rows, by ascending key.

        Those of the rows behind them are read from the documents.
        """
        checksum = 0
        for entries in parts:
            with self._guarded():
                self._room.make(self.used_bytes, len(entries) * _ID_BYTES + _SLACK_BYTES)
                with (
                    self._env.begin(write=True) as txn,
                    txn.cursor(db=self._databases["ids"]) as cursor,
                ):
                    cursor.putmulti(entries, append=True)
                    self._put_counters(txn, self.counters)
            checksum += id_map.checksum_of(entries)
        checksum %= 1 << 64
        counters = dataclasses.replace(self.counters, merged_rows=rows, ids_sum=checksum)
        with self._guarded(), self._env.begin(write=True) as txn:
            self._put_counters(txn, counters)
        self.counters = counters
        self._ids = self._id_map()
        self.read_ids(rows)

    def bury(self, rows: Rows) -> None:
        """Mark rows (n,) dead."""
        with self._guarded(), self._env.begin(write=True) as txn:
            self._put_dead(txn, rows)
            counters = self._counters_with_dead(self.counters, rows)
            self._put_counters(txn, counters)
        self.counters = counters

    def entries_of_ids(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """All (key, packed rows) that the id map has on the disk, ascending."""
        with self._env.begin() as txn:
            yield from id_map.entries_of(txn, self._databases["ids"], id_map.MERGED_AT_ONCE)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse writes after the disk failed one: what it then holds, nobody knows."""
        if self.writes_stopped is not None:
            raise WritesStopped(self.writes_stopped)
        try:
            yield
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StorageFull(f"{self.path} cannot grow ({error}); add disk space") from error
        except (lmdb.Error, OSError) as error:
            raise self.stop_writes(str(error)) from error

    def stop_writes(self, reason: str) -> WritesStopped:
        """Take no writes from now on, until the shard is opened again; the error that says so."""
        self.writes_stopped = (
            f"{self.path} takes no writes: {reason}. Reads go on; see to the disk, then restart"
        )
        log.error("%s", self.writes_stopped)
        return WritesStopped(self.writes_stopped)

    def _put_counters(self, txn: lmdb.Transaction, counters: Counters) -> None:
        packed = pack_meta(dataclasses.asdict(counters) | {"transaction": txn.id()})
        txn.put(_COUNTERS, packed, db=self._databases["meta"])

    def _put_records(self, txn: lmdb.Transaction, records: NDArray[np.uint8]) -> None:
        """Put ``records`` (n, width + 4) behind the last row; what fills a block becomes one.

        Rows wait in the tail, one by one, until they fill a block: writing the block anew with each
        would be 128 KiB a document.
        """
        first, end, size = self.rows, self.rows + len(records), self.held.block_rows
        done = first
        for block in range(first // size, end // size):
            stop = (block + 1) * size
            head = self._take_tail(txn, range(block * size, done))
            body = records[done - first : stop - first].tobytes()
            txn.put(ROW.pack(block), head + body, db=self._databases["codes"])
            done = stop
        with txn.cursor(db=self._databases["tail"]) as cursor:
            waiting = [(ROW.pack(row), records[row - first].tobytes()) for row in range(done, end)]
            cursor.putmulti(waiting, append=True)

    def _take_tail(self, txn: lmdb.Transaction, rows: range) -> bytes:
        """Remove from the tail the records of ``rows``, and return them."""
        taken = []
        for row in rows:
            record = txn.pop(ROW.pack(row), db=self._databases["tail"])
            if record is None or len(record) != self.held.record_bytes:
                record = bytes(self.held.record_bytes)  # lost: its checksum will say so
            taken.append(bytes(record))
        return b"".join(taken)

    def _newest_of_each(self, txn: lmdb.Transaction, rows: list[int]) -> list[int]:
        """Of rows whose ids share a hash, the newest of each id; damaged ones are kept."""
        newest: dict[str | int, int] = {}
        for row in sorted(set(rows)):
            try:
                newest[self.held.content(txn, row)[0]] = row
            except Corrupt:
                newest[row] = row
        return sorted(newest.values())

    def read_ids(self, first: int) -> None:
        """Take the ids of rows from ``first`` on from their documents; damaged ones are lost."""
        for start in range(first, self.rows, _REREAD_ROWS):
            rows = range(start, min(start + _REREAD_ROWS, self.rows))
            found = zip(rows, self.held.documents(rows), strict=True)
            named = [(row, held.id) for row, held in found if isinstance(held, Document)]
            kept = np.array([row for row, _ in named], dtype=np.int64)
            self._ids.add(id_keys([name for _, name in named]), kept)

    # --- reading ---------------------------------------------------------------------------

    def find(self, document_id: str) -> int | None:
        """The row that holds a document id, or None."""
        (row,) = self.find_all([document_id])
        return row

    def find_all(self, ids: Sequence[str], *, deleted: bool = False) -> list[int | None]:
        """For each id the row that holds it, or with ``deleted`` held it last, or None."""
        find = self.held.newest_row_of if deleted else self.held.row_of
        while True:
            known = self.rows
            lookup = self._ids.lookup()
            with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
                rows = [
                    find(txn, lookup, document_id, key)
                    for document_id, key in zip(ids, id_keys(ids), strict=True)
                ]
                if None not in rows or self._counters_in(txn).rows == known:
                    return rows
            time.sleep(0)  # replaced in between: what took the place is not in ``lookup`` yet

    def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        """For each id the load position it was stored with last, or None where it never was.

        Deleted documents count, until a compaction: a load that goes on must not bring them back.
        """
        rows = self.find_all(ids, deleted=True)
        with self._env.begin() as txn:
            return [None if row is None else self.held.content(txn, row)[4] for row in rows]

    def holds(self, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
        """For each id whether its document has the content of the digest, and a model's vector."""
        rows = self.find_all(ids)
        with self._env.begin() as txn:
            return [
                row is not None and self.held.has_content(txn, row, digest)
                for row, digest in zip(rows, digests, strict=True)
            ]

    def dead(self) -> Rows:
        """All dead rows, int64 (n,), ascending. Raises ChecksumMismatch, Corrupt."""
        with damage_named(self.path / DATA_FILE), self._env.begin() as txn:
            rows = self.held.dead(txn)
            counters = self._counters_in(txn)
        found = len(rows), sum_of(rows.astype(np.uint64))
        if found != (counters.dead, counters.dead_sum):
            raise ChecksumMismatch(self._damaged_dead)
        return rows

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
        self._env.copyfd(descriptor)
