"""What a store holds as an inventory, and some of it as operations: for replicas that missed writes
(inventory.py says how they are compared).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Corrupt
from bitsift.shard_worker.clock import FIRST_VERSION
from bitsift.shard_worker.inventory import Inventory
from bitsift.shard_worker.operations import Delete, Operation, Upsert
from bitsift.shard_worker.store.ids import Lookup
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, damage_named
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.replay import past_of, upserts
from bitsift.shard_worker.store.store import Store

CHANGES_BYTES = 8 << 20
"""Of documents that another replica is sent at once, about."""
_GAP_ROWS, _SPAN_ROWS = 64, 32
"""What is passed over instead of being read apart, and how many documents are read at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Living:
    """The documents among the first ``rows`` rows of a store of ``generation``: keys uint64 (n,),
    ascending, versions uint64 (n,), and in which row each stands, int64 (n,).
    """

    generation: int
    rows: int
    keys: NDArray[np.uint64]
    versions: NDArray[np.uint64]
    places: NDArray[np.int64]


def inventory_of(
    store: Store, still: AbstractContextManager[Any], before: Living | None = None
) -> tuple[Inventory, Living]:
    """All that ``store`` holds: reads all ids and versions, or those since ``before``. Writes go
    on, and wait only while ``still`` is entered, for a moment.

    What is written meanwhile may be there twice, in the old state and in the new one, and is never
    absent. A damaged document has no entry: a replica that has it sound sends it. Raises Corrupt.
    """
    dead, stones, forgotten = store.dead(), store.deleted(), past_of(store).forgotten_version
    with still:
        rows, lookup = store.rows, store.ids.lookup()
    living = _living_rows(store, dead, rows, lookup, before)
    inventory = Inventory.of(
        np.concatenate([living.keys, id_keys([stone.id for stone in stones])]),
        np.concatenate([living.versions, np.array([it.version for it in stones], np.uint64)]),
        np.concatenate([np.zeros(len(living.keys), np.bool_), np.ones(len(stones), np.bool_)]),
        forgotten,
    )
    return inventory, living


def _living_rows(
    store: Store,
    dead: NDArray[np.int64],
    rows: int,
    lookup: Lookup,
    before: Living | None = None,
) -> Living:
    """The first ``rows`` rows but for ``dead``, with the hash of the id and the version of each."""
    if before is None or not _goes_on(before, store, rows):
        keys, places = store.ids.keys_and_rows(lookup)
        read, versions = 0, np.empty(0, np.uint64)
    else:
        fresh = lookup.waiting(before.rows)
        keys = np.concatenate([before.keys, fresh.keys])
        places = np.concatenate([before.places, fresh.rows])
        read, versions = before.rows, before.versions
    later = np.maximum(store.row_versions(read, rows), np.uint64(FIRST_VERSION))
    alive = np.ones(rows, dtype=np.bool_)
    alive[dead[dead < rows]] = False
    is_there = places < rows
    added = places[len(versions) :][is_there[len(versions) :]]
    versions = np.concatenate([versions, later[added - read]])
    keys, places = keys[is_there], places[is_there]
    living = np.flatnonzero(alive[places])
    living = living[np.argsort(keys[living], kind="stable")]
    return Living(store.generation, rows, keys[living], versions[living], places[living])


def _goes_on(before: Living, store: Store, rows: int) -> bool:
    """Whether ``before`` is of the same rows, and all later ones wait in RAM."""
    is_same = before.generation == store.generation and before.rows <= rows
    return is_same and store.counters.merged_rows <= before.rows


def digest_of(store: Store) -> str:
    """Of all documents and their versions: the same on replicas that hold the same. Not of
    deletions, which each replica forgets in its own time.

    True only if nothing was written meanwhile. Raises Corrupt.
    """
    living = _living_rows(store, store.dead(), store.rows, store.ids.lookup())
    documents = Inventory(living.keys, living.versions, np.zeros(len(living.keys), np.bool_))
    return f"{int(documents.digests(0)[0]):016x}"


def changes_of(store: Store, keys: NDArray[np.uint64]) -> list[Operation]:
    """What makes the documents whose ids have the hashes ``keys`` (n,), and their deletions: of the
    first of them, about ``CHANGES_BYTES``. Writes may go on.

    Damaged documents are left out: they are another replica's to send.
    """
    found, size_bytes = list[Operation](), 0
    lookup = store.ids.lookup()
    for rows in _spans(_living(store, keys)):
        some = _sound_upserts(store, rows)
        found += some
        size_bytes += sum(one.size_bytes for one in some)
        if size_bytes >= CHANGES_BYTES:
            return found
    if (deletions := store.parts.deletions) is not None:
        with damage_named(store.path / DATA_FILE), store.parts.env.begin() as txn:
            packed = [int(key).to_bytes(8, "big") for key in keys.tolist()]
            stones = [stone for key in packed for stone in deletions.under(txn, lookup, key)]
        found += [Delete([stone.id], stone.version) for stone in stones]
    return found


def _living(store: Store, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Their rows, ascending."""
    lookup = store.ids.lookup()
    with damage_named(store.path / DATA_FILE), store.parts.env.begin() as txn:
        rows = [row for key in keys for row in lookup.rows_of(txn, key)]
        living = [row for row in rows if not store.reader.is_dead(txn, row)]
    return np.unique(np.array(living, dtype=np.int64))


def _spans(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """``rows`` (n,), ascending, some at a time: those that are read at once, with what lies between
    them. What was missed lies together, for rows are in the order in which they were written.
    """
    for some in np.split(rows, np.flatnonzero(np.diff(rows) > _GAP_ROWS) + 1):
        for start in range(0, len(some), _SPAN_ROWS):
            yield some[start : start + _SPAN_ROWS]


def _sound_upserts(store: Store, rows: NDArray[np.int64]) -> list[Upsert]:
    """Of ``rows`` (n,), ascending, without those that are damaged."""
    first, stop = int(rows[0]), int(rows[-1]) + 1
    others = np.setdiff1d(np.arange(first, stop), rows, assume_unique=True)
    try:
        return upserts(store, first, stop, others)
    except Corrupt:
        if len(rows) == 1:
            return []
    return [upsert for row in rows for upsert in _sound_upserts(store, row[None])]
