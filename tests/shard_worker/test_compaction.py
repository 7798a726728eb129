"""Compaction: the same documents in a new generation, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from bitsift.errors import StorageFull
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker import housekeeping
from bitsift.shard_worker.bits.lists import LISTS_FILE
from bitsift.shard_worker.compaction import Compaction
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.types import Document, Query, ShardSettings
from tests.shard_worker.small_shard import (
    batch,
    best_of,
    contents,
    flip_a_bit_where,
    new_shard,
    open_shard,
    vector_of,
)
from tests.threads import ended
from tests.writing import written

NAMES = [str(i) for i in range(400)]
LISTS = ShardSettings(exact_budget_ms=0.0, train_rows_min=1_000_000)


def filled(folder: Path, settings: ShardSettings = LISTS):  # type: ignore[no-untyped-def]
    """A shard of 400 documents, of which many were replaced and some deleted; what is there."""
    shard = new_shard(folder, settings)
    written(shard, batch(NAMES, [f"old {name}" for name in NAMES]))
    written(shard, batch(NAMES[:300], [f"new {name}" for name in NAMES[:300]]))
    written(shard, Delete(NAMES[50:100]))
    expected = {name: f"new {name}" for name in NAMES[:300]}
    expected |= {name: f"old {name}" for name in NAMES[300:]}
    for name in NAMES[50:100]:
        del expected[name]
    return shard, expected


def stores(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("store*"))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("saved", [False, True])
def test_the_same_documents_are_there_and_the_dead_are_gone(
    tmp_path: Path, trained: bool, saved: bool
) -> None:
    shard, expected = filled(tmp_path / "s")
    if trained:
        shard.train()
    if saved:
        shard.save_bits()
    assert shard.compact()
    for _ in range(2):  # and after a restart
        status = shard.status()
        assert (status.rows, status.documents, status.generation) == (350, 350, 1)
        assert status.clustered_rows == (350 if trained else 0)
        assert contents(shard) == expected
        for name in ("0", "299", "399"):
            assert shard.document(name).text == expected[name]
            for mode in (Mode.EXACT, Mode.APPROXIMATE):
                assert best_of(shard, expected[name], mode).id == name
        assert not shard.compact()
        shard.close()
        assert stores(tmp_path / "s") == ["store-00001"]
        shard = open_shard(tmp_path / "s", LISTS)
    written(shard, batch(["0", "new"], ["newest 0", "newest"]))
    assert contents(shard) == expected | {"0": "newest 0", "new": "newest"}
    assert shard.compact()
    assert contents(shard) == expected | {"0": "newest 0", "new": "newest"}
    shard.close()


def test_lists_that_a_killed_compaction_did_not_move_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, expected = filled(tmp_path / "s")
    shard.train()
    with monkeypatch.context() as patched:
        patched.setattr(Compaction, "settle", lambda _: None)  # as a kill just before it
        assert shard.compact()
    shard.close()
    assert (tmp_path / "s" / "store-00001" / LISTS_FILE).exists()
    shard = open_shard(tmp_path / "s", LISTS)
    assert shard.status().clustered_rows == 350
    assert contents(shard) == expected
    assert best_of(shard, expected["7"], Mode.APPROXIMATE).id == "7"
    assert not (tmp_path / "s" / "store-00001" / LISTS_FILE).exists()
    shard.close()


def test_lists_of_which_nothing_is_alive_are_given_up(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s", LISTS)
    written(shard, batch(NAMES, [f"old {name}" for name in NAMES]))
    shard.train()
    written(shard, batch(NAMES, [f"new {name}" for name in NAMES]))
    assert shard.compact()
    for _ in range(2):
        assert (shard.status().lists, shard.status().documents) == (0, 400)
        assert best_of(shard, "new 7", Mode.APPROXIMATE).id == "7"
        assert not (tmp_path / "s" / LISTS_FILE).exists()
        shard.close()
        shard = open_shard(tmp_path / "s", LISTS)
    shard.train()
    assert best_of(shard, "new 7", Mode.APPROXIMATE).id == "7"
    shard.close()


def test_the_disk_comes_back(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    random = np.random.default_rng(0)
    for _ in range(8):
        written(shard, batch(NAMES, [random.bytes(2_000).hex() for _ in NAMES]))
    before = shard.status().disk_bytes
    shard.compact()
    assert shard.status().disk_bytes < before / 2
    shard.close()


def test_what_is_written_during_a_compaction_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, expected = filled(tmp_path / "s")
    plain = Compaction.finish

    def late(self: Compaction):  # type: ignore[no-untyped-def]
        assert shard._writes.lock.locked()
        return plain(self)

    def run(self: Compaction, writing: contextlib.AbstractContextManager[object]) -> None:
        plain_run(self, writing)
        written(shard, batch(["0", "late"], ["late 0", "late text"]))
        written(shard, Delete(["1", "late", "398"]))

    plain_run = Compaction.run
    monkeypatch.setattr(Compaction, "finish", late)
    monkeypatch.setattr(Compaction, "run", run)
    shard.compact()
    expected["0"] = "late 0"
    del expected["1"], expected["398"]
    assert contents(shard) == expected
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert contents(shard) == expected
    assert shard.document("0").text == "late 0"
    shard.close()


def test_searches_and_writes_go_on_during_compactions(tmp_path: Path) -> None:
    shard, expected = filled(tmp_path / "s")
    done, failures, sizes = threading.Event(), list[Exception](), set[int]()

    def search() -> None:
        try:
            while not done.is_set():
                (found,) = shard.search(
                    [Query(SearchOptions(vector=vector_of("a"), candidates=100, mode=Mode.EXACT))]
                )
                documents = shard.documents(found.origin, found.rows.tolist())
                sizes.add(len({d.id for d in documents if isinstance(d, Document)}))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    for version in range(5):
        for name in NAMES[:20]:
            expected[name] = f"version {version} of {name}"
        writer = threading.Thread(
            target=lambda: [written(shard, batch([n], [expected[n]])) for n in NAMES[:20]]
        )
        writer.start()
        shard.compact()
        ended(writer)
    done.set()
    ended(thread)
    assert failures == []
    assert sizes == {100}
    assert contents(shard) == expected
    shard.close()


def test_documents_of_a_search_are_there_at_the_very_moment_of_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, _ = filled(tmp_path / "s")
    (found,) = shard.search([Query(SearchOptions(vector=vector_of("new 7"), mode=Mode.EXACT))])
    references = found.origin, found.rows.tolist()
    before, seen = shard.documents(*references), list[object]()
    plain = Compaction.__exit__

    def leaving(self: Compaction, *error: object) -> None:
        seen.append(shard.documents(*references))  # the new generation is there already
        plain(self, *error)  # type: ignore[arg-type]

    monkeypatch.setattr(Compaction, "__exit__", leaving)
    shard.compact()
    assert seen == [before]
    shard.close()


def test_the_bits_of_the_generation_before_are_given_back_at_once(tmp_path: Path) -> None:
    shard, _ = filled(tmp_path / "s")
    before = weakref.ref(shard._current.index)
    gc.disable()
    try:
        shard.compact()
        assert before() is None
    finally:
        gc.enable()
    shard.close()


def test_the_generation_before_answers_for_a_while_and_is_then_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, _ = filled(tmp_path / "s")
    (found,) = shard.search([Query(SearchOptions(vector=vector_of("new 7"), mode=Mode.EXACT))])
    references = found.origin, found.rows.tolist()
    before = shard.documents(*references)
    shard.compact()
    assert shard.documents(*references) == before
    assert stores(tmp_path / "s") == ["store-00000", "store-00001"]
    monkeypatch.setattr("bitsift.shard_worker.generations.time.monotonic", lambda: 1e12)
    shard.maintain()
    assert all("search again" in str(gone) for gone in shard.documents(*references))
    assert stores(tmp_path / "s") == ["store-00001"]
    shard.close()


def test_a_compaction_that_finds_no_room_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, expected = filled(tmp_path / "s")

    def full(*_: object) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr("bitsift.shard_worker.store.successor.Successor.put_rows", full)
        with pytest.raises(StorageFull):
            shard.compact()
    assert contents(shard) == expected
    assert stores(tmp_path / "s") == ["store-00000"]
    assert not shard.wants_compaction()  # not at once again
    written(shard, batch(["a"], ["one"]))
    assert shard.compact()
    assert contents(shard) == expected | {"a": "one"}
    shard.close()


def test_a_shard_with_many_dead_rows_is_compacted_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "COMPACT_ROWS_MIN", 100)
    shard, expected = filled(tmp_path / "s")
    assert shard.wants_compaction()
    shard.maintain()
    assert shard.status().generation == 1
    assert not shard.wants_compaction()
    assert contents(shard) == expected
    shard.close()


def test_damage_is_not_laundered(tmp_path: Path) -> None:
    shard, _ = filled(tmp_path / "s")
    (found,) = shard.search([Query(SearchOptions(vector=vector_of("old 350"), mode=Mode.EXACT))])
    code = found.codes[0].tobytes()
    shard.close()
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", code)
    shard = open_shard(tmp_path / "s")
    shard.compact()
    (found,) = shard.search(
        [Query(SearchOptions(vector=vector_of("old 350"), candidates=400, mode=Mode.EXHAUSTIVE))]
    )
    assert (len(found), found.corrupt) == (349, 1)
    shard.close()


def test_ids_that_could_not_be_merged_before_are_there_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, expected = filled(tmp_path / "s")
    shard.train()  # the lists hold more rows than the id map

    def full(*_: object, **__: object) -> None:
        raise StorageFull("no room for ids")

    monkeypatch.setattr("bitsift.shard_worker.store.Store.merge_ids", full)
    assert shard.compact()
    for _ in range(2):
        assert {name: shard.document(name).text for name in expected} == expected
        shard.close()
        shard = open_shard(tmp_path / "s", LISTS)
    shard.close()
