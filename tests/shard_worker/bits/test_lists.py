"""The approximate index: one copy of the bits for exact and approximate scans, and its file."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import ChecksumMismatch, Corrupt
from bitsift.shard_worker.bits import parts as bit_parts
from bitsift.shard_worker.bits.clustering import LISTS_MAX, Quantizer, lists_for, train
from bitsift.shard_worker.bits.hamming import nearest
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.lists import LISTS_FILE, ListedBits, write_living

UUID = str(uuid.UUID(int=7))
NONE_DEAD = np.empty(0, dtype=np.int64)


def clustered_bits(rows: int, row_bytes: int, seed: int = 0, centres: int = 12) -> np.ndarray:
    """Packed bits round a few centres, a tenth of each row's bits flipped."""
    random = np.random.default_rng(seed)
    middle = np.random.default_rng(99).random((centres, row_bytes * 8)) < 0.5
    flips = random.random((rows, row_bytes * 8)) < 0.1
    return np.packbits(middle[random.integers(0, centres, rows)] ^ flips, axis=1)


def filled(bits: np.ndarray) -> BinaryIndex:
    index = BinaryIndex(bits.shape[1], UUID)
    index.add(bits)
    return index


def grouped(bits: np.ndarray, folder: Path, lists: int, tail: int = 0) -> BinaryIndex:
    """An index whose first rows are in lists, and the last ``tail`` beside them."""
    index = filled(bits[: len(bits) - tail])
    listed = index.write_lists(folder, lists)
    index.add(bits[len(bits) - tail :])
    index.adopt(listed, NONE_DEAD)
    return index


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_parts, "SEGMENT_ROWS", 64)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 300),
    lists=st.integers(1, 12),
    tail=st.integers(0, 100),
    count=st.integers(1, 120),
    dead=st.sets(st.integers(0, 299)),
    seed=st.integers(0, 50),
)
def test_grouped_bits_answer_an_exact_scan_as_ungrouped_ones_do(
    tmp_path: Path, rows: int, lists: int, tail: int, count: int, dead: set[int], seed: int
) -> None:
    bits = clustered_bits(rows, 8, seed)
    tail = min(tail, rows - 1)
    index = grouped(bits, tmp_path, min(lists, rows - tail), tail)
    assert index.listed is not None
    index.listed.hold()
    dead = {row for row in dead if row < rows}
    index.mark_dead(np.array(sorted(dead), dtype=np.int64))
    queries = clustered_bits(3, 8, seed + 1)
    for query, pool in zip(queries, index.search(queries, count), strict=True):
        naive = np.unpackbits(bits ^ query, axis=1).sum(axis=1)
        living = np.setdiff1d(np.arange(rows), sorted(dead))
        np.testing.assert_array_equal(pool.distances, np.sort(naive[living])[:count])
        np.testing.assert_array_equal(naive[pool.rows], pool.distances)
        np.testing.assert_array_equal(bits[pool.rows], pool.bits())
        assert not dead & set(pool.rows.tolist())
    everything = np.arange(rows, dtype=np.int64)
    assert set(everything[~index.moment().is_alive(everything)].tolist()) == dead
    np.testing.assert_array_equal(index.bits_of(everything), bits)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    nprobe=st.integers(1, 20),
    count=st.integers(1, 120),
    enough=st.integers(1, 120),
    dead=st.sets(st.integers(0, 199), max_size=190),
)
def test_probing_returns_enough_rows_while_they_exist_and_no_dead_ones(
    tmp_path: Path, nprobe: int, count: int, enough: int, dead: set[int]
) -> None:
    bits = clustered_bits(200, 8)
    index = grouped(bits, tmp_path, 10, tail=30)
    index.mark_dead(np.array(sorted(dead), dtype=np.int64))
    queries = clustered_bits(2, 8, 5)
    for query, pool in zip(queries, index.search(queries, count, nprobe, enough), strict=True):
        assert min(count, enough, 200 - len(dead)) <= len(pool) <= count
        assert len(set(pool.rows.tolist())) == len(pool)
        assert not dead & set(pool.rows.tolist())
        np.testing.assert_array_equal(
            np.unpackbits(bits[pool.rows] ^ query, axis=1).sum(axis=1), pool.distances
        )


def test_probing_all_lists_finds_what_the_exact_scan_finds(tmp_path: Path) -> None:
    index = grouped(clustered_bits(500, 16), tmp_path, 20)
    queries = clustered_bits(8, 16, 3)
    for exact, probed in zip(index.search(queries, 40), index.search(queries, 40, 20), strict=True):
        np.testing.assert_array_equal(exact.distances, probed.distances)


def test_few_lists_find_nearly_all_of_what_an_exact_scan_finds(tmp_path: Path) -> None:
    index = grouped(clustered_bits(4_000, 32, centres=64), tmp_path, 64)
    queries = clustered_bits(50, 32, 3, centres=64)
    pairs = zip(index.search(queries, 40), index.search(queries, 40, 6), strict=True)
    shared = [np.isin(exact.rows, probed.rows).mean() for exact, probed in pairs]
    assert np.mean(shared) > 0.9


def test_bits_are_held_once_and_the_tail_keeps_its_rows(tmp_path: Path) -> None:
    bits = clustered_bits(500, 16)
    index = grouped(bits, tmp_path, 4, tail=100)
    assert index.listed is not None
    assert len(index.listed) == 400
    assert index.memory_bytes == 400 * (16 + 4) + 4 * 16 + 100 * 16  # bits, row numbers, centroids
    index.mark_dead(np.array([3, 450]))
    marks = 400 // 8 + bit_parts.SEGMENT_ROWS // 8
    assert index.memory_bytes == 400 * (16 + 4 + 4) + 4 * 16 + 100 * 16 + marks
    index.add(bits[:10])
    assert len(index) == 510


