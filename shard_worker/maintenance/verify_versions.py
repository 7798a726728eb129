"""Checking the versions of rows and the tombstones of one store. Format 1 has neither."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.maintenance.findings import Example, Findings, Remedy
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.tombstones import Tally

_CHUNK_ROWS = 1 << 16


def check_versions(store: Store, file: str, alive: NDArray[np.bool_], findings: Findings) -> None:
    """Each version passes its checksum; ``alive`` bool (rows,) says whose matters."""
    if store.versions is None:
        return
    for first in range(0, store.rows, _CHUNK_ROWS):
        stop = min(first + _CHUNK_ROWS, store.rows)
        _, intact = store.versions.scan(first, stop)
        damaged = first + np.flatnonzero(~intact & alive[first:stop])
        findings.rows(file, "the version of a row is damaged", Remedy.ADD_AGAIN, damaged.tolist())


def check_tombstones(store: Store, file: str, findings: Findings) -> None:
    """Each tombstone passes its checksum, is found, is counted, and its id is not there; so does
    what lies with dead rows.
    """
    if store.tombstones is None or (deletions := store.parts.deletions) is None:
        return
    if not store.parts.leads_to_all_keys("tombstones"):
        findings.add(file, "a tombstone is not found by its id", Remedy.COMPACT)
    tally = Tally(forgotten=store.counters.forgotten_version)
    with store.parts.env.begin() as txn:
        held = [found for _, found in store.tombstones.entries(txn)]
        damaged = [row for row, sound in deletions.marks(txn) if not sound]
    problem = "what is remembered of a deletion is damaged"
    findings.rows(file, problem, Remedy.COMPACT, damaged)
    for stones in held:
        if stones is None:
            findings.add(file, "a tombstone is damaged", Remedy.COMPACT)
            continue
        for stone, row in zip(stones, store.find_all([it.id for it in stones]), strict=True):
            tally = tally.plus(stone)
            if row is not None:
                places = [Example(row, stone.id)]
                findings.add(
                    file, "a document that is there has a tombstone", Remedy.RESTORE, places
                )
    if tally != store.counters.tally and all(stones is not None for stones in held):
        problem = f"{tally.count} tombstones, {store.counters.tombstones} by its counters"
        findings.add(file, problem, Remedy.COMPACT)
