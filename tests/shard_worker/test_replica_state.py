"""The inventory that a replica keeps is that of what is there, and little is read for it again."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from unittest import mock

import numpy as np

from bitsift.shard_worker.operations import Delete, Operation
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.store.id_map import StoredIds
from bitsift.shard_worker.store.store import Store
from tests.shard_worker.small_shard import batch, new_shard
from tests.writing import written

VERSION = 1_700_000_000_000 << 16


def versioned(name: str, text: str, version: int) -> Operation:
    return dataclasses.replace(batch([name], [text]), version=VERSION + version)


def entries(state: ReplicaState) -> list[tuple[int, int, bool]]:
    found = state.inventory()
    assert np.all(np.diff(found.keys) >= 0)
    return sorted(found.entries())


def test_what_is_kept_goes_on_with_what_was_written_since(tmp_path: Path) -> None:
    """Whatever befell the store in between: its ids were merged into their database, or it was
    compacted.
    """
    shard, random = new_shard(tmp_path), np.random.default_rng(1)
    kept = ReplicaState(shard)
    for number in range(1, 120):
        name = f"d{random.integers(15)}"
        gone = Delete([name], VERSION + number)
        written(shard, gone if random.random() < 0.3 else versioned(name, "x", number))
        if number % 31 == 0:
            with shard.still() as store:
                store.ids.gather()
                store.ids.merge(store.rows, contextlib.nullcontext())
        if number % 47 == 0:
            shard.compact()
        if random.random() < 0.5:
            assert entries(kept) == entries(ReplicaState(shard))
    shard.close()


def test_only_what_was_written_since_is_read_again(tmp_path: Path) -> None:
    shard = new_shard(tmp_path)
    for number in range(1, 30):
        written(shard, versioned(f"d{number}", "x", number))
    kept = ReplicaState(shard)
    kept.inventory()
    written(shard, versioned("d7", "y", 40))
    written(shard, Delete(["d8"], VERSION + 41))
    asked: list[tuple[int, int]] = []
    scan = Store.row_versions

    def noting(self: Store, first: int, stop: int) -> object:
        asked.append((first, stop))
        return scan(self, first, stop)

    with (
        mock.patch.object(Store, "row_versions", noting),
        mock.patch.object(StoredIds, "keys_and_rows", side_effect=AssertionError),
    ):
        assert len(kept.inventory()) == 29
    assert asked == [(29, 30)]
    assert entries(kept) == entries(ReplicaState(shard))
    shard.close()


def test_what_nobody_asks_for_is_not_kept(tmp_path: Path) -> None:
    shard = new_shard(tmp_path)
    state = ReplicaState(shard)

    def is_kept() -> bool:
        return state._kept is not None

    written(shard, versioned("a", "x", 1))
    state.inventory()
    state.tidy()
    assert is_kept()
    with mock.patch("time.monotonic", return_value=1e12):
        state.tidy()
    assert not is_kept()
    shard.close()
