"""The database of the field index: blocks of segments, under (first row, rows, number).

The index is derived from the documents. Its blocks carry a CRC32C that is salted with their key and
the generation, and whoever misses one, or finds it damaged, reads the documents. ``meta`` says of
which generation it is and up to which row it goes: an older program that compacts the store leaves
it behind, and one that writes leaves it short. A store that an older program made gets the database
when the first segment is written.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

import google_crc32c
import lmdb
import numpy as np

from bitsift.errors import ChecksumMismatch, Corrupt
from bitsift.shard_worker.format_version import FORMAT_1
from bitsift.shard_worker.store.format import FIELDS, META
from bitsift.shard_worker.store.lmdb_file import DAMAGE
from bitsift.shard_worker.store.packing import CRC, CRC_BYTES, pack_meta
from bitsift.shard_worker.store.store import Store

_KEY = struct.Struct(">QIH")
_READ_AT_ONCE = 1 << 10
_PAGES_BYTES = 2 << 12
_SLACK_BYTES = 256 << 10
Span = tuple[int, int]
"""The first row of a segment, and how many it has."""
Block = Callable[[Span, int], memoryview | None]
"""What a block of a segment holds; None where it is missing or damaged."""


class FieldBlocks:
    """The blocks of one store. Any number of readers; one writer at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._env = store.parts.env
        self._generation = store.generation.to_bytes(8, "little")

    @property
    def is_kept(self) -> bool:
        """Whether there may be any: format 1 has no such database."""
        return self._store.format.major > FORMAT_1.major

    def catalogs(self) -> dict[Span, bytes]:
        """The catalogs of all segments that are sound."""
        found: dict[Span, bytes] = {}
        database = self._env.databases.get(FIELDS.decode())
        if database is None:
            return found
        with self._env.begin(buffers=True) as txn, contextlib.suppress(*DAMAGE, ChecksumMismatch):
            said = txn.get(FIELDS, db=self._env.databases[META])
            if said is None or not self._is_ours(txn):
                return found
            with txn.cursor(db=database) as cursor:
                sought = bytes(_KEY.size)
                while cursor.set_range(sought):
                    key = bytes(cursor.key())
                    first, count, number = _KEY.unpack(key)
                    packed = self._sound(key, cursor.value())
                    if number == 0 and packed is not None:
                        found[first, count] = bytes(packed)
                    sought = _KEY.pack(first, count + 1, 0)
        return found

    def blocks(self) -> list[tuple[Span, int, bool]]:
        """All blocks of this generation, and whether each passes its checksum."""
        found: list[tuple[Span, int, bool]] = []
        database = self._env.databases.get(FIELDS.decode())
        if database is None:
            return found
        with self._env.begin(buffers=True) as txn:
            said = txn.get(FIELDS, db=self._env.databases[META])
            if said is not None and self._is_sound_and_ours(txn):
                with txn.cursor(db=database) as cursor:
                    for key, packed in cursor.iternext():
                        first, count, number = _KEY.unpack(key)
                        sound = self._sound(bytes(key), packed) is not None
                        found.append(((first, count), number, sound))
        return found

    def _is_ours(self, txn: lmdb.Transaction) -> bool:
        """Whether what is there is of this generation."""
        facts = self._store.parts.commits.meta_in(txn, FIELDS)
        return bool(facts.get("generation") == self._store.generation)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Block]:
        """Blocks as they are now; what is got is to be used within."""
        with self._env.begin(buffers=True) as txn:
            yield lambda span, number: self._block(txn, _KEY.pack(*span, number))

    def _block(self, txn: lmdb.Transaction, key: bytes) -> memoryview | None:
        database = self._env.databases.get(FIELDS.decode())
        if database is None:
            return None
        try:
            packed = txn.get(key, db=database)
        except DAMAGE:
            return None
        return None if packed is None else self._sound(key, packed)

    def _sound(self, key: bytes, packed: bytes | memoryview) -> memoryview | None:
        body = memoryview(packed)[CRC_BYTES:]
        sound = len(packed) > CRC_BYTES and CRC.unpack_from(packed)[0] == self._crc(key, body)
        return body if sound else None

    def _crc(self, key: bytes, body: bytes | memoryview) -> int:
        array = np.frombuffer(body, dtype=np.uint8)  # google_crc32c takes no memoryview
        return int(google_crc32c.value(key + self._generation) ^ google_crc32c.value(array))

    def replace(
        self,
        span: Span,
        blocks: Mapping[int, bytes],
        gone: Mapping[Span, Sequence[int]],
        stop: int,
        then: Callable[[], None],
    ) -> None:
        """Put the ``blocks`` of a segment by number, in the place of segments that are ``gone``, in
        one synced transaction; ``then`` brings RAM to it. The index goes up to row ``stop`` then.

        No other write may run. Raises StorageFull, WritesStopped.
        """
        parts, databases = self._store.parts, self._env.databases
        needed = sum(len(body) + _PAGES_BYTES for body in blocks.values()) + _SLACK_BYTES
        with parts.commits.transaction() as txn:
            parts.room.make(self._env.used_bytes, needed)
            handle = databases.get(FIELDS.decode()) or self._env.new_database(txn, FIELDS)
            if txn.get(FIELDS, db=databases[META]) is None or not self._is_sound_and_ours(txn):
                txn.drop(handle, delete=False)
            for old, numbers in gone.items():
                for number in numbers:
                    txn.delete(_KEY.pack(*old, number), db=handle)
            for number, body in blocks.items():
                key = _KEY.pack(*span, number)
                txn.put(key, CRC.pack(self._crc(key, body)) + body, db=handle)
            facts = {"generation": self._store.generation, "rows": stop}
            txn.put(FIELDS, pack_meta(facts), db=databases[META])

            def follow() -> None:
                databases[FIELDS.decode()] = handle
                then()

            parts.commits.commit(txn, self._store.counters, follow)

    def _is_sound_and_ours(self, txn: lmdb.Transaction) -> bool:
        try:
            return self._is_ours(txn)
        except ChecksumMismatch:
            return False

    def clear(self) -> None:
        """Forget all segments, on the disk. No other write may run."""
        parts, handle = self._store.parts, self._env.databases.get(FIELDS.decode())
        if handle is not None:
            with parts.commits.transaction() as txn:
                txn.drop(handle, delete=False)
                txn.delete(FIELDS, db=self._env.databases[META])
                parts.commits.commit(txn, self._store.counters)

    def texts(self, rows: Sequence[int]) -> Iterator[tuple[str, str] | None]:
        """Id and metadata of the documents of ``rows``; None for one that is damaged."""
        reader = self._store.reader
        for start in range(0, len(rows), _READ_AT_ONCE):
            found: list[tuple[str, str] | None] = []
            with self._env.begin() as txn:
                for row in rows[start : start + _READ_AT_ONCE]:
                    try:
                        document_id, _, _, metadata, _ = reader.content(txn, row)
                        found.append((document_id, metadata))
                    except Corrupt:
                        reader.note_damaged([row])
                        found.append(None)
            yield from found
