"""Records of deleted ids: their versions, so that an older write cannot bring them back.

A deleted row vanishes with the next compaction, which leaves a tombstone; deletions.py says where a
deletion is remembered until then. Tombstones survive compactions for the grace time of the shard's
settings. Copies of the shard that were away for less learn of every deletion. One that was away for
longer is behind ``Counters.forgotten_version``, and must be compared whole.

Key and value: the hash of an id, and CRC32C + (version, milliseconds since 1970, bytes of the id,
id) of each deleted id of this hash. The id itself is kept: a copy that asks needs it, and a hash of
64 bits can be made to collide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import google_crc32c
import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.packing import CRC, CRC_BYTES, ROW, pack_keys, salt_of

TOMBSTONES_MAX = 1_000_000
"""Of a shard; a compaction copies all in a few seconds."""
TOMBSTONE_BYTES_MAX = 256 << 20
"""Of their keys and values."""
_KEPT_OF_8 = 7
"""When there are too many, the oldest go until seven eighths are left: a walk over all of them is
not to be taken with each deletion."""
_HEAD = struct.Struct("<QQI")


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A deleted id, the version of its deletion, and when this shard learned of it."""

    id: str
    version: int
    deleted_ms: int

    @property
    def size_bytes(self) -> int:
        """What it takes, as ``TOMBSTONE_BYTES_MAX`` counts."""
        return ROW.size + CRC_BYTES + _HEAD.size + len(self.id.encode())


@dataclass(frozen=True, slots=True)
class Tally:
    """How many tombstones there are, their bytes, and the greatest version that was forgotten."""

    count: int = 0
    size_bytes: int = 0
    forgotten: int = 0

    def plus(self, stone: Tombstone) -> Tally:
        return replace(self, count=self.count + 1, size_bytes=self.size_bytes + stone.size_bytes)

    def minus(self, stone: Tombstone) -> Tally:
        return replace(self, count=self.count - 1, size_bytes=self.size_bytes - stone.size_bytes)

    def without(self, stone: Tombstone) -> Tally:
        """``minus`` one that is forgotten, not undone."""
        return replace(self.minus(stone), forgotten=max(self.forgotten, stone.version))

    def fits(self, share: float = 1.0) -> bool:
        """Whether it is within the limits, or a ``share`` of them."""
        return (
            self.count <= TOMBSTONES_MAX * share and self.size_bytes <= TOMBSTONE_BYTES_MAX * share
        )


def pack_tombstones(stones: Sequence[Tombstone], key: int) -> bytes:
    """The value for all tombstones of one hash."""
    body = b"".join(
        _HEAD.pack(stone.version, stone.deleted_ms, len(name)) + name
        for stone in stones
        for name in [stone.id.encode()]
    )
    return CRC.pack(google_crc32c.value(body) ^ salt_of(key)) + body


def unpack_tombstones(packed: bytes, key: int) -> list[Tombstone]:
    """What ``pack_tombstones`` was given. Raises ChecksumMismatch."""
    body, at, found = packed[CRC_BYTES:], 0, []
    if not body or google_crc32c.value(body) ^ salt_of(key) != CRC.unpack_from(packed)[0]:
        raise ChecksumMismatch(f"the tombstone of hash {key:016x} is damaged")
    while at < len(body):
        version, deleted_ms, size = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        found.append(Tombstone(body[at : at + size].decode(), version, deleted_ms))
        at += size
    return found