def test_lists_are_found_again_when_the_index_is_loaded(tmp_path: Path) -> None:
    bits = clustered_bits(300, 8)
    index = grouped(bits, tmp_path, 5, tail=70)
    index.save(tmp_path)
    loaded = BinaryIndex(8, UUID)
    assert loaded.load(tmp_path, 300) is None
    assert loaded.listed is not None
    queries = clustered_bits(4, 8, 5)
    for one, other in zip(index.search(queries, 50), loaded.search(queries, 50), strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)


def test_segments_that_the_lists_replaced_are_removed_from_the_disk(tmp_path: Path) -> None:
    bits = clustered_bits(300, 8)
    index = filled(bits)
    index.save(tmp_path)
    assert len(list(tmp_path.glob("bits-0*.bits"))) == 5
    index.adopt(index.write_lists(tmp_path, 5), NONE_DEAD)
    index.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LISTS_FILE]


@pytest.mark.parametrize("place", ["header", "ends", "codes", "rows", "truncated", "empty"])
def test_a_damaged_file_of_lists_is_refused_and_costs_only_a_rebuild(
    tmp_path: Path, place: str
) -> None:
    bits = clustered_bits(300, 8)
    grouped(bits, tmp_path, 5)
    path = tmp_path / LISTS_FILE
    data = bytearray(path.read_bytes())
    spots = {"header": 20, "ends": 60, "codes": 4096 + 100, "rows": len(data) - 700}
    if place in spots:
        data[spots[place]] ^= 4
    path.write_bytes(bytes(data[: {"truncated": 5_000, "empty": 0}.get(place, len(data))]))
    with pytest.raises(ChecksumMismatch):
        ListedBits(path, 8, (uuid.UUID(UUID).bytes, 0))
    index = BinaryIndex(8, UUID)
    reason = index.load(tmp_path, 300)
    assert index.listed is None
    assert reason is not None


def test_lists_with_more_rows_than_the_store_mean_that_the_store_lost_some(tmp_path: Path) -> None:
    grouped(clustered_bits(300, 8), tmp_path, 5)
    with pytest.raises(Corrupt, match="lost what was committed"):
        BinaryIndex(8, UUID).load(tmp_path, 299)


@pytest.mark.parametrize("owner", [(uuid.UUID(int=8).bytes, 0), (uuid.UUID(UUID).bytes, 1)])
def test_lists_of_another_index_or_generation_are_not_used(
    tmp_path: Path, owner: tuple[bytes, int]
) -> None:
    grouped(clustered_bits(300, 8), tmp_path, 5)
    with pytest.raises(ChecksumMismatch, match="does not belong"):
        ListedBits(tmp_path / LISTS_FILE, 8, owner)


def test_lists_without_their_dead_find_the_same_rows_under_new_numbers(tmp_path: Path) -> None:
    bits = clustered_bits(300, 8)
    index = grouped(bits, tmp_path, 5)
    alive = np.random.default_rng(4).random(300) < 0.7
    numbers = np.where(alive, np.cumsum(alive) - 1, -1)
    (tmp_path / "next").mkdir()
    owner = uuid.UUID(UUID).bytes, 1
    assert index.listed is not None
    path = write_living(tmp_path / "next", owner, index.listed, numbers)
    after = BinaryIndex(8, UUID, generation=1)
    after.adopt(ListedBits(path, 8, owner), np.empty(0, dtype=np.int64))
    index.mark_dead(np.flatnonzero(~alive))
    for nprobe in (None, 2):
        pools = zip(
            index.search(bits[:40], 30, nprobe), after.search(bits[:40], 30, nprobe), strict=True
        )
        for before, now in pools:
            assert before.distances.tolist() == now.distances.tolist()
            sure = before.distances < before.distances[-1]  # ties at the cut may be cut otherwise
            assert numbers[before.rows[sure]].tolist() == now.rows[sure].tolist()
            assert (before.bits()[sure] == now.bits()[sure]).all()


def test_the_quantizer_finds_nearly_the_nearest_centroid() -> None:
    centroids = clustered_bits(2_048, 16, centres=300)
    bits = clustered_bits(2_000, 16, 3, centres=300)
    owners = Quantizer(centroids).assign(bits)
    best = nearest(centroids, bits, 1)[0][:, 0]
    found = np.unpackbits(bits ^ centroids[owners], axis=1).sum(axis=1)
    assert (found >= best).all()
    assert (found == best).mean() > 0.8


def test_training_puts_a_centroid_at_each_cluster() -> None:
    bits = clustered_bits(3_000, 32, centres=12)
    centroids = train(bits, 24)
    middle = np.packbits(np.random.default_rng(99).random((12, 256)) < 0.5, axis=1)
    distances = nearest(centroids, middle, 1)[0][:, 0]
    assert np.median(distances) <= 4  # of 256 bits; a row is 26 away


def test_identical_rows_can_be_grouped() -> None:
    centroids = train(np.zeros((50, 8), dtype=np.uint8), 4)
    assert Quantizer(centroids).assign(np.zeros((9, 8), dtype=np.uint8)).shape == (9,)


@pytest.mark.parametrize(("rows", "lists"), [(1, 1), (150, 1), (300, 2), (2_000_000, 16_384)])
def test_the_number_of_lists_is_a_power_of_two_that_grows_with_the_rows(
    rows: int, lists: int
) -> None:
    assert lists_for(rows) == lists
    assert lists_for(10**9) == 1 << 15


def test_rows_are_grouped_into_so_many_lists_at_most() -> None:
    assert lists_for(1 << 40) == lists_for(1 << 41) == LISTS_MAX
