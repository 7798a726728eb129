"""Checking one shard that is not being served: every byte that has a checksum, and all that must
agree with each other.

    codes      each passes its checksum
    documents  each passes its checksum
    versions   each passes its checksum; tombstones too, are as many as the counters say, are all
               found, and of no id that is there
    dead rows  as many as the counters say, and their checksum
    id map     its checksum; every entry leads to a document of that id, every living document is
               found, and none of two rows of one id that live, or hide each other
    fields     each block of the field index passes its checksum, and is what the documents make
    bits       each file passes its checksum, belongs here, and holds the signs of decoded codes
    the rest   checksums of JSON files and of the hints where blocks lie

What a crash may leave is not wrong: bits that are older than the store or of an earlier generation,
ids that are not merged yet. RAM: as for serving, and 10 bytes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import (
    BitsiftError,
    ChecksumMismatch,
    Corrupt,
    NotFound,
    Unavailable,
)
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import (
    SHARD_FILE,
    check_identity,
    read_identity,
    store_folder,
)
from bitsift.shard_worker.maintenance.findings import Example, Finding, Findings, Remedy
from bitsift.shard_worker.maintenance.verify_bits import BitsCheck, check_hints, check_tuning
from bitsift.shard_worker.maintenance.verify_fields import check_fields
from bitsift.shard_worker.maintenance.verify_versions import check_tombstones, check_versions
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.only_store import open_only_store
from bitsift.shard_worker.store.packing import id_keys, unpack_rows
from bitsift.shard_worker.types import Document, ShardIdentity

_CHUNK_ROWS = 1 << 13

OnRows = Callable[[int, int], None]
"""Called with the rows read so far and in total; each is read twice."""


def verify_shard(
    folder: Path, identity: ShardIdentity, calibration: Calibration, on_rows: OnRows
) -> tuple[Finding, ...]:
    """All that is wrong with the shard in ``folder``, which ought to be ``identity``.

    Changes nothing. Raises Unavailable while another process has it open.
    """
    findings = Findings(identity.shard)
    file = f"{folder.name}/{SHARD_FILE}"
    try:
        check_identity(folder, read_identity(folder), identity)
        place = store_folder(folder)
    except (NotFound, Corrupt) as error:
        findings.add(file, error.message, Remedy.RESTORE)
        return findings.found
    data = f"{folder.name}/{place.name}/{DATA_FILE}"
    try:
        with open_only_store(folder, identity) as store:
            _Check(folder, store, identity, calibration, findings, on_rows).run()
    except Unavailable:
        raise
    except (BitsiftError, lmdb.Error, OSError) as error:
        findings.add(data, f"it cannot be read: {error}", Remedy.RESTORE)
    return findings.found


class _Check:
    """One check of one open store."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        identity: ShardIdentity,
        calibration: Calibration,
        findings: Findings,
        on_rows: OnRows,
    ) -> None:
        self._folder = folder
        self._store = store
        self._identity = identity
        self._calibration = calibration
        self._findings = findings
        self._on_rows = on_rows
        self._data = f"{folder.name}/{store.path.name}/{DATA_FILE}"
        self._alive = np.ones(store.rows, dtype=np.bool_)
        self._keys = np.zeros(store.rows, dtype=np.uint64)
        """The key of each row's id, by row, and which of them are known."""
        self._named = np.zeros(store.rows, dtype=np.bool_)
        self._read = 0

    def run(self) -> None:
        self._counters()
        self._dead()
        self._documents()
        self._codes()
        self._ids()
        check_versions(self._store, self._data, self._alive, self._findings)
        check_tombstones(self._store, self._data, self._findings)
        check_fields(self._store, self._data, self._findings)
        check_hints(self._folder, self._store.path, self._findings)
        check_tuning(self._folder, self._findings)

    def _add(self, problem: str, remedy: Remedy = Remedy.RESTORE) -> None:
        self._findings.add(self._data, problem, remedy)

    def _count(self, rows: int) -> None:
        self._read += rows
        self._on_rows(self._read, 2 * self._store.rows)

    def _chunks(self) -> Iterator[range]:
        rows = self._store.rows
        for first in range(0, rows, _CHUNK_ROWS):
            yield range(first, min(first + _CHUNK_ROWS, rows))

    # --- the store -------------------------------------------------------------------------

    def _counters(self) -> None:
        """The numbers of entries are what the counters say."""
        counters, entries = self._store.counters, self._store.entries()
        blocks, waiting = divmod(counters.rows, self._store.reader.block_rows)
        expected = {
            "codes": blocks, "tail": waiting, "documents": counters.rows, "dead": counters.dead,
        }  # fmt: skip
        if self._store.versions is not None:
            expected["versions"] = blocks
        for name, count in expected.items():
            if entries[name] != count:
                self._add(f"{entries[name]} entries in {name!r}, {count} by its counters")
        if counters.merged_rows > counters.rows:
            self._add("the counters say that more ids are merged than there are rows")

    def _dead(self) -> None:
        try:
            dead = self._store.dead()
        except ChecksumMismatch as error:
            self._add(error.message)
            return
        self._alive[dead[dead < self._store.rows]] = False

    def _documents(self) -> None:
        """Checksums of all documents; the keys of their ids."""
        for rows in self._chunks():
            found = self._store.reader.documents(rows)
            sound = [(row, it.id) for row, it in zip(rows, found, strict=True)
                     if isinstance(it, Document)]  # fmt: skip
            kept = np.array([row for row, _ in sound], dtype=np.int64)
            self._keys[kept] = id_keys([name for _, name in sound])
            self._named[kept] = True
            self._count(len(rows))
        self._damaged("document", np.flatnonzero(~self._named))

    def _damaged(self, what: str, rows: NDArray[np.int64]) -> None:
        """The code or the document of ``rows`` does not pass its checksum."""
        for row in rows.tolist():
            (found,) = self._store.reader.documents([row])
            example = Example(row, found.id if isinstance(found, Document) else None)
            if self._alive[row]:
                problem, remedy = f"the {what} of a row is damaged", Remedy.ADD_AGAIN
                remedy = remedy if example.id is not None else Remedy.RESTORE
            else:
                problem, remedy = f"the {what} of a dead row is damaged", Remedy.COMPACT
            self._findings.add(self._data, problem, remedy, [example])

    def _codes(self) -> None:
        """Checksums of all codes, and the bits in the derived files."""
        identity, store = self._identity, self._store
        index = BinaryIndex(identity.width // 8, identity.index_uuid, store.generation)
        bits = BitsCheck(self._folder, store, index, self._calibration, self._findings)
        for rows in self._chunks():
            for first, codes, intact in store.reader.scan_codes(rows.start, rows.stop):
                self._damaged("code", first + np.flatnonzero(~intact))
                bits.compare(first, codes, intact)
            self._count(len(rows))

    # --- ids -------------------------------------------------------------------------------

    def _ids(self) -> None:
        reached = self._entries()
        if not self._store.ids_are_intact():
            self._id_map("the id map does not pass its checksum")
        merged = np.arange(self._store.rows) < self._store.counters.merged_rows
        lost = np.flatnonzero(self._alive & self._named & merged & ~reached)
        self._id_map("a document is not found by its id", lost)
        self._twins()

    def _id_map(self, problem: str, rows: NDArray[np.int64] | None = None) -> None:
        places = [Example()] if rows is None else [Example(row=row) for row in rows.tolist()]
        self._findings.add(self._data, problem, Remedy.REPAIR, places)

    def _entries(self) -> NDArray[np.bool_]:
        """Check where the entries of the id map lead; which rows they lead to."""
        reached = np.zeros(self._store.rows, dtype=np.bool_)
        for entries in self._store.ids.entries():
            pairs = [(key, row) for key, held in entries for row in unpack_rows(held)]
            keys = np.frombuffer(b"".join(key for key, _ in pairs), dtype=">u8")
            rows = np.array([row for _, row in pairs], dtype=np.int64)
            inside = rows < self._store.rows
            self._id_map("an id leads to a row that does not exist", rows[~inside])
            keys, rows = keys[inside], rows[inside]
            wrong = self._named[rows] & (self._keys[rows] != keys)
            self._id_map("an id leads to the document of another id", rows[wrong])
            reached[rows[~wrong]] = True
        return reached

    def _twins(self) -> None:
        """Of several rows of one id none lives but the newest."""
        rows = np.flatnonzero(self._named)
        rows = rows[np.argsort(self._keys[rows], kind="stable")]
        alike = self._keys[rows[1:]] == self._keys[rows[:-1]]
        suspects = np.flatnonzero(alike & self._alive[rows[:-1]])  # a living row, and a newer one
        for place in suspects.tolist():
            row, key = int(rows[place]), self._keys[rows[place]]
            stop = place + 1
            while stop < len(rows) and self._keys[rows[stop]] == key:
                stop += 1
            newer = self._store.reader.documents(rows[place + 1 : stop].tolist())
            (held,) = self._store.reader.documents([row])
            ids = {it.id for it in newer if isinstance(it, Document)}
            if isinstance(held, Document) and held.id in ids:
                example = Example(row, held.id)
                problem = "a row of an id lives beside a newer one"
                self._findings.add(self._data, problem, Remedy.ADD_AGAIN, [example])
