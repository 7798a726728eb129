"""What is remembered of deleted ids, wherever it lies: with their dead row, or as a tombstone.

While the last row of a deleted id is still there, its deletion is the value of that row in "dead",
which a delete has to put anyway: a tombstone lies under a hash, so that each would rewrite a page
of its own (100 deletes wrote 81 pages more, and took 1.36 times as long). A document that is made
again has a later row, so nothing is to be taken back. A compaction, which drops dead rows, makes
tombstones of them, all together and in the order of their keys.

The value: version, milliseconds since 1970, and the salted CRC32C of both. It is empty where a row
was replaced, and in format 1.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import google_crc32c
import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch, Corrupt
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.ids import Lookup
from bitsift.shard_worker.store.packing import CRC, CRC_BYTES, ROW, id_keys, pack_keys, salt_of
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.store.tombstones import Tally, Tombstone, Tombstones

_MARK = struct.Struct("<QQ")
Stamp = tuple[int, int]
"""The version of a deletion, and when it was, in milliseconds since 1970."""


def _none() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """The places of an operation's ids, int64 (n,) each, whose deletion comes or goes: ``gone`` are
    to be remembered as deleted though no row dies, ``revived`` are stored though no living row had
    them. ``changed`` are all that are deleted or revived and may have had a row before.
    """

    gone: NDArray[np.int64] = field(default_factory=_none)
    revived: NDArray[np.int64] = field(default_factory=_none)
    changed: NDArray[np.int64] = field(default_factory=_none)


def pack_deletion(stamp: Stamp, row: int) -> bytes:
    """The value of a ``row`` in "dead" whose document was deleted, not replaced."""
    body = _MARK.pack(*stamp)
    return body + CRC.pack(google_crc32c.value(body) ^ salt_of(row))


def unpack_deletion(mark: bytes, row: int) -> Stamp | None:
    """What ``pack_deletion`` was given, None for an empty value. Raises ChecksumMismatch."""
    if not mark:
        return None
    body, crc = mark[:-CRC_BYTES], mark[-CRC_BYTES:]
    if len(body) != _MARK.size or google_crc32c.value(body) ^ salt_of(row) != CRC.unpack(crc)[0]:
        raise ChecksumMismatch(f"the deletion of row {row} is damaged")
    version, deleted_ms = _MARK.unpack(body)
    return version, deleted_ms


class Deletions:
    """The deletions of one store, in a format that remembers them. Any number of threads."""

    def __init__(self, env: Environment, reader: RowReader, tombstones: Tombstones) -> None:
        self._env = env
        self._reader = reader
        self._tombstones = tombstones

    def have_tombstones(self, txn: lmdb.Transaction, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ``keys`` (n,) tombstones lie under: bool (n,). Costs nothing where none is."""
        return self._tombstones.hold(txn, keys)

    def of(
        self, txn: lmdb.Transaction, document_id: str, key: np.uint64, row: int | None
    ) -> Tombstone | None:
        """The last deletion of an id that no living row has; ``row`` is its last one, if any.

        None where none is remembered, or what is remembered is damaged.
        """
        stone = self._tombstones.of(txn, document_id, key)
        marked = None if row is None else self._of_row(txn, row, document_id)
        return max((it for it in (stone, marked) if it), key=lambda it: it.version, default=None)

    def _of_row(self, txn: lmdb.Transaction, row: int, document_id: str) -> Tombstone | None:
        try:
            mark = txn.get(ROW.pack(row), b"", db=self._env.databases["dead"])
            found = unpack_deletion(bytes(mark), row)
        except ChecksumMismatch:
            return None
        return None if found is None else Tombstone(document_id, *found)

    def marks(self, txn: lmdb.Transaction) -> Iterator[tuple[int, bool]]:
        """The rows of deletions that lie with them, ascending, and whether each is sound."""
        with txn.cursor(db=self._env.databases["dead"]) as cursor:
            for key, mark in cursor.iternext():
                (row,) = ROW.unpack(key)
                try:
                    if unpack_deletion(bytes(mark), row) is not None:
                        yield row, True
                except ChecksumMismatch:
                    yield row, False

    def since(self, txn: lmdb.Transaction, version: int) -> tuple[list[Tombstone], int]:
        """All deletions of ``version`` or a newer one, those of documents that were made again
        among them; and the greatest version of one whose id cannot be read any more (0: none).

        Raises ChecksumMismatch where it cannot be told what was deleted when.
        """
        found, lost = list[Tombstone](), NO_VERSION
        with txn.cursor(db=self._env.databases["dead"]) as cursor:
            for key, mark in cursor.iternext():
                (row,) = ROW.unpack(key)
                stamp = unpack_deletion(bytes(mark), row)
                if stamp is None or stamp[0] < version:
                    continue
                try:
                    found.append(Tombstone(self._reader.content(txn, row)[0], *stamp))
                except Corrupt:
                    lost = max(lost, stamp[0])
        for key, stones in self._tombstones.entries(txn):
            if stones is None:
                raise ChecksumMismatch(f"the tombstone of hash {key.hex()} is damaged")
            found += [stone for stone in stones if stone.version >= version]
        return found, lost

    def keys(self, txn: lmdb.Transaction) -> tuple[list[bytes], int]:
        """The keys of all ids of which a deletion is remembered, ascending, and the greatest
        version of one whose id cannot be read any more (0: none).

        Others are among them: of documents that were made again.
        """
        names, lost = list[str](), NO_VERSION
        for row, _ in self.marks(txn):
            try:
                names.append(self._reader.content(txn, row)[0])
            except Corrupt:
                stone = self._of_row(txn, row, "")
                lost = max(lost, NO_VERSION if stone is None else stone.version)
        return sorted({*self._tombstones.keys(txn), *pack_keys(id_keys(names))}), lost

    def under(self, txn: lmdb.Transaction, lookup: Lookup, key: bytes) -> list[Tombstone]:
        """The last deletion of each id of the hash ``key`` that no living row has.

        A row whose document is damaged may be the last one of any of them: what was before it is
        left out.
        """
        number, last = np.uint64(ROW.unpack(key)[0]), dict[str, int | None]()
        with contextlib.suppress(Corrupt):
            for row in lookup.rows_of(txn, number):
                last.setdefault(self._reader.content(txn, row)[0], row)
        for stone in self._tombstones.under(txn, key):
            last.setdefault(stone.id, None)
        found = (
            self.of(txn, name, number, row)
            for name, row in last.items()
            if row is None or self._reader.is_dead(txn, row)
        )
        return [stone for stone in found if stone is not None]

    # --- writing, in a transaction of the store ------------------------------------------------

    def put(
        self,
        txn: lmdb.Transaction,
        ids: Sequence[str],
        keys: NDArray[np.uint64],
        touched: Touched,
        stamp: Stamp,
        tally: Tally,
    ) -> Tally:
        """What becomes of the tombstones of ``ids``, whose hashes are ``keys`` (n,); ``tally`` as
        it is then. What lies with a dead row is put with that.
        """
        self._tombstones.note(keys, touched.changed)
        if len(touched.gone):
            stones = [Tombstone(ids[at], *stamp) for at in touched.gone.tolist()]
            tally = self._tombstones.add(txn, stones, keys[touched.gone], tally)
        if tally.count and len(touched.revived):
            revived = [ids[at] for at in touched.revived.tolist()]
            tally = self._tombstones.remove(txn, revived, keys[touched.revived], tally)
        return tally
