"""The id map: RAM first, then sorted merges; found all the while, whatever is interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import WritesStopped
from bitsift.shard_worker.operations import Insert, Resume
from bitsift.shard_worker.store import Store, admission, id_map, ids, packing, store
from bitsift.shard_worker.store.ids import IdMap, Pending
from bitsift.shard_worker.types import ShardIdentity
from bitsift.write_status import WriteStatus
from tests.threads import ended
from tests.writing import as_upsert

WIDTH = 32
IDENTITY = ShardIdentity(str(uuid.UUID(int=7)), 0, 1, WIDTH, WIDTH)


def batch(names: list[str], first_position: int = 0) -> Insert:
    blank = [""] * len(names)
    codes = np.zeros((len(names), WIDTH), dtype=np.int8)
    positions = list(range(first_position, first_position + len(names)))
    return Insert(names, blank, blank, blank, positions, codes)


def names(first: int, stop: int) -> list[str]:
    return [f"n{number}" for number in range(first, stop)]


@pytest.fixture(autouse=True)
def small_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "MERGED_AT_ONCE", 10)


def merge(store: Store) -> None:
    store.merge_ids(contextlib.nullcontext())


def stored_keys(store: Store) -> int:
    with store._env.begin() as txn:
        return int(txn.stat(store._databases["ids"])["entries"])


def test_ids_are_found_before_a_merge_after_it_and_after_a_killed_load(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", IDENTITY)
    store.write([batch(names(0, 40))])
    merge(store)
    store.write([batch(names(40, 100), 40)])
    assert stored_keys(store) == 40
    assert (store.rows, store.counters.merged_rows, store.pending_ids) == (100, 40, 60)
    assert [store.find(name) for name in names(0, 100)] == list(range(100))
    store.close()  # as a killed process would leave it: nothing is written by closing
    store = Store(tmp_path / "s", IDENTITY)
    assert [store.find(name) for name in names(0, 100)] == list(range(100))
    resume = Resume(["n7", "n77", "n100"], [7, 77, 100])
    assert store.foresee([resume]) == [["unchanged", "unchanged", "missing"]]
    (again,) = store.write([batch(names(90, 110), 90)]).statuses
    assert again == [WriteStatus.UNCHANGED] * 10 + [WriteStatus.CREATED] * 10
    merge(store)
    assert (store.rows, store.counters.merged_rows, store.pending_ids) == (110, 110, 0)
    assert stored_keys(store) == 110
    assert [store.find(name) for name in names(0, 110)] == list(range(110))
    store.close()


def test_writes_go_on_between_the_parts_of_a_merge(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", IDENTITY)
    store.write([batch(names(0, 35))])
    written = iter(range(35, 1_000))

    @contextlib.contextmanager
    def writing() -> Iterator[None]:
        yield
        at = next(written)
        store.write([batch(names(at, at + 1), at)])

    store.merge_ids(cast(contextlib.AbstractContextManager[None], _Again(writing)))
    assert (store.counters.merged_rows, store.pending_ids) == (35, 5)
    assert [store.find(name) for name in names(0, 40)] == list(range(40))
    assert store.ids_are_intact()
    store.close()
    store = Store(tmp_path / "s", IDENTITY)
    assert [store.find(name) for name in names(0, 40)] == list(range(40))
    store.close()


def test_no_id_is_lost_between_a_writer_and_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, lock, done = Store.create(tmp_path / "s", IDENTITY), threading.Lock(), threading.Event()
    merged, stored = list[int](), list[int]()
    monkeypatch.setattr(ids, "MERGED_AT_ONCE", 1_000)
    plain = IdMap.add

    def add(self: IdMap, keys: Any, rows: Any) -> None:
        time.sleep(0.002)  # committed, and the id not known yet: a merge must not count the row
        plain(self, keys, rows)

    monkeypatch.setattr(IdMap, "add", add)

    def merge_on() -> None:
        while not done.is_set():
            store.merge_ids(lock)
            with lock:  # where a kill here would leave it
                merged.append(store.counters.merged_rows)
                stored.append(stored_keys(store))
            time.sleep(0.004)

    merging = threading.Thread(target=merge_on)
    merging.start()
    for at in range(5_000):
        with lock:
            store.write([batch(names(at, at + 1), at)])
        time.sleep(0.0005)  # the lock is not fair
        if at >= 150 and len(set(merged)) > 3:
            break
    done.set()
    ended(merging)
    assert merged == stored, "rows count as merged whose ids are not in the map"
    assert len(set(merged)) > 2  # several merges, while writes went on
    for _ in range(2):  # now, and after a kill
        assert [store.find(name) for name in names(0, 150)] == list(range(150))
        store.close()
        store = Store(tmp_path / "s", IDENTITY)
    store.close()


class _Again:
    """A context manager that may be entered any number of times."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.make = make

    def __enter__(self) -> None:
        self.entered = self.make()
        self.entered.__enter__()

    def __exit__(self, *error: object) -> None:
        self.entered.__exit__(None, None, None)