class Tombstones:
    """The tombstones of one store, in a format that has them. The counters are the caller's."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._changed: set[bytes] | None = None

    def of(self, txn: lmdb.Transaction, document_id: str, key: np.uint64) -> Tombstone | None:
        """The tombstone of an id, whose hash is ``key``; none where it is damaged."""
        found = self.under(txn, ROW.pack(int(key)))
        return next((stone for stone in found if stone.id == document_id), None)

    def under(self, txn: lmdb.Transaction, key: bytes) -> list[Tombstone]:
        """The tombstones of the hash ``key``; none where they are damaged."""
        packed = txn.get(key, db=self._env.databases["tombstones"])
        try:
            return [] if packed is None else unpack_tombstones(bytes(packed), *ROW.unpack(key))
        except ChecksumMismatch:
            return []

    def hold(self, txn: lmdb.Transaction, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ``keys`` (n,) tombstones lie under: bool (n,)."""
        found = np.zeros(len(keys), dtype=np.bool_)
        database = self._env.databases["tombstones"]
        if not txn.stat(database)["entries"]:
            return found
        order = np.argsort(keys)  # neighbours share pages
        packed = pack_keys(keys[order])
        with txn.cursor(db=database) as cursor:
            there = {bytes(key) for key, _ in cursor.getmulti(packed)}
        if there:
            found[order] = [key in there for key in packed]
        return found

    def entries(self, txn: lmdb.Transaction) -> Iterator[tuple[bytes, list[Tombstone] | None]]:
        """All keys and what they hold, by ascending key; None for damaged ones."""
        with txn.cursor(db=self._env.databases["tombstones"]) as cursor:
            for key, packed in cursor.iternext():
                try:
                    yield bytes(key), unpack_tombstones(bytes(packed), *ROW.unpack(key))
                except ChecksumMismatch:
                    yield bytes(key), None

    # --- writing, in a transaction of the store ------------------------------------------------

    def add(self, txn: lmdb.Transaction, stones: Iterable[Tombstone], keys: NDArray[np.uint64],
            tally: Tally) -> Tally:  # fmt: skip
        """Leave ``stones``, whose ids have the hashes ``keys`` (n,); of one id the newest stays."""
        for key, stone in zip(pack_keys(keys), stones, strict=True):
            before = self.under(txn, key)
            others = [other for other in before if other.id != stone.id]
            for old in before:
                if old.id == stone.id:
                    tally = tally.minus(old)
                    stone = max(stone, old, key=lambda it: it.version)
            self._put(txn, key, [*others, stone])
            tally = tally.plus(stone)
        return tally if tally.fits() else self._forget_oldest(txn, tally)

    def remove(
        self, txn: lmdb.Transaction, ids: Sequence[str], keys: NDArray[np.uint64], tally: Tally
    ) -> Tally:
        """The ``ids``, whose hashes are ``keys`` (n,), are there again."""
        for at in np.flatnonzero(self.hold(txn, keys)).tolist():
            tally = self._remove_one(txn, ROW.pack(int(keys[at])), ids[at], tally)
        return tally

    def _remove_one(self, txn: lmdb.Transaction, key: bytes, name: str, tally: Tally) -> Tally:
        before = self.under(txn, key)
        for stone in before:
            if stone.id == name:
                self._put(txn, key, [other for other in before if other.id != name])
                return tally.minus(stone)
        return tally

    def _put(self, txn: lmdb.Transaction, key: bytes, stones: Sequence[Tombstone]) -> None:
        database = self._env.databases["tombstones"]
        if self._changed is not None:
            self._changed.add(key)
        if stones:
            txn.put(key, pack_tombstones(stones, *ROW.unpack(key)), db=database)
        else:
            txn.delete(key, db=database)

    def _forget_oldest(self, txn: lmdb.Transaction, tally: Tally) -> Tally:
        """Drop the oldest until there is room again."""
        all_of = [(stone.deleted_ms, key, stone) for key, found in self.entries(txn)
                  for stone in found or ()]  # fmt: skip
        for _, key, stone in sorted(all_of, key=lambda it: it[0]):
            if tally.fits(_KEPT_OF_8 / 8):
                break
            kept = [other for other in self.under(txn, key) if other != stone]
            self._put(txn, key, kept)
            tally = tally.without(stone)
        return tally

    # --- compaction ----------------------------------------------------------------------------

    def follow(self) -> None:
        """Remember from now on which keys change; the writer's lock is held."""
        self._changed = set()

    def changed(self) -> list[bytes]:
        """The keys that changed since ``follow``, ascending."""
        return sorted(self._changed or ())

    def keys(self, txn: lmdb.Transaction) -> list[bytes]:
        """All keys, ascending."""
        with txn.cursor(db=self._env.databases["tombstones"]) as cursor:
            return [bytes(key) for key in cursor.iternext(keys=True, values=False)]

    def note(self, keys: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        """Deletions of the ids whose hashes are at ``places`` (m,) of ``keys`` (n,) come or go,
        wherever they lie.
        """
        if self._changed is not None:
            self._changed.update(pack_keys(keys[places]))

    def copy(
        self,
        txn: lmdb.Transaction,
        found: Iterable[tuple[bytes, Sequence[Tombstone]]],
        tally: Tally,
        since_ms: int,
    ) -> Tally:
        """Bring this store to what was ``found`` under each key.

        Those that were deleted before ``since_ms`` are forgotten.
        """
        for key, stones in found:
            for stone in self.under(txn, key):
                tally = tally.minus(stone)
            kept = [stone for stone in stones if stone.deleted_ms >= since_ms]
            for stone in stones:
                tally = tally.plus(stone)
                tally = tally if stone in kept else tally.without(stone)
            self._put(txn, key, kept)
        return tally if tally.fits() else self._forget_oldest(txn, tally)
