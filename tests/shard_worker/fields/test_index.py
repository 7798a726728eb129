"""The field index of a shard through all that befalls a shard: what it says stays what the
documents say.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.cluster.maintenance.opened import open_shard as opened
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.errors import DeadlineExceeded, FormatMismatch, StorageFull
from bitsift.filters.matching import matches
from bitsift.filters.tree import Node
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.fields import index as indexes
from bitsift.shard_worker.fields import kept, recent
from bitsift.shard_worker.fields import segment as segments
from bitsift.shard_worker.fields.index import SEAL_ROWS, FieldIndex
from bitsift.shard_worker.fields.segment import FIELDS_SAID_MAX, build
from bitsift.shard_worker.layout import store_folder
from bitsift.shard_worker.maintenance.findings import Remedy
from bitsift.shard_worker.maintenance.repair import repair_shard
from bitsift.shard_worker.maintenance.verify import verify_shard
from bitsift.shard_worker.maintenance.verify_fields import DAMAGED, DIFFERENT
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import fields as stored
from bitsift.shard_worker.store.fields import FieldBlocks
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.packing import pack_meta
from bitsift.shard_worker.types import FieldFacts
from tests.golden.make import golden_index
from tests.shard_worker.fields.labelled import (
    Labelled,
    expected_ids,
    found_by,
    labelled,
    node,
    passing_ids,
    random_documents,
    random_filters,
)
from tests.shard_worker.small_shard import (
    CALIBRATION,
    IDENTITY,
    flip_a_bit_where,
    new_shard,
    open_shard,
    unit_vectors,
)
from tests.writing import written


def anybody() -> None:
    """Nobody's deadline."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of 64 rows at most, sealed when there are 16."""
    monkeypatch.setattr(indexes, "SEGMENT_ROWS_MAX", 64)
    monkeypatch.setattr(indexes, "SEAL_ROWS", 16)
    monkeypatch.setattr("bitsift.shard_worker.housekeeping.SEAL_ROWS", 16)


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    shard = new_shard(tmp_path / "shard")
    yield shard
    shard.close()


def put(shard: Shard, documents: Labelled, seed: int = 0) -> None:
    written(shard, labelled(documents, unit_vectors(len(documents), seed)))


def index_of(shard: Shard) -> FieldIndex:
    return shard._current.fields


def spans(shard: Shard) -> list[tuple[int, int]]:
    return [(it.first, it.count) for it in index_of(shard).segments]


