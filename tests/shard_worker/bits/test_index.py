"""The binary index against a naive popcount, and its snapshot files."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import Corrupt
from bitsift.shard_worker.bits import parts as bit_parts
from bitsift.shard_worker.bits.index import BinaryIndex, open_index

UUID = str(uuid.UUID(int=7))


def random_bits(rows: int, row_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, row_bytes), dtype=np.uint8)


def filled(bits: np.ndarray) -> BinaryIndex:
    index = BinaryIndex(bits.shape[1], UUID)
    index.add(bits)
    return index


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_parts, "SEGMENT_ROWS", 64)


@given(
    st.integers(0, 200),
    st.one_of(st.integers(4, 20), st.sampled_from([96, 128])),
    st.integers(1, 100),
    st.integers(0, 1000),
)
def test_faiss_finds_what_a_naive_popcount_finds(
    rows: int, row_bytes: int, count: int, seed: int
) -> None:
    bits, query = random_bits(rows, row_bytes, seed), random_bits(1, row_bytes, seed + 1)
    (pool,) = filled(bits).search(query, count)
    distances, found = pool.distances, pool.rows
    np.testing.assert_array_equal(pool.bits(), bits[found])
    naive = np.unpackbits(bits ^ query, axis=1).sum(axis=1)
    assert len(found) == min(rows, count)
    assert len(set(found.tolist())) == len(found)
    np.testing.assert_array_equal(distances, np.sort(naive)[:count])
    np.testing.assert_array_equal(naive[found], distances)


@given(st.integers(1, 150), st.sets(st.integers(0, 149)), st.integers(1, 200))
def test_dead_rows_are_never_found_and_never_shorten_the_answer(
    rows: int, dead: set[int], count: int
) -> None:
    dead = {row for row in dead if row < rows}
    index = filled(random_bits(rows, 8))
    index.mark_dead(np.array(sorted(dead), dtype=np.int64))
    found = index.search(random_bits(1, 8, 5), count)[0].rows
    assert not dead & set(found.tolist())
    assert len(found) == min(count, rows - len(dead))
    everything = np.arange(rows, dtype=np.int64)
    assert set(everything[~index.moment().is_alive(everything)].tolist()) == dead


def test_bits_of_rows_come_back_from_every_segment() -> None:
    bits = random_bits(200, 16)
    rows = np.array([199, 0, 63, 64, 128, 5], dtype=np.int64)
    np.testing.assert_array_equal(filled(bits).bits_of(rows), bits[rows])


def opened(folder: Path, bits: np.ndarray) -> tuple[BinaryIndex, list[tuple[int, int]]]:
    """The index as it is opened from ``folder``, and which rows came from the store."""
    rebuilt: list[tuple[int, int]] = []

    def from_store(first: int, rows: int):  # type: ignore[no-untyped-def]
        rebuilt.append((first, rows))
        yield bits[first:rows]

    index = BinaryIndex(bits.shape[1], UUID)
    open_index(folder, index, len(bits), from_store)
    return index, [(a, b) for a, b in rebuilt if a < b]


def same_answers(one: BinaryIndex, other: BinaryIndex) -> bool:
    query = random_bits(3, one.row_bytes, 11)
    pairs = zip(one.search(query, 50), other.search(query, 50), strict=True)
    return all(
        np.array_equal(a.distances, b.distances) and np.array_equal(a.rows, b.rows)
        for a, b in pairs
    )


def test_a_snapshot_spares_reading_the_store(tmp_path: Path) -> None:
    bits = random_bits(150, 8)
    filled(bits).save(tmp_path)
    index, rebuilt = opened(tmp_path, bits)
    assert rebuilt == []
    assert same_answers(index, filled(bits))


def test_rows_added_after_the_snapshot_are_replayed(tmp_path: Path) -> None:
    bits = random_bits(150, 8)
    filled(bits[:140]).save(tmp_path)
    index, rebuilt = opened(tmp_path, bits)
    assert rebuilt == [(140, 150)]
    assert same_answers(index, filled(bits))


def test_a_full_segment_is_written_once(tmp_path: Path) -> None:
    index = filled(random_bits(100, 8))
    index.save(tmp_path)
    first, second = sorted(tmp_path.iterdir())
    before = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    index.add(random_bits(10, 8, 1))
    index.save(tmp_path)
    assert first.stat().st_mtime_ns == before[0]
    assert second.stat().st_mtime_ns > before[1]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "header", "missing", "longer"])
def test_a_damaged_snapshot_is_rebuilt_from_the_store(tmp_path: Path, damage: str) -> None:
    bits = random_bits(150, 8)
    filled(bits).save(tmp_path)
    path = tmp_path / "bits-00001.bits"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-3] ^= 4
    elif damage == "header":
        data[10] ^= 4
    elif damage == "longer":
        data += b"x"
    path.write_bytes(bytes(data[: {"truncate": 100, "empty": 0}.get(damage, len(data))]))
    if damage == "missing":
        path.unlink()
    index, rebuilt = opened(tmp_path, bits)
    assert rebuilt == [(64, 150)]
    assert same_answers(index, filled(bits))


def test_a_snapshot_of_another_index_is_not_used(tmp_path: Path) -> None:
    bits = random_bits(20, 8)
    other = BinaryIndex(8, str(uuid.UUID(int=8)))
    other.add(random_bits(20, 8, 99))
    other.save(tmp_path)
    index, rebuilt = opened(tmp_path, bits)
    assert rebuilt == [(0, 20)]
    assert same_answers(index, filled(bits))


def test_a_snapshot_with_more_rows_than_the_store_means_that_the_store_lost_some(
    tmp_path: Path,
) -> None:
    filled(random_bits(30, 8, 5)).save(tmp_path)
    with pytest.raises(Corrupt, match="lost what was committed"):
        opened(tmp_path, random_bits(20, 8))


def test_a_snapshot_of_another_generation_is_not_used(tmp_path: Path) -> None:
    bits = random_bits(20, 8)
    before = BinaryIndex(8, UUID, generation=1)
    before.add(random_bits(20, 8, 99))
    before.save(tmp_path)
    index, rebuilt = opened(tmp_path, bits)
    assert rebuilt == [(0, 20)]
    assert same_answers(index, filled(bits))


def test_a_search_sees_a_replaced_row_or_the_new_one_never_both_nor_none() -> None:
    bits = random_bits(10, 8)
    index = filled(bits)
    before = index._parts
    index.apply(bits[3:4], np.array([3], dtype=np.int64))
    asked = BinaryIndex(8, UUID)
    for parts, row in ((before, 3), (index._parts, 10)):
        asked._parts = parts
        (pool,) = asked.search(bits[3:4], 11)
        assert (pool.rows[0], pool.distances[0]) == (row, 0)
        assert len(pool) == 10


def test_leftovers_of_an_interrupted_snapshot_are_removed(tmp_path: Path) -> None:
    bits = random_bits(20, 8)
    filled(bits).save(tmp_path)
    leftover = tmp_path / "bits-00000.bits.partial"
    leftover.write_bytes(b"half")
    opened(tmp_path, bits)
    assert not leftover.exists()


def test_the_ram_of_bits_is_that_of_rows_that_there_are() -> None:
    index = filled(random_bits(64 + 10, 16))
    assert index.memory_bytes == 74 * 16
    index.mark_dead(np.array([3, 70]))
    assert index.memory_bytes == 74 * 16 + 64 // 8 + 2  # a bit of each, of a whole segment or not


def test_a_loaded_segment_takes_no_more_room_than_its_rows_and_still_grows(tmp_path: Path) -> None:
    bits = random_bits(150, 8)
    filled(bits[:100]).save(tmp_path)
    index = BinaryIndex(8, UUID)
    assert index.load(tmp_path, 100) is None
    assert [len(segment.bits) for segment in index._parts.segments] == [64, 36]
    index.add(bits[100:])
    assert same_answers(index, filled(bits))
