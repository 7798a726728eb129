"""What a replica holds, in few bytes: so that two replicas find out where they differ.

An inventory has an entry for each document, and for each deletion that is remembered: the hash of
its id, its version, and which of the two it is. Two replicas with the same entries hold the same
documents, whatever their rows are. They compare digests of ranges of hashes first, then the entries
of those ranges that differ, and send the documents that the other lacks
(router/shards/convergence.py): little is sent where little differs.

Deletions are forgotten after a time (store/tombstones.py), by each replica when it compacts. So
those that one of them may have forgotten are left out of the comparison by all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEY_BITS = 64
RANGE_BITS_MAX = 16
KEYS_MAX = 1_000
"""Documents that are read at once for another replica: writes wait for it."""
_ENTRIES_PER_RANGE = 16
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, slots=True, eq=False)
class Inventory:
    """``keys`` uint64 (n,), ascending, are the hashes of ids (``id_keys``), ``versions`` uint64
    (n,), ``deleted`` bool (n,). ``forgotten`` is the greatest version of a deletion that is no
    longer remembered; 0: none.
    """

    keys: NDArray[np.uint64]
    versions: NDArray[np.uint64]
    deleted: NDArray[np.bool_]
    forgotten: int = 0

    @classmethod
    def of(
        cls,
        keys: NDArray[np.uint64],
        versions: NDArray[np.uint64],
        deleted: NDArray[np.bool_],
        forgotten: int = 0,
    ) -> Inventory:
        """Of entries in any order."""
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], versions[order], deleted[order], forgotten)

    def __len__(self) -> int:
        return len(self.keys)

    def since(self, version: int) -> Inventory:
        """Without the deletions up to ``version``."""
        return self._where(~self.deleted | (self.versions > np.uint64(version)))

    def without(self, keys: NDArray[np.uint64]) -> Inventory:
        """Without the documents under ``keys``."""
        return self._where(self.deleted | ~np.isin(self.keys, keys))

    def within(self, bits: int, ranges: NDArray[np.int64]) -> Inventory:
        """The entries of some of the 2 ** ``bits`` ranges; ``ranges`` int64 (n,), ascending."""
        every = _ranges(self.keys, bits)  # ascending, as the keys are
        starts, stops = (np.searchsorted(every, ranges, side) for side in ("left", "right"))
        counts = stops - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._where(np.repeat(starts, counts) + within)

    def _where(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Inventory:
        return Inventory(self.keys[kept], self.versions[kept], self.deleted[kept], self.forgotten)

    def digests(self, bits: int) -> NDArray[np.uint64]:
        """uint64 (2 ** bits,): the digest of each range of hashes, by their first bits."""
        assert 0 <= bits <= RANGE_BITS_MAX, bits
        found = np.zeros(1 << bits, dtype=np.uint64)
        np.add.at(found, _ranges(self.keys, bits), self._digests())
        return found

    def _digests(self) -> NDArray[np.uint64]:
        """uint64 (n,): of each entry; their sum is that of a range."""
        with np.errstate(over="ignore"):
            mixed = (self.keys + _MIX[0]) * _MIX[0] + self.versions * _MIX[1] + self.deleted
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[1]
            return np.asarray(mixed ^ (mixed >> np.uint64(31)))

    def entries(self) -> set[tuple[int, int, bool]]:
        """(key, version, whether deleted) of each."""
        columns = self.keys.tolist(), self.versions.tolist(), self.deleted.tolist()
        return set(zip(*columns, strict=True))


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What a replica says of itself: the newest version that it knows, the newest of a deletion
    that it no longer remembers, and how many entries its inventory has.
    """

    newest_version: int
    forgotten_version: int
    entries: int


@dataclass(frozen=True, slots=True)
class Entries:
    """A part of an inventory, as bytes: uint64, uint64, bool, one of each for an entry."""

    keys: bytes
    versions: bytes
    deleted: bytes

    @classmethod
    def of(cls, inventory: Inventory) -> Entries:
        return cls(
            inventory.keys.tobytes(), inventory.versions.tobytes(), inventory.deleted.tobytes()
        )

    def inventory(self) -> Inventory:
        return Inventory(
            np.frombuffer(self.keys, np.uint64),
            np.frombuffer(self.versions, np.uint64),
            np.frombuffer(self.deleted, np.bool_),
        )


def facts_of(inventory: Inventory, newest_version: int) -> ReplicaFacts:
    """What a replica with this inventory says of itself."""
    return ReplicaFacts(newest_version, inventory.forgotten, len(inventory))


def range_bits(entries: int) -> int:
    """Into how many ranges, as a power of two, ``entries`` are best cut."""
    return min(RANGE_BITS_MAX, max(0, (entries // _ENTRIES_PER_RANGE).bit_length()))


def _ranges(keys: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    if not bits:
        return np.zeros(len(keys), dtype=np.int64)
    return (keys >> np.uint64(KEY_BITS - bits)).astype(np.int64)
