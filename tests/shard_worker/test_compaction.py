"""Compaction: the same documents in a new generation, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from shard_worker import shard as shard_module
from shard_worker.compaction import Compaction
from shard_worker.errors import StorageFull
from shard_worker.layout import NEXT_FOLDER
from shard_worker.lists import LISTS_FILE
from shard_worker.types import Document, Mode, Query, ShardSettings
from tests.shard_worker.small_shard import (
    batch,
    best_of,
    contents,
    flip_a_bit_where,
    new_shard,
    open_shard,
    vector_of,
)

NAMES = [str(i) for i in range(400)]
LISTS = ShardSettings(exact_budget_ms=0.0, train_rows_min=1_000_000)


def filled(folder: Path, settings: ShardSettings = LISTS):  # type: ignore[no-untyped-def]
    """A shard of 400 documents, of which many were replaced and some deleted; what is there."""
    shard = new_shard(folder, settings)
    shard.append(batch(NAMES, [f"old {name}" for name in NAMES]))
    shard.append(batch(NAMES[:300], [f"new {name}" for name in NAMES[:300]]))
    shard.delete(NAMES[50:100])
    expected = {name: f"new {name}" for name in NAMES[:300]}
    expected |= {name: f"old {name}" for name in NAMES[300:]}
    for name in NAMES[50:100]:
        del expected[name]
    return shard, expected


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
        assert not (tmp_path / "s" / NEXT_FOLDER).exists()
        shard.close()
        shard = open_shard(tmp_path / "s", LISTS)
    shard.append(batch(["0", "new"], ["newest 0", "newest"]))
    assert contents(shard) == expected | {"0": "newest 0", "new": "newest"}
    assert shard.compact()
    assert contents(shard) == expected | {"0": "newest 0", "new": "newest"}
    shard.close()


def test_lists_of_which_nothing_is_alive_are_given_up(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s", LISTS)
    shard.append(batch(NAMES, [f"old {name}" for name in NAMES]))
    shard.train()
    shard.append(batch(NAMES, [f"new {name}" for name in NAMES]))
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
        shard.append(batch(NAMES, [random.bytes(2_000).hex() for _ in NAMES]))
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
        shard.append(batch(["0", "late"], ["late 0", "late text"]))
        shard.delete(["1", "late", "398"])

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
                (found,) = shard.search([Query(vector_of("a"), candidates=100, mode=Mode.EXACT)])
                documents = shard.documents(found.rows.tolist())
                sizes.add(len({d.id for d in documents if isinstance(d, Document)}))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    for version in range(5):
        for name in NAMES[:20]:
            expected[name] = f"version {version} of {name}"
        writer = threading.Thread(
            target=lambda: [shard.append(batch([n], [expected[n]])) for n in NAMES[:20]]
        )
        writer.start()
        shard.compact()
        writer.join()
    done.set()
    thread.join()
    assert failures == []
    assert sizes == {100}
    assert contents(shard) == expected
    shard.close()


def test_documents_of_a_search_are_there_at_the_very_moment_of_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, _ = filled(tmp_path / "s")
    (found,) = shard.search([Query(vector_of("new 7"), mode=Mode.EXACT)])
    references = found.rows.tolist()
    before, seen = shard.documents(references), list[object]()
    plain = Compaction.__exit__

    def leaving(self: Compaction, *error: object) -> None:
        seen.append(shard.documents(references))  # the new generation is there already
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
    (found,) = shard.search([Query(vector_of("new 7"), mode=Mode.EXACT)])
    references = found.rows.tolist()
    before = shard.documents(references)
    shard.compact()
    assert shard.documents(references) == before
    monkeypatch.setattr(shard_module.time, "monotonic", lambda: 1e12)
    shard.maintain()
    assert all("ask again" in str(gone) for gone in shard.documents(references))
    shard.close()


def test_a_compaction_that_finds_no_room_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, expected = filled(tmp_path / "s")

    def full(*_: object) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr("shard_worker.store.Store.put_copied", full)
        with pytest.raises(StorageFull):
            shard.compact()
    assert contents(shard) == expected
    assert not (tmp_path / "s" / NEXT_FOLDER).exists()
    assert not shard.wants_compaction()  # not at once again
    shard.append(batch(["a"], ["one"]))
    assert shard.compact()
    assert contents(shard) == expected | {"a": "one"}
    shard.close()


def test_a_shard_with_many_dead_rows_is_compacted_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "COMPACT_ROWS_MIN", 100)
    shard, expected = filled(tmp_path / "s")
    assert shard.wants_compaction()
    shard.maintain()
    assert shard.status().generation == 1
    assert not shard.wants_compaction()
    assert contents(shard) == expected
    shard.close()


def test_damage_is_not_laundered(tmp_path: Path) -> None:
    shard, _ = filled(tmp_path / "s")
    (found,) = shard.search([Query(vector_of("old 350"), mode=Mode.EXACT)])
    code = found.codes[0].tobytes()
    shard.close()
    flip_a_bit_where(tmp_path / "s" / "store" / "data.mdb", code)
    shard = open_shard(tmp_path / "s")
    shard.compact()
    (found,) = shard.search([Query(vector_of("old 350"), candidates=400, mode=Mode.EXHAUSTIVE)])
    assert (len(found), found.corrupt) == (349, 1)
    shard.close()


def test_ids_that_could_not_be_merged_before_are_there_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, expected = filled(tmp_path / "s")
    shard.train()  # the lists hold more rows than the id map

    def full(*_: object, **__: object) -> None:
        raise StorageFull("no room for ids")

    monkeypatch.setattr("shard_worker.store.Store.merge_ids", full)
    assert shard.compact()
    for _ in range(2):
        assert {name: shard.document(name).text for name in expected} == expected
        shard.close()
        shard = open_shard(tmp_path / "s", LISTS)
    shard.close()
