"""Upserts and deletes of a shard: what is acknowledged is there, once, in every mode."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bitsift.errors import Corrupt, NotFound, StorageFull, WritesStopped
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker import generation
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.operations import Confirm, Delete, Insert, Operation, Resume
from bitsift.shard_worker.store.ids import IdMap
from bitsift.shard_worker.store.packing import content_digest
from bitsift.shard_worker.types import LIVE_POSITION, Query, ShardSettings
from bitsift.write_status import WriteStatus
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
from tests.writing import as_insert, written


def test_an_upsert_takes_the_place_of_what_has_its_id(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    assert written(shard, batch(["a", "b"], ["one", "two"])) == [WriteStatus.CREATED] * 2
    assert written(shard, batch(["b", "c"], ["three", "four"])) == [
        WriteStatus.UPDATED,
        WriteStatus.CREATED,
    ]
    assert contents(shard) == {"a": "one", "b": "three", "c": "four"}
    for mode in (Mode.EXACT, Mode.APPROXIMATE, Mode.EXHAUSTIVE):
        assert best_of(shard, "three", mode).id == "b"
    assert shard.document("b").text == "three"
    assert (shard.status().rows, shard.status().documents) == (4, 3)
    shard.close()


def test_the_same_content_again_changes_nothing_and_says_so(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(["a", "b"], ["one", "two"]))
    assert written(shard, batch(["a", "b"], ["one", "other"])) == [
        WriteStatus.UNCHANGED,
        WriteStatus.UPDATED,
    ]
    assert shard.status().rows == 3
    shard.close()


def test_a_vector_made_by_the_model_is_not_compared_a_given_one_is(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    by_model, given = batch(["a"], ["one"], position=LIVE_POSITION), batch(["a"], ["one"])
    near = batch(["a"], ["one"], position=LIVE_POSITION)
    near.codes[0, 0] += 1  # as the model's rounding in another batch
    assert written(shard, by_model) == [WriteStatus.CREATED]
    assert written(shard, near) == [WriteStatus.UNCHANGED]
    digests = [content_digest("", text, "") for text in ("one", "two")]
    confirm = Confirm(["a", "b"], digests), Confirm(["a"], digests[1:])
    assert written(shard, confirm[0]) == [WriteStatus.UNCHANGED, WriteStatus.MISSING]
    assert written(shard, confirm[1]) == [WriteStatus.REJECTED]
    assert written(shard, given) == [WriteStatus.UNCHANGED]  # the very vector that the model made
    other = batch(["a"], ["one"])
    other.codes[0, 0] += 1
    assert written(shard, other) == [WriteStatus.UPDATED]
    assert written(shard, Confirm(["a"], digests[:1])) == [WriteStatus.REJECTED]
    assert written(shard, by_model) == [WriteStatus.UPDATED]  # back to the model's
    shard.close()


def test_of_one_id_twice_in_a_batch_the_last_counts(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(["a", "b", "a"], ["one", "two", "three"]))
    assert contents(shard) == {"a": "three", "b": "two"}
    written(shard, batch(["a", "a"], ["four", "three"]))
    assert contents(shard) == {"a": "three", "b": "two"}
    shard.close()


def test_deleted_documents_are_gone_and_may_come_back(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(["a", "b"], ["one", "two"]))
    assert written(shard, Delete(["a", "x", "a"])) == [
        WriteStatus.DELETED,
        WriteStatus.MISSING,
        WriteStatus.MISSING,
    ]
    assert written(shard, Delete(["a"])) == [WriteStatus.MISSING]
    assert contents(shard) == {"b": "two"}
    with pytest.raises(NotFound):
        shard.document("a")
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert contents(shard) == {"b": "two"}
    assert written(shard, batch(["a"], ["one"])) == [WriteStatus.CREATED]
    assert contents(shard) == {"a": "one", "b": "two"}
    shard.close()


def test_long_and_strange_ids_round_trip(tmp_path: Path) -> None:
    ids = ["x" * 5_000, "../../etc/passwd", "a\x00b", "é", "e\u0301", "🦊", " "]
    shard = new_shard(tmp_path / "s")
    written(shard, batch(ids, [f"text {place}" for place in range(len(ids))]))
    assert [shard.document(name).text for name in ids] == [f"text {p}" for p in range(len(ids))]
    assert written(shard, Delete(ids)) == [WriteStatus.DELETED] * len(ids)
    assert contents(shard) == {}
    shard.close()


def test_threads_that_write_at_once_share_transactions(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    committed = list[int]()
    plain = shard._current.store.write

    def watched(operations, then, **named):  # type: ignore[no-untyped-def]
        committed.append(len(operations))
        return plain(operations, then, **named)

    shard._current.store.write = watched  # type: ignore[method-assign, assignment]
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(60)
        for place in range(20):
            written(shard, batch([f"{number}-{place}"], [f"text {number} {place}"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        ended(thread)
    assert sum(committed) == 160
    assert len(committed) < 160  # some went together
    assert len(contents(shard)) == 160
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert len(contents(shard)) == 160
    shard.close()


def test_operations_on_one_id_are_done_in_their_order(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    operations: list[Operation] = [batch(["a"], ["one"]), Delete(["a"]), batch(["a"], ["two"])]
    assert shard.write(operations) == [
        [WriteStatus.CREATED],
        [WriteStatus.DELETED],
        [WriteStatus.CREATED],
    ]
    assert contents(shard) == {"a": "two"}
    shard.close()


def test_a_replaced_document_is_found_once_whenever_one_looks(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch([str(i) for i in range(50)], [f"text {i}" for i in range(50)]))
    done, seen = threading.Event(), list[int]()

    def search() -> None:
        while not done.is_set():
            (found,) = shard.search(
                [Query(SearchOptions(vector=vector_of("a"), candidates=100, mode=Mode.EXACT))]
            )
            seen.append(len(found))

    thread = threading.Thread(target=search)
    thread.start()
    for version in range(150):
        name = str(version % 50)
        written(shard, batch([name], [f"text {name} version {version}"]))
    done.set()
    ended(thread)
    assert set(seen) == {50}
    shard.close()


def test_a_document_that_is_replaced_is_there_all_the_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(["a"], ["version 0"]))
    plain = IdMap.add

    def add(self: IdMap, keys: np.ndarray, rows: np.ndarray) -> None:
        time.sleep(0.002)  # the old row is dead, the id of the new one not known yet
        plain(self, keys, rows)

    monkeypatch.setattr(IdMap, "add", add)
    done = threading.Event()

    def replace() -> None:
        for version in range(1, 100):
            written(shard, batch(["a"], [f"version {version}"]))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = {shard.document("a").text for _ in iter(done.is_set, True)}
    ended(writer)
    assert len(seen) > 1
    shard.close()


def test_a_full_map_refuses_upserts_before_they_are_written_and_takes_deletes(
    tmp_path: Path,
) -> None:
    small = ShardSettings(store_bytes_max=3 << 20)
    shard = new_shard(tmp_path / "s", small)
    stored, refusal = 0, None
    while refusal is None:
        names = [str(stored + i) for i in range(500)]
        try:
            written(shard, batch(names, ["a text of some length " * 20] * 500))
            stored += 500
        except StorageFull as error:
            refusal = error.message
    assert "configured 3145728 bytes" in refusal
    assert stored >= 500
    for first in range(0, stored, 10):
        assert set(written(shard, Delete([str(first + i) for i in range(10)]))) == {
            WriteStatus.DELETED
        }
    assert contents(shard) == {}
    shard.close()
    shard = open_shard(tmp_path / "s")  # with the usual limit
    written(shard, batch(["a"], ["one"]))
    assert contents(shard) == {"a": "one"}
    shard.close()


def test_bits_that_cannot_follow_a_commit_stop_writes_until_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(["a"], ["one"]))
    with monkeypatch.context() as patched:

        def fails(*_: object) -> None:
            raise MemoryError

        patched.setattr(BinaryIndex, "apply", fails)
        with pytest.raises(WritesStopped):
            written(shard, batch(["b"], ["two"]))
    with pytest.raises(WritesStopped, match="restart"):
        written(shard, batch(["c"], ["three"]))
    assert best_of(shard, "one").id == "a"
    assert "MemoryError" in (shard.status().writes_stopped or "")
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert contents(shard) == {"a": "one", "b": "two"}  # it was durable, though not acknowledged
    shard.close()


def test_many_ids_in_ram_are_merged_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PENDING_MAX", 50)
    shard = new_shard(tmp_path / "s")
    for first in (0, 30):
        names = [str(first + i) for i in range(30)]
        written(shard, batch(names, names))
        assert shard._current.store.pending_ids == (30 if first == 0 else 0)
    assert shard.document("7").text == "7"
    shard.close()


def test_damage_of_the_bits_and_of_a_code_at_once_is_said_with_every_answer(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    names = [str(i) for i in range(300)]
    written(shard, batch(names, names))
    code = (
        shard.search([Query(SearchOptions(vector=vector_of("7"), mode=Mode.EXACT))])[0]
        .codes[0]
        .tobytes()
    )
    assert np.any(np.frombuffer(code, dtype=np.int8))
    shard.close()
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", code)
    shard = open_shard(tmp_path / "s")  # there is no snapshot: all bits come from the codes
    (found,) = shard.search([Query(SearchOptions(vector=vector_of("unrelated"), mode=Mode.EXACT))])
    assert found.corrupt >= 1
    assert shard.status().corrupt_rows_seen == 1
    shard.close()


def test_an_older_state_in_the_place_of_the_newest_is_refused(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    for name in "abcdefgh":
        written(shard, batch([name], [name]))
    shard.close()
    path = tmp_path / "s" / "store-00000" / "data.mdb"
    data = bytearray(path.read_bytes())
    places = [page * 4_096 + 16 + 24 + 96 + 8 for page in (0, 1)]
    numbers = [struct.unpack_from("<Q", data, at)[0] for at in places]
    older = places[numbers.index(min(numbers))]
    struct.pack_into("<Q", data, older, min(numbers) + 2)  # one bit, for half of all numbers
    path.write_bytes(bytes(data))
    with pytest.raises(Corrupt, match="in the state of transaction"):
        open_shard(tmp_path / "s")


def test_a_load_that_goes_on_does_not_bring_back_what_was_deleted_meanwhile(tmp_path: Path) -> None:
    def loaded() -> Insert:
        return as_insert(batch(["a", "b"], ["one", "two"], position=7))

    shard = new_shard(tmp_path / "s")
    written(shard, loaded())
    written(shard, Delete(["a"]))
    written(shard, batch(["b"], ["live"]))
    resume = Resume(["a", "b", "c"], [7, 7, 7])
    assert written(shard, resume) == ["unchanged", "rejected", "missing"]
    assert written(shard, loaded()) == [WriteStatus.UNCHANGED, WriteStatus.REJECTED]
    assert contents(shard) == {"b": "live"}
    assert written(shard, batch(["a"], ["again"])) == [WriteStatus.CREATED]
    shard.close()