def test_a_damaged_id_map_is_noticed_and_made_anew(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", IDENTITY)
    store.write([batch(names(0, 30))])
    merge(store)
    assert store.ids_are_intact()
    with store._env.writing() as txn:
        (key,) = packing.pack_keys(packing.id_keys(["n7"]))
        txn.put(key, packing.pack_rows([8]), db=store._databases["ids"])
        txn.commit()
    assert not store.ids_are_intact()
    assert store.find("n7") is None
    store.rebuild_ids()
    assert store.ids_are_intact()
    assert [store.find(name) for name in names(0, 30)] == list(range(30))
    store.close()


def test_the_newest_version_of_a_document_wins_before_and_after_a_merge(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", IDENTITY)
    for version in range(3):
        versions = as_upsert(
            dataclasses.replace(batch(["a", f"b{version}"]), texts=[f"text {version}"] * 2)
        )
        assert len(store.write([versions]).dead) == (version > 0)
        if version == 1:
            merge(store)
        assert store.find("a") == 2 * version
    merge(store)
    assert store.find("a") == 4
    with store._env.begin() as txn:
        (key,) = packing.pack_keys(packing.id_keys(["a"]))
        assert packing.unpack_rows(bytes(txn.get(key, b"", db=store._databases["ids"]))) == [4]
    store.close()


def test_ids_that_share_a_hash_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def colliding(found: Any) -> np.ndarray:
        return np.array([len(name) for name in found], dtype=np.uint64)

    for module in (store, id_map, admission):
        monkeypatch.setattr(module, "id_keys", colliding)
    opened = Store.create(tmp_path / "s", IDENTITY)
    (outcomes,) = opened.write([batch(["aa", "bb", "aa"])]).statuses
    assert outcomes == [WriteStatus.REJECTED, WriteStatus.CREATED, WriteStatus.CREATED]
    merge(opened)
    opened.write([batch(["cc", "d"], 3)])
    assert [opened.find(name) for name in ("aa", "bb", "cc", "d", "ee")] == [1, 0, 2, 3, None]
    merge(opened)
    assert stored_keys(opened) == 2
    assert [opened.find(name) for name in ("aa", "bb", "cc", "d", "ee")] == [1, 0, 2, 3, None]
    opened.close()


def test_an_interrupted_merge_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s", IDENTITY)
    store.write([batch(names(0, 35))])
    real, calls = packing.pack_keys, list[int]()

    def failing(keys: np.ndarray) -> list[bytes]:
        calls.append(len(keys))
        if len(calls) == 3:
            raise OSError("power is lost")
        return real(keys)

    monkeypatch.setattr("bitsift.shard_worker.store.ids.pack_keys", failing)
    with pytest.raises(WritesStopped, match="power"):
        merge(store)
    assert stored_keys(store) == 20
    store.close()
    store = Store(tmp_path / "s", IDENTITY)
    assert [store.find(name) for name in names(0, 35)] == list(range(35))
    merge(store)
    with store._env.begin() as txn, txn.cursor(db=store._databases["ids"]) as cursor:
        values = [bytes(value) for value in cursor.iternext(keys=False)]
    assert all(len(packing.unpack_rows(value)) == 1 for value in values)
    assert {len(value) for value in values} == {4}
    assert stored_keys(store) == 35
    store.close()


def test_a_reader_that_began_before_a_merge_misses_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", IDENTITY)
    store.write([batch(names(0, 20))])
    lookup, (key,) = store.ids.lookup(), packing.id_keys(["n7"])
    with store._env.begin() as before:
        merge(store)
        assert store.reader.row_of(before, lookup, "n7", key) == 7
    with store._env.begin() as after:
        assert store.reader.row_of(after, lookup, "n7", key) == 7
    store.close()


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