def numbered(first: int, stop: int) -> dict[str, dict[str, int]]:
    return {str(row): {"n": row} for row in range(first, stop)}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_befalls_a_shard_filters_pass_what_the_documents_say(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    shard = new_shard(tmp_path / "shard")
    documents: dict[str, dict[str, object]] = {}
    filters = random_filters(chance, 60)

    def upsert() -> None:
        names = [str(chance.randrange(250)) for _ in range(chance.choice([1, 5, 40]))]
        new = random_documents(chance, sorted(set(names)))
        put(shard, new, chance.randrange(1 << 20))
        documents.update(new)

    def delete() -> None:
        for name in [str(chance.randrange(250)) for _ in range(5)]:
            written(shard, Delete([name]))
            documents.pop(name, None)

    def reopen() -> None:
        nonlocal shard
        shard.close()
        shard = open_shard(tmp_path / "shard")

    def each(name: str) -> Callable[[], object]:
        return lambda: getattr(shard, name)()

    keeping = [each(name) for name in ("maintain", "save_bits", "compact", "train")]
    doing: list[Callable[[], object]] = [*[upsert] * 4, delete, reopen, *keeping]
    for _ in range(60):
        chance.choice(doing)()
        for filter_ in chance.sample(filters, 3):
            assert passing_ids(shard, filter_) == expected_ids(documents, filter_), filter_
    for filter_ in filters:
        assert passing_ids(shard, filter_) == expected_ids(documents, filter_), filter_
    shard.close()


def test_filters_on_fields_that_are_not_chosen_pass_what_the_documents_say(tmp_path: Path) -> None:
    chance, folder = random.Random(9), tmp_path / "shard"
    identity = replace(IDENTITY, index_fields=("a",))
    Shard.create(folder, identity)
    documents = random_documents(chance, [str(n) for n in range(150)])
    with closing(Shard(folder, CALIBRATION, identity)) as shard:
        put(shard, {**documents, "gone": {"a": 1}})
        shard.save_bits()
    for _ in range(2):
        with closing(Shard(folder, CALIBRATION, identity)) as shard:
            written(shard, Delete(["gone"]))
            shard.compact()
            chosen = {name for it in index_of(shard).segments for name in it.columns}
            assert "a" in chosen
            assert all(name in ("$id", "a") or name.startswith("a.") for name in chosen)
            for filter_ in random_filters(chance, 60):
                assert passing_ids(shard, filter_) == expected_ids(documents, filter_), filter_
    assert verify_shard(folder, identity, CALIBRATION, lambda *_: None) == ()
    with pytest.raises(FormatMismatch):
        Shard(folder, CALIBRATION, IDENTITY)


def test_housekeeping_seals_rows_when_there_are_enough(shard: Shard) -> None:
    put(shard, numbered(0, 15))
    shard.maintain()
    assert spans(shard) == []
    put(shard, numbered(15, 16))
    shard.maintain()
    assert spans(shard) == [(0, 16)]


def test_whole_segments_are_sealed_as_rows_come_and_none_is_read_back(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load has no housekeeping beside it."""
    read = list[int]()
    texts = FieldBlocks.texts

    def counted(self: FieldBlocks, rows: Sequence[int]) -> Iterator[tuple[str, str] | None]:
        read.extend(rows)
        return texts(self, rows)

    monkeypatch.setattr(FieldBlocks, "texts", counted)
    for first in range(0, 200, 10):
        put(shard, numbered(first, first + 10))
        assert spans(shard) == [(64 * n, 64) for n in range((first + 10) // 64)]
    shard.save_bits()
    assert read == []
    assert spans(shard) == [(0, 64), (64, 64), (128, 64), (192, 8)]
    assert passing_ids(shard, "n < 70") == sorted(map(str, range(70)))


def test_a_write_leaves_many_rows_without_a_segment_to_housekeeping(shard: Shard) -> None:
    put(shard, numbered(0, 200))
    assert spans(shard) == []
    put(shard, numbered(200, 201))
    assert spans(shard) == []
    shard.maintain()
    assert [count for _, count in spans(shard)] == [64, 64, 64]


def test_a_write_waits_for_nobody_who_seals(shard: Shard) -> None:
    with index_of(shard)._sealing:
        put(shard, numbered(0, 70))
    assert spans(shard) == []
    put(shard, numbered(70, 71))
    assert spans(shard) == [(0, 64)]


def test_a_segment_that_cannot_be_written_fails_no_write(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("no room: injected")

    with monkeypatch.context() as patched:
        patched.setattr(FieldBlocks, "replace", full)
        put(shard, numbered(0, 70))
    assert passing_ids(shard, "n < 2") == ["0", "1"]
    put(shard, numbered(70, 71))
    assert spans(shard) == [], "each write would try once more"
    shard.save_bits()
    assert spans(shard)[0] == (0, 64)


def test_writes_seal_nothing_where_there_is_housekeeping(shard: Shard) -> None:
    shard.maintain()
    put(shard, numbered(0, 70))
    assert spans(shard) == []
    shard.maintain()
    assert spans(shard)[0] == (0, 64)


def test_writes_leave_a_segment_before_the_last_one_to_others(shard: Shard) -> None:
    for first in (0, 64, 128):
        put(shard, numbered(first, first + 64))
    index = index_of(shard)
    index._damaged = frozenset(index.segments[:1])
    put(shard, numbered(192, 256))
    assert spans(shard) == [(0, 64), (64, 64), (128, 64)]
    assert len(index._damaged) == 1


def test_a_snapshot_seals_all_rows(shard: Shard) -> None:
    put(shard, numbered(0, 3))
    shard.save_bits()
    assert spans(shard) == [(0, 3)]


def test_segments_take_in_smaller_ones_and_end_where_two_bytes_do(shard: Shard) -> None:
    seen = []
    for first in range(0, 160, 8):
        put(shard, numbered(first, first + 8))
        shard.save_bits()
        seen.append(spans(shard))
        ends = [first + count for first, count in seen[-1]]
        assert [0, *ends[:-1]] == [it for it, _ in seen[-1]]
        assert ends[-1] == first + 8
    assert seen[0] == [(0, 8)]
    assert seen[7] == [(0, 64)]
    assert seen[-1][:2] == [(0, 64), (64, 64)]
    assert max(map(len, seen)) <= 6


def test_after_a_compaction_most_rows_are_in_segments(shard: Shard) -> None:
    put(shard, numbered(0, 200))
    written(shard, Delete([str(n) for n in range(0, 200, 2)]))
    assert shard.compact()
    assert spans(shard)[0] == (0, 64)
    assert sum(count for _, count in spans(shard)) >= 100 - SEAL_ROWS
    assert passing_ids(shard, "n < 50") == sorted(str(n) for n in range(1, 50, 2))


def test_what_is_known_of_a_filter_is_kept_and_only_later_rows_are_looked_at(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shard, numbered(0, 50))
    looked: list[str] = []

    def watched(tree: Node, name: str, said: Mapping[str, Any]) -> bool:
        looked.append(name)
        return matches(tree, name, said)

    monkeypatch.setattr(indexes, "matches", watched)
    fields, tree = index_of(shard), node("n >= 40")
    first = fields.known(tree, 50, anybody)
    assert len(looked) == 50
    assert fields.known(tree, 50, anybody) is first
    put(shard, numbered(50, 60))
    again = fields.known(tree, 60, anybody)
    assert len(looked) <= 50 + 10 + 7
    bits = np.unpackbits(again.bounds.lower, count=60, bitorder="little")
    assert np.flatnonzero(bits).tolist() == list(range(40, 60))


def test_what_is_kept_of_filters_takes_so_many_bytes_at_most(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FILTERS_BYTES_MAX", 5 * kept._ENTRY_BYTES)
    put(shard, numbered(0, 50))
    fields = index_of(shard)
    known = [fields.known(node(f"n = {n}"), 50, anybody) for n in range(20)]
    assert 0 < fields.kept_bytes <= 5 * kept._ENTRY_BYTES
    assert fields.known(node("n = 19"), 50, anybody) is known[19]
    assert fields.known(node("n = 0"), 50, anybody) is not known[0]


def test_a_long_filter_counts_with_all_its_values(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shard, numbered(0, 50))
    fields = index_of(shard)
    long = [node(f"n in [{', '.join(f'{kind}{n:050}' for n in range(100))}]") for kind in "ab"]
    first = fields.known(long[0], 50, anybody)
    assert fields.kept_bytes > 100 * 100, "each value has a hundred bytes"
    monkeypatch.setattr(kept, "FILTERS_BYTES_MAX", 2 * fields.kept_bytes - 1)
    assert fields.known(long[0], 50, anybody) is first
    put(shard, numbered(50, 60))
    fields.known(long[0], 60, anybody)
    one = fields.kept_bytes
    fields.known(long[1], 60, anybody)
    assert one - 50 < fields.kept_bytes < one + 50, "the first was forgotten"


def test_so_many_texts_of_recent_rows_are_kept_and_the_rest_is_read(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES_MAX", 2_000)
    for first in range(0, 60, 5):
        put(shard, numbered(first, first + 5))
    assert 0 < index_of(shard).recent.size_bytes <= 2_000
    assert passing_ids(shard, "n < 31") == sorted(map(str, range(31)))
    shard.save_bits()
    shard.maintain()
    assert index_of(shard).recent.size_bytes == 0
    assert passing_ids(shard, "n < 31 and n > 1") == sorted(map(str, range(2, 31)))


def test_what_was_read_until_a_deadline_is_not_read_again(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shard, {str(row): {"n": "x" * 200 + str(row)} for row in range(60)})
    shard.save_bits()
    monkeypatch.setattr(indexes, "_CHECKED_ROWS", 10)
    fields, tree, every = index_of(shard), node("n prefix " + "x" * 200), np.arange(60)
    known, left = fields.known(tree, 60, anybody), iter([None] * 4)

    def check() -> None:
        if next(left, 0) == 0:
            raise DeadlineExceeded("over")

    with pytest.raises(DeadlineExceeded):
        fields.settle(known, tree, every, check)
    assert np.bitwise_count(known.bounds.lower).sum() == 40
    assert np.bitwise_count(known.bounds.doubtful).sum() == 20
    fields.settle(known, tree, every[40:], anybody)
    assert known.bounds.is_exact
    assert fields.known(tree, 60, anybody) is known


def test_a_shard_that_takes_no_writes_is_not_due(shard: Shard) -> None:
    put(shard, numbered(0, 40))
    assert index_of(shard).is_due()
    shard._current.store.stop_writes("for this test")
    assert not index_of(shard).is_due()
    shard.maintain()


def test_a_shard_says_which_fields_it_has(shard: Shard) -> None:
    documents: dict[str, dict[str, object]] = {
        str(n): {"n": n, "tag": ["a", "b"][n % 2], "deep": {"x": True}} for n in range(70)
    }
    assert shard.status().fields == {}
    put(shard, documents | {"x": {"n": "2026-01-31", "long": "x" * 200}})
    shard.save_bits()
    said = shard.status().fields
    assert list(said) == ["n", "deep", "deep.x", "tag", "long"]
    assert said["n"] == FieldFacts(71, 64, ["date", "number", "string"], True)
    assert said["tag"] == FieldFacts(70, 2, ["string"], True)
    assert said["deep"] == FieldFacts(70, 0, [], True)
    assert said["long"] == FieldFacts(1, 0, ["string"], True)


def test_a_shard_speaks_of_so_many_fields_at_most(shard: Shard) -> None:
    put(shard, {"a": {f"f{n}": 1 for n in range(FIELDS_SAID_MAX + 5)}, "b": {"often": 1, "f3": 1}})
    shard.save_bits()
    said = shard.status().fields
    assert len(said) == FIELDS_SAID_MAX
    assert next(iter(said)) == "f3"


def test_a_deadline_ends_the_reading_of_documents(shard: Shard) -> None:
    put(shard, numbered(0, 100))
    with pytest.raises(DeadlineExceeded):
        index_of(shard).known(node("n = 1"), 100, Deadline(0.0).check)


def test_a_deadline_ends_the_tests_of_one_document(shard: Shard) -> None:
    """A thousand tests of a field with 240,000 values take five minutes."""
    put(shard, {"a": {"n": list(range(5_000))}})
    tree, looks = node(" or ".join(f"n < {-number}" for number in range(1, 100))), iter(range(50))

    def check() -> None:
        if next(looks, None) is None:
            raise DeadlineExceeded("over")

    with pytest.raises(DeadlineExceeded):
        index_of(shard).known(tree, 1, check)


# --- what is on the disk -------------------------------------------------------------------------


def data_file(shard: Shard) -> Path:
    return store_folder(shard.folder) / DATA_FILE


def damaged(shard: Shard, needle: bytes) -> Shard:
    """The shard with a bit flipped, opened again."""
    path, folder = data_file(shard), shard.folder
    shard.close()
    flip_a_bit_where(path, needle)
    return open_shard(folder)


def block_of(shard: Shard, field: str) -> bytes:
    (segment,) = index_of(shard).segments
    with FieldBlocks(shard._current.store).reading() as block:
        number = 0 if not field else segment.columns[field]
        held = block((segment.first, segment.count), number)
        assert held is not None
        return bytes(held)


@pytest.mark.parametrize("field", ["n", ""])
def test_a_damaged_block_changes_no_answer_and_is_written_again(shard: Shard, field: str) -> None:
    put(shard, numbered(0, 50))
    shard.save_bits()
    again = damaged(shard, block_of(shard, field))
    assert passing_ids(again, "n < 20") == sorted(map(str, range(20)))
    assert again._current.fields.is_due()
    again.maintain()
    assert not again._current.fields.is_due()
    assert spans(again) == [(0, 50)]
    assert block_of(again, field)
    assert passing_ids(again, "n < 21") == sorted(map(str, range(21)))
    again.close()


@pytest.mark.parametrize("field", ["n", ""])
def test_a_check_finds_damage_of_the_field_index_and_a_repair_mends_it(
    shard: Shard, field: str
) -> None:
    put(shard, numbered(0, 100))
    shard.save_bits()
    (segment, *_) = index_of(shard).segments
    with FieldBlocks(shard._current.store).reading() as block:
        held = block((segment.first, segment.count), segment.columns[field] if field else 0)
        assert held is not None
        needle = bytes(held)
    path = data_file(shard)
    shard.close()
    assert verified(shard.folder) == set()
    flip_a_bit_where(path, needle)
    assert verified(shard.folder) == {DAMAGED}
    assert repaired(shard.folder) == ["shard: rebuilt the field index from the documents"]
    assert verified(shard.folder) == set()
    again = open_shard(shard.folder)
    assert spans(again) == [(0, 64), (64, 36)]
    again.close()


def test_a_check_finds_a_field_index_that_says_what_the_documents_do_not(shard: Shard) -> None:
    put(shard, numbered(0, 30))
    put(shard, {"0": {"n": 7}})
    _, blocks = build(0, 31, [(str(row), '{"n":5}') for row in range(31)])
    FieldBlocks(shard._current.store).replace((0, 31), blocks, {}, 31, lambda: None)
    shard.close()
    assert verified(shard.folder) == {DIFFERENT}
    assert repaired(shard.folder) == ["shard: rebuilt the field index from the documents"]
    assert verified(shard.folder) == set()


def verified(folder: Path) -> set[str]:
    found = verify_shard(folder, IDENTITY, CALIBRATION, lambda _, __: None)
    assert all(finding.remedy is Remedy.REPAIR for finding in found)
    return {finding.problem for finding in found}


def repaired(folder: Path) -> list[str]:
    found = verify_shard(folder, IDENTITY, CALIBRATION, lambda _, __: None)
    return repair_shard(folder, IDENTITY, CALIBRATION, found)


def test_a_document_that_is_damaged_passes_nothing_and_the_answer_says_so(shard: Shard) -> None:
    put(shard, {"a": {"n": "needle-in-it"}, "b": {"n": "other"}})
    again = damaged(shard, b"needle-in-it")
    again.save_bits()
    for filter_ in ("n exists", "not n exists", "not n = other"):
        found, ids = found_by(again, unit_vectors(1)[0], filter_)
        assert found.corrupt == 1
        assert ids == (["b"] if filter_ == "n exists" else [])
    again.close()
    opened = open_shard(shard.folder)
    found, ids = found_by(opened, unit_vectors(1)[0], "n exists")
    assert (found.corrupt, ids) == (1, ["b"])
    opened.close()


def test_segments_of_another_generation_are_not_taken(shard: Shard) -> None:
    """As a compaction by an older program leaves it: the entry of meta is copied, the rest not."""
    put(shard, numbered(0, 30))
    shard.save_bits()
    parts = shard._current.store.parts
    with parts.commits.transaction() as txn:
        txn.put(b"fields", pack_meta({"generation": 7, "rows": 30}), db=parts.env.databases["meta"])
        parts.commits.commit(txn, shard._current.store.counters)
    shard.close()
    again = open_shard(shard.folder)
    assert spans(again) == []
    assert passing_ids(again, "n < 5") == ["0", "1", "2", "3", "4"]
    again.save_bits()
    assert spans(again) == [(0, 30)]
    again.close()


def test_segments_of_another_layout_are_not_read_and_written_again(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shard, numbered(0, 30))
    shard.save_bits()
    shard.close()
    monkeypatch.setattr(segments, "LAYOUT", segments.LAYOUT + 1)
    again = open_shard(shard.folder)
    assert spans(again) == []
    assert passing_ids(again, "n < 3") == ["0", "1", "2"]
    again.save_bits()
    assert spans(again) == [(0, 30)]
    again.close()
    assert verified(shard.folder) == set()


def test_rows_that_an_older_program_wrote_behind_it_are_found(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shard, numbered(0, 30))
    shard.save_bits()
    monkeypatch.setattr(FieldIndex, "seal", lambda *_: None)
    put(shard, numbered(30, 40))
    shard.save_bits()
    shard.close()
    monkeypatch.undo()
    again = open_shard(shard.folder)
    assert spans(again) == [(0, 30)]
    assert passing_ids(again, "n > 25") == sorted(map(str, range(26, 40)))
    again.close()


def test_a_store_without_the_database_gets_it_in_its_place(tmp_path: Path) -> None:
    """The golden index, of a program before 2.1."""
    index = Path(shutil.copytree(golden_index(2), tmp_path / "index"))
    manifest = read_manifest(index)
    seen = set[bytes]()
    for turn in range(2):
        with opened(index, manifest, 0) as shard:
            fields, rows = shard._current.fields, shard._current.store.rows
            assert bool(fields.segments) is bool(turn)
            known = fields.known(node("number >= 700"), rows, anybody)
            assert known.bounds.is_exact
            assert np.bitwise_count(known.bounds.lower).sum() > 10
            seen.add(known.bounds.lower.tobytes())
            shard.save_bits()
    assert len(seen) == 1
    assert verify(index).is_sound


def test_a_store_in_format_1_is_searched_without_an_index(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(1), tmp_path / "index"))
    with opened(index, read_manifest(index), 0) as shard:
        shard.save_bits()
        fields, rows = shard._current.fields, shard._current.store.rows
        assert not fields.segments
        assert not fields.is_due()
        known = fields.known(node("number >= 700"), rows, anybody)
        assert np.bitwise_count(known.bounds.lower).sum() > 10
        assert shard.upgrade()
        assert shard._current.fields.segments


def test_a_block_in_the_place_of_another_is_not_taken(shard: Shard) -> None:
    put(shard, {str(row): {"n": row, "m": -row} for row in range(30)})
    shard.save_bits()
    (segment,) = index_of(shard).segments
    store = shard._current.store
    handle = store.parts.env.databases["fields"]
    one, other = (stored._KEY.pack(0, 30, segment.columns[name]) for name in ("n", "m"))
    with store.parts.commits.transaction() as txn:
        txn.put(one, bytes(txn.get(other, b"", db=handle)), db=handle)
        store.parts.commits.commit(txn, store.counters)
    assert passing_ids(shard, "n > 20") == sorted(map(str, range(21, 30)))
    assert index_of(shard).is_due()
