"""The id map: RAM first, then sorted merges; found all the while, whatever is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker import ids, packing, store
from shard_worker.ids import Pending
from shard_worker.store import Store
from shard_worker.types import Documents, Outcome

WIDTH = 8


def batch(names: list[str], first_position: int = 0) -> Documents:
    blank = [""] * len(names)
    codes = np.zeros((len(names), WIDTH), dtype=np.int8)
    positions = list(range(first_position, first_position + len(names)))
    return Documents(names, blank, blank, blank, positions, codes)


def names(first: int, stop: int) -> list[str]:
    return [f"n{number}" for number in range(first, stop)]


@pytest.fixture(autouse=True)
def small_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "MERGED_AT_ONCE", 10)
    monkeypatch.setattr(ids, "PENDING_MAX", 1_000)


def counters(held: Store) -> dict[str, int]:
    with held._env.begin() as txn:
        return dict(orjson.loads(txn.get(b"counters", b"", db=held._meta)))


def stored_keys(held: Store) -> int:
    with held._env.begin() as txn:
        return int(txn.stat(held._ids)["entries"])


def test_ids_are_found_before_a_merge_after_it_and_after_a_killed_load(tmp_path: Path) -> None:
    held = Store(tmp_path / "s", WIDTH)
    held.append(batch(names(0, 40)), replace=False)
    held.merge_ids()
    held.append(batch(names(40, 100), 40), replace=False)
    assert stored_keys(held) == 40
    assert counters(held) == {"rows": 100, "dead": 0, "ids": 40}
    assert [held.find(name) for name in names(0, 100)] == list(range(100))
    held.close()  # as a killed process would leave it: nothing is written by closing
    held = Store(tmp_path / "s", WIDTH)
    assert [held.find(name) for name in names(0, 100)] == list(range(100))
    assert held.positions_of(["n7", "n77", "n100"]) == [7, 77, None]
    again, _, _ = held.append(batch(names(90, 110), 90), replace=False)
    assert again == [Outcome.SAME] * 10 + [Outcome.STORED] * 10
    held.merge_ids()
    assert counters(held) == {"rows": 110, "dead": 0}  # what every program of version 1 reads
    assert stored_keys(held) == 110
    assert [held.find(name) for name in names(0, 110)] == list(range(110))
    held.close()


def test_many_pending_ids_are_merged_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "PENDING_MAX", 50)
    held = Store(tmp_path / "s", WIDTH)
    held.append(batch(names(0, 30)), replace=False)
    assert stored_keys(held) == 0
    held.append(batch(names(30, 60), 30), replace=False)
    assert stored_keys(held) == 60
    held.close()


def test_the_newest_version_of_a_document_wins_before_and_after_a_merge(tmp_path: Path) -> None:
    held = Store(tmp_path / "s", WIDTH)
    for version in range(3):
        _, _, dead = held.append(batch(["a", f"b{version}"]), replace=True)
        assert len(dead) == (version > 0)
        if version == 1:
            held.merge_ids()
        assert held.find("a") == 2 * version
    held.merge_ids()
    assert held.find("a") == 4
    with held._env.begin() as txn:
        (key,) = packing.pack_keys(packing.id_keys(["a"]))
        assert packing.unpack_rows(bytes(txn.get(key, b"", db=held._ids))) == [4]
    held.close()


def test_ids_that_share_a_hash_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def colliding(found: Any) -> np.ndarray:
        return np.array([len(name) for name in found], dtype=np.uint64)

    monkeypatch.setattr(store, "id_keys", colliding)
    held = Store(tmp_path / "s", WIDTH)
    outcomes, _, _ = held.append(batch(["aa", "bb", "aa"]), replace=False)
    assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE]
    held.merge_ids()
    held.append(batch(["cc", "d"], 3), replace=False)
    assert [held.find(name) for name in ("aa", "bb", "cc", "d", "ee")] == [0, 1, 2, 3, None]
    held.merge_ids()
    assert stored_keys(held) == 2
    assert [held.find(name) for name in ("aa", "bb", "cc", "d", "ee")] == [0, 1, 2, 3, None]
    held.close()


def test_an_interrupted_merge_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Store(tmp_path / "s", WIDTH)
    held.append(batch(names(0, 35)), replace=False)
    real, calls = packing.pack_keys, list[int]()

    def failing(keys: np.ndarray) -> list[bytes]:
        calls.append(len(keys))
        if len(calls) == 3:
            raise OSError("power is lost")
        return real(keys)

    monkeypatch.setattr("shard_worker.ids.pack_keys", failing)
    with pytest.raises(OSError, match="power"):
        held.merge_ids()
    assert stored_keys(held) == 20
    held.close()
    held = Store(tmp_path / "s", WIDTH)
    assert [held.find(name) for name in names(0, 35)] == list(range(35))
    held.merge_ids()
    with held._env.begin() as txn, txn.cursor(db=held._ids) as cursor:
        values = [bytes(value) for value in cursor.iternext(keys=False)]
    assert all(len(packing.unpack_rows(value)) == 1 for value in values)
    assert {len(value) for value in values} == {4}
    assert stored_keys(held) == 35
    held.close()


def test_a_reader_that_began_before_a_merge_misses_nothing(tmp_path: Path) -> None:
    held = Store(tmp_path / "s", WIDTH)
    held.append(batch(names(0, 20)), replace=False)
    pending = held._pending
    with held._env.begin() as before:
        held.merge_ids()
        assert held._row_of(before, pending, "n7") == 7
    with held._env.begin() as after:
        assert held._row_of(after, pending, "n7") == 7
    held.close()


@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12))
def test_pending_ids_answer_as_a_dictionary_does(batches: list[list[int]]) -> None:
    pending, expected, row = Pending(), dict[int, list[int]](), 0
    for keys in batches:
        rows = np.arange(row, row + len(keys), dtype=np.int64)
        pending = pending.plus(np.array(keys, dtype=np.uint64), rows)
        for key in keys:
            expected.setdefault(key, []).append(row)
            row += 1
    every = np.arange(45, dtype=np.uint64)
    assert pending.holds(every).tolist() == [int(key) in expected for key in every]
    assert [sorted(pending.rows_of(key)) for key in every] == [
        expected.get(int(key), []) for key in every
    ]
    assert len(pending) == len(pending.merged()) == row
    assert all(
        2 * len(after) <= len(before)
        for before, after in zip(pending.runs, pending.runs[1:], strict=False)
    )


@pytest.mark.parametrize("rows", [[0], [(1 << 32) - 1], [1 << 32], [1, 2], [5, 6, 1 << 40]])
def test_row_numbers_in_a_value_come_back(rows: list[int]) -> None:
    assert packing.unpack_rows(packing.pack_rows(rows)) == rows
    assert packing.unpack_rows(b"".join(map(packing.ROW.pack, rows))) == rows  # the longer form
