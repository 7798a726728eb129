"""A deletion is remembered for its grace time, and never for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bitsift.shard_worker.compaction import Compaction
from bitsift.shard_worker.maintenance.verify import verify_shard
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import admission, deletions, id_map, store, tombstones
from bitsift.shard_worker.store.deletions import pack_deletion
from bitsift.shard_worker.store.packing import ROW, id_keys
from bitsift.shard_worker.store.tombstones import (
    Tally,
    Tombstone,
    pack_tombstones,
    unpack_tombstones,
)
from bitsift.shard_worker.types import ShardSettings
from tests.shard_worker.small_shard import (
    CALIBRATION,
    IDENTITY,
    batch,
    contents,
    flip_a_bit_where,
    new_shard,
    open_shard,
)
from tests.writing import written

GRACE_S = ShardSettings().tombstone_grace_s


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    made = new_shard(tmp_path / "s")
    yield made
    made.close()


def add(shard: Shard, *names: str, text: str = "") -> None:
    written(shard, batch(names, [f"{text} of {name}" for name in names]))


def gone(shard: Shard) -> dict[str, int]:
    """Version by id, of all deletions; there are as many tombstones as the counters say."""
    store = shard._current.store
    assert store.tombstones is not None
    with store.parts.env.begin() as txn:
        stones = [it for _, found in store.tombstones.entries(txn) for it in found or ()]
    sizes = [it.size_bytes for it in stones]
    assert (store.counters.tally.count, store.counters.tally.size_bytes) == (
        len(stones),
        sum(sizes),
    )
    found = {stone.id: stone.version for stone in store.deleted()}
    assert {stone.id for stone in stones} <= found.keys()
    return found


def versions_of(shard: Shard, *ids: str) -> list[int | None]:
    return shard._current.store.versions_of(ids)


@contextmanager
def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    wall = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: wall() + seconds)
        yield


def test_a_tombstone_comes_back_from_its_value() -> None:
    stones = [Tombstone("a", 5, 7), Tombstone("é" * 3_000, (1 << 63) - 1, 0), Tombstone("", 0, 1)]
    assert unpack_tombstones(pack_tombstones(stones, 9), 9) == stones


def test_a_deletion_has_a_version_that_is_newer_than_its_document(shard: Shard) -> None:
    add(shard, "a", "b")
    before = versions_of(shard, "a")
    assert written(shard, Delete(["a", "never"]))
    (after,) = versions_of(shard, "a")
    assert gone(shard) == {"a": after}
    assert (before[0] or 0) < (after or 0)
    assert versions_of(shard, "b", "never") == [before[0], None]


def test_a_document_that_is_made_again_has_no_tombstone(shard: Shard) -> None:
    add(shard, "a", "b", "c")
    written(shard, Delete(["a", "b"]))
    add(shard, "a", "d")
    assert gone(shard).keys() == {"b"}
    written(shard, Delete(["a"]))
    assert gone(shard).keys() == {"a", "b"}


def test_tombstones_survive_compactions_and_restarts_for_their_grace_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b", "c", "d")
    written(shard, Delete(["a"]))
    before = gone(shard)
    for turn in range(3):
        assert shard.compact() == (turn == 0)
        assert gone(shard) == before
        shard.close()
        shard = open_shard(tmp_path / "s")
    with later(monkeypatch, GRACE_S - 60):
        written(shard, Delete(["b"]))
        assert shard.compact()
        assert gone(shard).keys() == {"a", "b"}
        last = gone(shard)["a"]
    with later(monkeypatch, GRACE_S + 60):
        written(shard, Delete(["c"]))
        assert shard.compact()
        assert gone(shard).keys() == {"b", "c"}
        assert versions_of(shard, "a") == [None]
        assert shard._current.store.counters.forgotten_version == last
    assert contents(shard).keys() == {"d"}
    shard.close()


def test_what_is_deleted_and_made_during_a_compaction_is_in_it(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(i) for i in range(50)]
    add(shard, *names)
    written(shard, Delete(names[:10]))
    plain, states = Compaction.finish, list[dict[str, int]]()

    def run(self: Compaction, writing: object) -> None:
        plain_run(self, writing)  # type: ignore[arg-type]
        written(shard, Delete(names[10:20]))
        add(shard, *names[:5])
        add(shard, "15", "new")
        written(shard, Delete(["15", "new"]))
        states.append(gone(shard))

    plain_run = Compaction.run
    monkeypatch.setattr(Compaction, "run", run)
    assert shard.compact()
    assert plain is Compaction.finish
    assert gone(shard) == states[0]
    assert gone(shard).keys() == {*names[5:20], "new"}


def test_there_are_so_many_tombstones_at_most_and_the_oldest_are_forgotten(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "TOMBSTONES_MAX", 40)
    names = [f"n{i}" for i in range(41)]
    add(shard, *names)
    wall = time.time()
    for number, name in enumerate(names[:40]):
        with later(monkeypatch, number - (time.time() - wall)):
            written(shard, Delete([name]))
    forgotten = gone(shard)["n5"]
    assert shard.compact()
    assert len(gone(shard)) == 40
    assert shard._current.store.counters.forgotten_version == 0
    with later(monkeypatch, 100):
        written(shard, Delete(["n40"]))
        assert len(gone(shard)) == 41, "a dead row takes no room of a tombstone"
        assert shard.compact()
    assert gone(shard).keys() == set(names[6:])
    assert shard._current.store.counters.forgotten_version == forgotten


def test_there_are_so_many_bytes_of_tombstones_at_most(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "TOMBSTONE_BYTES_MAX", 20_000)
    names = [f"{i}" + "x" * 5_000 for i in range(8)]
    add(shard, *names)
    for name in names:
        written(shard, Delete([name]))
        assert shard.compact()
        assert shard._current.store.counters.tombstone_bytes <= 20_000
    assert names[-1] in gone(shard)
    assert names[0] not in gone(shard)


def test_ids_that_share_a_hash_have_tombstones_of_their_own(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def colliding(found: list[str]) -> np.ndarray:
        return np.array([len(name) for name in found], dtype=np.uint64)

    for module in (store, id_map, admission, deletions):
        monkeypatch.setattr(module, "id_keys", colliding)
    add(shard, "aa", "bb", "cc", "d")
    written(shard, Delete(["aa", "bb", "d"]))
    assert gone(shard).keys() == {"aa", "bb", "d"}
    add(shard, "ee", "bb", text="new")
    assert gone(shard).keys() == {"aa", "d"}
    assert versions_of(shard, "aa", "d") == [gone(shard)["aa"], gone(shard)["d"]]
    shard.compact()
    assert gone(shard).keys() == {"aa", "d"}


def test_of_two_deletions_of_an_id_the_newer_one_stays(shard: Shard) -> None:
    held, keys = shard._current.store, id_keys(["a"])
    with held.parts.commits.transaction() as txn:
        assert held.tombstones is not None
        tally = held.tombstones.add(txn, [Tombstone("a", 9, 5)], keys, Tally())
        tally = held.tombstones.add(txn, [Tombstone("a", 7, 6)], keys, tally)
        held.parts.commits.commit(txn, held.counters.with_tally(tally))
    assert gone(shard) == {"a": 9}


def test_a_damaged_tombstone_is_reported_and_dropped_by_a_compaction(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a-long-name-to-damage", "b", "c")
    written(shard, Delete(["a-long-name-to-damage", "b"]))
    assert shard.compact()
    (stone,) = [it for it in shard._current.store.deleted() if it.id != "b"]
    (key,) = id_keys([stone.id]).tolist()
    shard.close()
    data = tmp_path / "s" / "store-00001" / "data.mdb"
    flip_a_bit_where(data, pack_tombstones([stone], key)[4:])
    (finding,) = verify_shard(tmp_path / "s", IDENTITY, CALIBRATION, lambda _, __: None)
    assert finding.problem == "a tombstone is damaged"
    shard = open_shard(tmp_path / "s")
    assert versions_of(shard, stone.id) == [None]
    written(shard, Delete(["c"]))
    assert shard.compact()
    assert gone(shard).keys() == {"b", "c"}
    shard.close()
    assert verify_shard(tmp_path / "s", IDENTITY, CALIBRATION, lambda _, __: None) == ()


def test_a_deletion_lies_with_its_dead_row_until_a_compaction(shard: Shard) -> None:
    add(shard, "a", "b", "c")
    written(shard, Delete(["a", "b"]))
    assert shard._current.store.entries()["tombstones"] == 0
    before = gone(shard)
    assert before.keys() == {"a", "b"}
    add(shard, "b")
    assert gone(shard) == {"a": before["a"]}
    assert shard.compact()
    assert shard._current.store.entries()["tombstones"] == 1
    assert gone(shard) == {"a": before["a"]}


def test_a_damaged_deletion_of_a_dead_row_is_reported_and_dropped(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b", "c")
    written(shard, Delete(["a"]))
    (stone,) = shard._current.store.deleted()
    written(shard, Delete(["b"]))
    shard.close()
    mark = pack_deletion((stone.version, stone.deleted_ms), 0)
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", mark)
    (finding,) = verify_shard(tmp_path / "s", IDENTITY, CALIBRATION, lambda _, __: None)
    assert finding.problem == "what is remembered of a deletion is damaged"
    shard = open_shard(tmp_path / "s")
    assert gone(shard).keys() == {"b"}
    assert shard.compact()
    assert gone(shard).keys() == {"b"}
    shard.close()
    assert verify_shard(tmp_path / "s", IDENTITY, CALIBRATION, lambda _, __: None) == ()


def test_a_deletion_whose_id_is_lost_is_forgotten_and_the_counters_say_so(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b", text="some text to damage")
    written(shard, Delete(["a", "b"]))
    (lost,) = [stone.version for stone in shard._current.store.deleted() if stone.id == "a"]
    row = 0
    with shard._current.store.parts.env.begin() as txn:
        packed = txn.get(ROW.pack(row), db=shard._current.store.parts.env.databases["documents"])
    assert isinstance(packed, bytes)
    shard.close()
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", packed)
    shard = open_shard(tmp_path / "s")
    assert shard.compact()
    assert gone(shard).keys() == {"b"}
    assert shard._current.store.counters.forgotten_version == lost
    shard.close()
