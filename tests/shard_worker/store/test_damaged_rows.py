"""Damage counts while its row lives, in the generation that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitsift.errors import Corrupt
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.operations import Confirm, Delete, Insert, Resume
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import row_reader
from bitsift.shard_worker.store.packing import content_digest
from bitsift.shard_worker.types import LIVE_POSITION, Query
from bitsift.write_status import WriteStatus
from tests.shard_worker.small_shard import (
    CALIBRATION,
    batch,
    best_of,
    flip_a_bit_where,
    new_shard,
    open_shard,
    vector_of,
)
from tests.writing import as_insert, written

NAMES = [str(i) for i in range(300)]


def damaged(folder: Path) -> Shard:
    """A shard whose document "7" has a damaged code, and no bits: there is no snapshot."""
    shard = new_shard(folder)
    written(shard, batch(NAMES, NAMES))
    shard.close()
    flip_a_bit_where(
        folder / "store-00000" / "data.mdb", CALIBRATION.quantize(vector_of("7")[None])[0].tobytes()
    )
    return open_shard(folder)


def corrupt_in(shard: Shard) -> set[int]:
    """What answers in all modes say of damage."""
    (vector,) = [vector_of("unrelated")]
    return {
        shard.search([Query(SearchOptions(vector=vector, mode=mode))])[0].corrupt for mode in Mode
    }


def replace(shard: Shard) -> None:
    """The remedy that docs and ``bitsift verify`` give: add the document again."""
    assert written(shard, batch(["7"], ["7"])) == [WriteStatus.UPDATED]


def test_a_damaged_document_that_was_added_again_makes_answers_complete(tmp_path: Path) -> None:
    shard = damaged(tmp_path / "s")
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({1}, 1)
    replace(shard)
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({0}, 0)
    assert best_of(shard, "7").id == "7"
    shard.close()
    shard = open_shard(tmp_path / "s")  # the bits are rebuilt: the dead row's cannot be
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({0}, 0)
    assert shard.compact()
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({0}, 0)
    shard.close()


def test_a_damaged_document_is_not_confirmed(tmp_path: Path) -> None:
    """An upsert of what it said would change nothing, and leave it damaged."""
    shard = new_shard(tmp_path / "s")
    written(shard, batch(NAMES, NAMES, position=LIVE_POSITION))
    shard.close()
    code = CALIBRATION.quantize(vector_of("7")[None])[0].tobytes()
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", code)
    shard = open_shard(tmp_path / "s")
    confirm = Confirm(["6", "7"], [content_digest("", name, "") for name in ("6", "7")])
    assert shard.foresee([confirm]) == [["unchanged", "rejected"]]
    assert written(shard, confirm) == ["unchanged", "rejected"]
    assert written(shard, batch(["7"], ["7"], position=LIVE_POSITION)) == ["updated"]
    assert written(shard, confirm) == ["unchanged", "unchanged"]
    shard.close()


def test_damage_moves_with_its_row_into_a_compacted_generation(tmp_path: Path) -> None:
    shard = damaged(tmp_path / "s")
    written(shard, Delete(["0", "1", "200"]))  # other rows before it: its number changes
    assert shard.compact()
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({1}, 1)
    replace(shard)
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({0}, 0)
    written(shard, Delete(["7"]))
    assert shard.compact()
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({0}, 0)
    shard.close()


def test_damage_seen_before_a_compaction_does_not_count_for_other_rows_after_it(
    tmp_path: Path,
) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(NAMES, NAMES))
    shard.save_bits()
    shard.close()
    code = CALIBRATION.quantize(vector_of("7")[None])[0].tobytes()
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", code)
    shard = open_shard(tmp_path / "s")
    (found,) = shard.search([Query(SearchOptions(vector=vector_of("7"), mode=Mode.EXACT))])
    assert (found.corrupt, shard.status().corrupt_rows_seen) == (1, 1)
    written(shard, Delete(["7"]))
    assert shard.status().corrupt_rows_seen == 0
    assert shard.compact()
    assert shard.status().corrupt_rows_seen == 0
    assert corrupt_in(shard) == {0}
    shard.close()


def test_lost_bits_are_never_sealed_in_a_snapshot_or_in_lists(tmp_path: Path) -> None:
    shard = damaged(tmp_path / "s")
    shard.save_bits()
    with pytest.raises(Corrupt, match="1 rows have damaged codes"):
        shard.train()
    written(shard, Delete(["0"]))
    shard.compact()
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert (corrupt_in(shard), shard.status().corrupt_rows_seen) == ({1}, 1)
    replace(shard)
    shard.save_bits()
    shard.train()
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert corrupt_in(shard) == {0}
    assert best_of(shard, "7", Mode.APPROXIMATE).id == "7"
    shard.close()


def test_a_killed_load_goes_on_past_a_damaged_document(tmp_path: Path) -> None:
    def loaded() -> Insert:
        texts = [f"a text of some length, number {i}" for i in range(3)]
        together = batch(["a", "b", "c"], texts)
        return as_insert(together, positions=[0, 1, 2])

    shard = new_shard(tmp_path / "s")
    written(shard, loaded())
    shard.save_bits()  # its id is in the id map
    shard.close()
    data = tmp_path / "s" / "store-00000" / "data.mdb"
    flip_a_bit_where(data, b"number 1")
    shard = open_shard(tmp_path / "s")
    with pytest.raises(Corrupt):
        shard.document("b")
    resumed = written(shard, Resume(["a", "b", "c", "d"], [0, 1, 2, 3]))
    assert resumed == ["unchanged", "rejected", "unchanged", "missing"]
    assert written(shard, loaded()) == [
        WriteStatus.UNCHANGED,
        WriteStatus.REJECTED,
        WriteStatus.UNCHANGED,
    ]
    shard.close()


def test_as_many_damaged_rows_are_remembered_as_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_reader, "DAMAGED_MAX", 5)
    shard = new_shard(tmp_path / "s")
    written(shard, batch(NAMES, NAMES))
    reader = shard._current.store.reader
    for row in range(20):
        reader.note_damaged([row])
    assert shard.status().corrupt_rows_seen == 5
    reader.note_damaged([299, 10_000_000])  # a row that is not there is nobody's damage
    assert shard.status().corrupt_rows_seen == 5
    shard.close()
