"""A served shard checks its rows some at a time, and says which of the living are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsift.shard_worker.maintenance import own_rows
from bitsift.shard_worker.maintenance.own_rows import DamagedRow, RowCheck, check_rows
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.versions import unpack_block
from tests.damage import flip
from tests.shard_worker.small_shard import batch, new_shard
from tests.writing import written


def test_so_many_rows_are_checked_at_once(tmp_path: Path) -> None:
    shard, most = new_shard(tmp_path / "shard"), own_rows.ROWS_AT_ONCE
    names = [f"d{number}" for number in range(most + 1)]
    written(shard, batch(names, ["x"] * len(names)))
    with shard.reading() as store:
        assert check_rows(store, 0) == RowCheck(0, most, most + 1, ())
        assert check_rows(store, most) == RowCheck(0, most + 1, most + 1, ())
        for beyond in (most + 1, most + 9):
            assert check_rows(store, beyond).next_row == beyond
    shard.close()


@pytest.mark.parametrize("count", [40, 5_000])  # in the tail, and in blocks
def test_a_damaged_code_is_named_unless_its_row_is_dead(tmp_path: Path, count: int) -> None:
    shard = new_shard(tmp_path / "shard")
    names = [f"d{number}" for number in range(count)]
    given = batch(names, [f"text {number}" for number in range(count)])
    written(shard, given)
    with shard.reading() as store:
        for row in (3, 4):
            flip(store.path / DATA_FILE, given.codes[row].tobytes())
        written(shard, Delete(["d4"]))
        (version,) = store.versions_of(["d3"])
        assert version is not None
        (key,) = id_keys(["d3"]).tolist()
        assert check_rows(store, 0).damaged == (DamagedRow(3, key, "d3", version),)
    shard.close()


def test_a_damaged_version_is_damage_too(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    count = 5_000
    written(shard, batch([f"d{n}" for n in range(count)], [f"{n}" for n in range(count)]))
    with shard.reading() as store:
        rows = store.reader.block_rows
        with store.parts.env.begin() as txn:
            packed = txn.get((0).to_bytes(8, "big"), db=store.parts.env.databases["versions"])
        assert isinstance(packed, bytes)
        assert len(unpack_block(packed, 0, rows)) == rows
        flip(store.path / DATA_FILE, packed)
        damaged = check_rows(store, 0).damaged
        assert [(it.row, it.version) for it in damaged] == [(row, 0) for row in range(rows)]
    shard.close()
