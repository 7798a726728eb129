"""What a store holds, as operations that make the same documents elsewhere, without the model.

Each operation has the version that its documents have here. So it does not matter in which order
they are done, whether some come twice, and what was written there in between: the newest stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch, FormatMismatch
from bitsift.shard_worker.clock import FIRST_VERSION, NO_VERSION
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.store.counters import Past
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, damage_named
from bitsift.shard_worker.store.store import Store

DELETED_AT_ONCE = 1 << 13


def past_of(store: Store) -> Past:
    """What a store that is made of ``store`` takes over.

    Raises FormatMismatch where a newer minor version has said something of it that this program
    would lose.
    """
    unknown = [key.decode(errors="replace") for key, _ in store.parts.unknown_meta()]
    if unknown := sorted({*unknown, *store.counters.others}):
        raise FormatMismatch(
            f"{store.path} says {', '.join(unknown)}, which this program does not know and would "
            "lose; install a bitsift that does"
        )
    lost = NO_VERSION
    if store.parts.deletions is not None:
        with damage_named(store.path / DATA_FILE), store.parts.env.begin() as txn:
            _, lost = store.parts.deletions.since(txn, NO_VERSION)
    counters = store.counters
    return Past(counters.newest_version, max(counters.forgotten_version, lost))


def upserts(
    store: Store, first: int, stop: int, dead: NDArray[np.int64], since: int = NO_VERSION
) -> list[Upsert]:
    """The documents of rows ``first`` … ``stop`` but for the ``dead`` ones, int64 (n,) ascending,
    and for those of a version before ``since``: an Upsert for each version.

    Raises ChecksumMismatch or Corrupt for the first that is damaged.
    """
    alive = np.ones(stop - first, dtype=np.bool_)
    alive[dead[(dead >= first) & (dead < stop)] - first] = False
    offsets = np.flatnonzero(alive)
    if not len(offsets):
        return []
    with damage_named(store.path / DATA_FILE):
        versions = _versions(store, first, stop, offsets)
        offsets, versions = offsets[versions >= since], versions[versions >= since]
        if not len(offsets):
            return []
        codes = _codes(store, first, stop, offsets)
        with store.parts.env.begin() as txn:
            contents = [store.reader.content(txn, row) for row in (first + offsets).tolist()]
    found = []
    for version in np.unique(versions).tolist():
        places = np.flatnonzero(versions == version)
        columns = zip(*(contents[place] for place in places.tolist()), strict=True)
        ids, titles, texts, metadata, positions = map(list, columns)
        upsert = Upsert(ids, titles, texts, metadata, positions, codes[places], version=version)
        found.append(upsert)
    return found


def _codes(store: Store, first: int, stop: int, offsets: NDArray[np.int64]) -> NDArray[np.int8]:
    scanned = list(store.reader.scan_codes(first, stop))
    intact = np.concatenate([intact for _, _, intact in scanned])[offsets]
    _check(store, "code", first + offsets, intact)
    return np.concatenate([codes for _, codes, _ in scanned])[offsets]


def _versions(
    store: Store, first: int, stop: int, offsets: NDArray[np.int64]
) -> NDArray[np.uint64]:
    if store.versions is None:
        return np.full(len(offsets), FIRST_VERSION, dtype=np.uint64)
    versions, intact = store.versions.scan(first, stop)
    _check(store, "version", first + offsets, intact[offsets])
    return np.maximum(versions[offsets], np.uint64(FIRST_VERSION))


def _check(store: Store, what: str, rows: NDArray[np.int64], intact: NDArray[np.bool_]) -> None:
    if not intact.all():
        raise ChecksumMismatch(
            f"{store.path}: the {what} of row {rows[~intact][0]} is damaged; see bitsift verify"
        )


def deletes(store: Store, since: int = NO_VERSION) -> Iterator[Sequence[Delete]]:
    """The deletions that are remembered, of version ``since`` or a newer one: some at a time, a
    Delete for each version.

    Those of documents that were made again are among them. Raises ChecksumMismatch, Corrupt.
    """
    if store.parts.deletions is None:
        return
    with damage_named(store.path / DATA_FILE), store.parts.env.begin() as txn:
        stones, _ = store.parts.deletions.since(txn, since)
    stones.sort(key=lambda stone: stone.version)
    for start in range(0, len(stones), DELETED_AT_ONCE):
        ids = dict[int, list[str]]()
        for stone in stones[start : start + DELETED_AT_ONCE]:
            ids.setdefault(stone.version, []).append(stone.id)
        yield [Delete(names, version) for version, names in ids.items()]


def living_versions(store: Store, rows: Sequence[int]) -> list[int]:
    """Of living ``rows``; none (0) where the store keeps none. Those of a block are read once."""
    if store.versions is None:
        return [NO_VERSION] * len(rows)
    found, size = dict[int, int](), store.reader.block_rows
    for _, some in itertools.groupby(sorted(set(rows)), lambda row: row // size):
        mine = list(some)
        versions = store.row_versions(mine[0], mine[-1] + 1)
        found |= {row: max(FIRST_VERSION, int(versions[row - mine[0]])) for row in mine}
    return [found[row] for row in rows]
