"""What a store holds as an inventory, and some of it as operations: for replicas that missed writes
(inventory.py says how they are compared).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Corrupt
from bitsift.shard_worker.inventory import Inventory
from bitsift.shard_worker.operations import Delete, Operation
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, damage_named
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.replay import FIRST_VERSION, past_of, upserts
from bitsift.shard_worker.store.store import Store


def inventory_of(store: Store) -> Inventory:
    """All that ``store`` holds; no write may run meanwhile. Reads all ids and versions.

    A damaged document has no entry: a replica that has it sound sends it. Raises Corrupt.
    """
    rows = store.rows
    alive = np.ones(rows, dtype=np.bool_)
    alive[store.dead()] = False
    keys, held = store.ids.keys_and_rows()
    living = alive[held]
    keys, held = keys[living], held[living]
    versions = np.maximum(store.row_versions(0, rows), np.uint64(FIRST_VERSION))[held]
    stones = store.deleted()
    return Inventory.of(
        np.concatenate([keys, id_keys([stone.id for stone in stones])]),
        np.concatenate([versions, np.array([it.version for it in stones], dtype=np.uint64)]),
        np.concatenate([np.zeros(len(keys), np.bool_), np.ones(len(stones), np.bool_)]),
        past_of(store).forgotten_version,
    )


def digest_of(store: Store) -> str:
    """Of all documents and their versions: the same on replicas that hold the same. Not of
    deletions, which each replica forgets in its own time.

    True only if nothing was written meanwhile. Raises Corrupt.
    """
    rows = store.rows
    alive = np.ones(rows, dtype=np.bool_)
    alive[store.dead()] = False
    keys, held = store.ids.keys_and_rows()
    known = held < rows
    keys, held = keys[known], held[known]
    keys, held = keys[alive[held]], held[alive[held]]
    versions = np.maximum(store.row_versions(0, rows), np.uint64(FIRST_VERSION))[held]
    documents = Inventory(keys, versions, np.zeros(len(keys), np.bool_))
    return f"{int(documents.digests(0)[0]):016x}"


def changes_of(store: Store, keys: NDArray[np.uint64]) -> list[Operation]:
    """What makes the documents whose ids have the hashes ``keys`` (n,), and their deletions.

    Damaged documents are left out: they are another replica's to send.
    """
    found, lookup = list[Operation](), store.ids.lookup()
    nothing = np.empty(0, dtype=np.int64)
    for row in _living(store, keys):
        try:
            found += upserts(store, row, row + 1, nothing)
        except Corrupt:
            continue
    if (deletions := store.parts.deletions) is not None:
        with damage_named(store.path / DATA_FILE), store.parts.env.begin() as txn:
            packed = [int(key).to_bytes(8, "big") for key in keys.tolist()]
            stones = [stone for key in packed for stone in deletions.under(txn, lookup, key)]
        found += [Delete([stone.id], stone.version) for stone in stones]
    return found


def _living(store: Store, keys: NDArray[np.uint64]) -> Sequence[int]:
    lookup = store.ids.lookup()
    with damage_named(store.path / DATA_FILE), store.parts.env.begin() as txn:
        rows = [row for key in keys for row in lookup.rows_of(txn, key)]
        return [row for row in rows if not store.reader.is_dead(txn, row)]
