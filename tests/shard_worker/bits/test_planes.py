"""Rows in two planes are the rows that they were, and a scan by the first finds what it should."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitsift.shard_worker.bits import hamming
from bitsift.shard_worker.bits import parts as bit_parts
from bitsift.shard_worker.bits.hamming import ListScanner, nearest
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.planes import FIRST_BYTES, Planes, as_planes, first_bytes
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.native import kernels
from tests.shard_worker.kernel_ways import WAYS, going

pytestmark = pytest.mark.skipif(not kernels.is_there(), reason="no kernel was compiled here")

WIDE = st.sampled_from([96, 128, 160, 192, 224])
UUID = str(uuid.UUID(int=7))


def random_bits(rows: int, row_bytes: int, seed: int) -> NDArray[np.uint8]:
    """Few different bytes, so that distances are often equal."""
    random = np.random.default_rng(seed)
    return random.choice(np.array([0, 1, 3, 255], dtype=np.uint8), (rows, row_bytes))


def split(bits: NDArray[np.uint8]) -> Planes:
    planes = Planes.empty(*bits.shape)
    planes.put(0, bits)
    return planes


@pytest.mark.parametrize(
    ("row_bytes", "first"),
    [(32, 32), (48, 48), (64, 64), (96, 32), (100, 100), (128, 32), (192, 32), (512, 32)],
)
def test_wide_rows_are_split_where_a_kernel_is(row_bytes: int, first: int) -> None:
    assert first_bytes(row_bytes) == first
    with going("faiss"):
        assert first_bytes(row_bytes) == row_bytes


@pytest.mark.parametrize("way", WAYS)
@given(st.integers(0, 60), WIDE, st.lists(st.integers(0, 59)), st.integers(0, 2**32 - 1))
def test_rows_come_back(way: str, rows: int, row_bytes: int, asked: list[int], seed: int) -> None:
    bits = random_bits(rows, row_bytes, seed)
    planes = split(bits)
    assert (len(planes), planes.row_bytes, planes.nbytes) == (rows, row_bytes, bits.nbytes)
    assert planes.is_split
    wanted = np.array([row for row in asked if row < rows], dtype=np.int64)
    with going(way):
        np.testing.assert_array_equal(planes.take(wanted), bits[wanted])
        np.testing.assert_array_equal(as_planes(bits).take(wanted), bits[wanted])
    np.testing.assert_array_equal(planes.joined(), bits)
    np.testing.assert_array_equal(planes[3:20].joined(), bits[3:20])
    np.testing.assert_array_equal(np.vstack([*planes.pieces(), bits[:0]]), bits)


@pytest.mark.parametrize("way", WAYS)
@given(st.integers(1, 200), WIDE, st.integers(1, 5), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_all_bits_of_two_planes_say_what_those_of_whole_rows_do(
    way: str, rows: int, row_bytes: int, queries: int, count: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    bits, asked = random_bits(rows, row_bytes, seed), random_bits(queries, row_bytes, seed + 1)
    alive = random.integers(0, 256, -(-rows // 8), dtype=np.uint8) if seed % 2 else None
    starts = np.array([0, rows // 3, rows // 2, rows], dtype=np.int64)
    lists = np.tile(np.array([[2, 0]], dtype=np.int64), (queries, 1))
    with going("portable"):
        expected = nearest(bits, asked, count, alive)
        in_lists = ListScanner(bits, starts).nearest(asked, lists, count, alive)
    with going(way):
        found = nearest(split(bits), asked, count, alive)
        probed = ListScanner(split(bits), starts).nearest(asked, lists, count, alive)
    alike = 1 if way == "faiss" else 2  # it leaves the order of equal distances open
    np.testing.assert_array_equal(found[:alike], expected[:alike])
    if way != "faiss" or alive is None:  # its lists cannot pass rows over, and may miss some
        np.testing.assert_array_equal(probed[:alike], in_lists[:alike])


def by_definition(
    bits: NDArray[np.uint8], query: NDArray[np.uint8], count: int, kept: int
) -> NDArray[np.int64]:
    """Of the ``kept`` rows that are nearest by their first bits those nearest by all of them."""
    differ = np.unpackbits(bits ^ query, axis=1)
    first = differ[:, : 8 * FIRST_BYTES].sum(axis=1, dtype=np.int64)
    chosen = np.sort(np.argsort(first, kind="stable")[:kept])
    order = np.argsort(differ[chosen].sum(axis=1, dtype=np.int64), kind="stable")
    return np.asarray(chosen[order[:count]])


@pytest.mark.parametrize("way", [way for way in WAYS if way != "faiss"])
@given(st.integers(1, 300), WIDE, st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_a_scan_by_first_bits_finds_the_nearest_of_those_that_they_choose(
    way: str, rows: int, row_bytes: int, count: int, share: float, seed: int
) -> None:
    bits, queries = random_bits(rows, row_bytes, seed), random_bits(3, row_bytes, seed + 1)
    with going(way):
        found = nearest(split(bits), queries, count, first_share=share)[1]
    count = min(count, rows)
    kept = max(count, int(np.ceil(share * rows)))
    for query, positions in zip(queries, found, strict=True):
        np.testing.assert_array_equal(positions, by_definition(bits, query, count, kept))


def nearest_first(bits: NDArray[np.uint8], query: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows by the distance of their first bits."""
    first = np.unpackbits(bits[:, :FIRST_BYTES] ^ query[:, :FIRST_BYTES], axis=1).sum(axis=1)
    return bits[np.argsort(first, kind="stable")]


def sampled(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The eight rows at each of ``places``, which a kernel looks at before it scans."""
    return (places[:, None] + np.arange(8)).ravel()


def moved_to(bits: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The first of ``bits`` at ``rows``, the others in between."""
    moved = np.empty_like(bits)
    moved[np.concatenate([rows, np.setdiff1d(np.arange(len(bits)), rows)])] = bits
    return moved


@pytest.mark.parametrize("way", [way for way in WAYS if way != "faiss"])
@pytest.mark.parametrize("order", ["random", "nearest first", "nearest where samples are"])
@pytest.mark.parametrize("marked", [1.0, 0.5, 0.1])
def test_where_many_are_kept_a_sample_says_where_to_begin_and_may_be_wrong(
    way: str, order: str, marked: float
) -> None:
    random = np.random.default_rng(11)
    bits, query = random_bits(24_000, 96, 8), random_bits(1, 96, 9)
    if order != "random":
        bits = nearest_first(bits, query)
    if order == "nearest where samples are":
        bits = moved_to(bits, sampled((24_000 - 8) * np.arange(256) // 255))
    marks = np.packbits(random.random(24_000) < marked, bitorder="little")
    living = np.flatnonzero(np.unpackbits(marks, bitorder="little"))
    with going(way):
        found = nearest(split(bits), query, 2_500, marks, first_share=0.11)[1][0]
        all_bits = nearest(split(bits), query, 2_500, marks)[1][0]
    kept = 2_640
    expected = living[by_definition(bits[living], query[0], 2_500, kept)]
    np.testing.assert_array_equal(found[: len(expected)], expected)
    whole = np.unpackbits(bits[living] ^ query, axis=1).sum(axis=1)
    exact = living[np.argsort(whole, kind="stable")[:2_500]]
    np.testing.assert_array_equal(all_bits[: len(exact)], exact)
    assert (found[len(expected) :] < 0).all()


def in_lists(
    bits: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lists: NDArray[np.int64],
    query: NDArray[np.uint8],
    count: int,
    by_first: int,
) -> NDArray[np.int64]:
    """What is to be found of the rows in ``lists``, ascending."""
    rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in lists])
    kept = max(len(rows) // by_first, 4 * count)
    kept = len(rows) if 4 * kept > len(rows) else kept
    return np.asarray(rows[by_definition(bits[rows], query, count, kept)])


@pytest.mark.parametrize("way", [way for way in WAYS if way != "faiss"])
@given(st.integers(1, 600), WIDE, st.integers(1, 30), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_of_lists_the_nearest_are_found_of_those_that_the_first_bits_choose(
    way: str, rows: int, row_bytes: int, count: int, by_first: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    bits, queries = random_bits(rows, row_bytes, seed), random_bits(3, row_bytes, seed + 1)
    starts = np.concatenate([[0], np.sort(random.integers(0, rows + 1, 9)), [rows]])
    lists = np.stack([np.sort(random.choice(10, 5, replace=False)) for _ in queries])
    planes = split(bits)
    with going(way):
        found = kernels.nearest_in_lists(
            planes.first, planes.rest, starts, queries, lists, count, None, by_first
        )[1]
    for query, own, positions in zip(queries, lists, found, strict=True):
        expected = in_lists(bits, starts, own, query, count, by_first)
        np.testing.assert_array_equal(positions[: len(expected)], expected)
        assert (positions[len(expected) :] == -1).all()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "faiss"])
@pytest.mark.parametrize("order", ["random", "nearest first", "nearest where samples are"])
@pytest.mark.parametrize("marked", [1.0, 0.5, 0.05])
def test_in_lists_a_sample_says_where_to_begin_too_and_may_be_wrong(
    way: str, order: str, marked: float
) -> None:
    random = np.random.default_rng(12)
    bits, query = random_bits(50_000, 96, 8), random_bits(1, 96, 9)
    if order != "random":
        bits = nearest_first(bits, query)
    starts = np.concatenate([[0], np.sort(random.integers(0, 50_001, 99)), [50_000]])
    lists = np.sort(random.choice(100, 90, replace=False))
    rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in lists])
    if order == "nearest where samples are":
        bits = moved_to(bits, rows[sampled(len(rows) // 256 * np.arange(256))])
    marks = np.packbits(random.random(50_000) < marked, bitorder="little")
    living = np.unpackbits(marks, bitorder="little").astype(bool)
    with going(way):
        scanner = ListScanner(split(bits), starts)
        found = scanner.nearest(query, lists[None], 600, marks, first_share=1 / 16)[1][0]
        all_bits = scanner.nearest(query, lists[None], 600, marks)[1][0]
    kept, alive = max(len(rows) // 16, 2_400), rows[living[rows]]
    expected = alive[by_definition(bits[alive], query[0], 600, kept)]
    np.testing.assert_array_equal(found, expected)
    exact = alive[by_definition(bits[alive], query[0], 600, len(alive))]
    np.testing.assert_array_equal(all_bits, exact)
    assert (set(found.tolist()) == set(exact.tolist())) == (marked == 0.05)


def test_rows_that_are_whole_are_compared_by_all_bits() -> None:
    bits, queries = random_bits(100, 48, 1), random_bits(2, 48, 2)
    found = nearest(bits, queries, 10, first_share=0.1)
    np.testing.assert_array_equal(found, nearest(bits, queries, 10))
    with going("faiss"):
        wide, asked = random_bits(100, 96, 1), random_bits(2, 96, 2)
        expected = nearest(wide, asked, 10)
        np.testing.assert_array_equal(nearest(split(wide), asked, 10, first_share=0.1), expected)


def test_rows_that_are_not_marked_are_chosen_by_neither_plane() -> None:
    bits, query = random_bits(400, 128, 3), random_bits(1, 128, 4)
    marks = np.random.default_rng(5).integers(0, 256, 50, dtype=np.uint8)
    living = np.flatnonzero(np.unpackbits(marks, bitorder="little"))
    found = nearest(split(bits), query, 20, marks, first_share=0.1)[1][0]
    np.testing.assert_array_equal(found, living[by_definition(bits[living], query[0], 20, 40)])


def test_a_scan_by_first_bits_takes_longer_steps_and_ends_with_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bits, query = random_bits(400, 128, 3), random_bits(1, 128, 4)
    monkeypatch.setattr(hamming, "STEP_BYTES_MAX", FIRST_BYTES * 104)
    found = nearest(split(bits), query, 20, None, [Deadline.after(60)], first_share=1.0)
    np.testing.assert_array_equal(found, nearest(bits, query, 20))
    ended = Deadline.after(0.001)
    time.sleep(0.01)
    assert (nearest(split(bits), query, 20, None, [ended], first_share=1.0)[1] < 0).all()


@pytest.mark.parametrize("listed", [False, True])
def test_an_index_of_split_rows_is_saved_as_it_was_and_found_again(
    tmp_path: Path, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files have rows as they are: an index goes to a machine without a compiler, and back."""
    monkeypatch.setattr(bit_parts, "SEGMENT_ROWS", 128)
    bits, queries = random_bits(500, 128, 6), random_bits(4, 128, 7)
    index = BinaryIndex(128, UUID)
    index.add(bits[:450])
    if listed:
        index.adopt(index.write_lists(tmp_path, 8), np.empty(0, dtype=np.int64))
        assert index.listed is not None
        index.listed.hold()
        assert index.listed.codes.is_split
    index.add(bits[450:])
    index.mark_dead(np.array([3, 460]))
    index.save(tmp_path)
    loaded, plain = BinaryIndex(128, UUID), BinaryIndex(128, UUID)
    assert loaded.load(tmp_path, 500) is None
    with going("faiss"):
        assert plain.load(tmp_path, 500) is None
        assert not any(segment.bits.is_split for segment in plain.moment().segments)
    for other in (loaded, plain):
        other.mark_dead(np.array([3, 460]))
        every = np.arange(500, dtype=np.int64)
        np.testing.assert_array_equal(other.bits_of(every), bits)
        for mine, theirs in zip(index.search(queries, 30), other.search(queries, 30), strict=True):
            np.testing.assert_array_equal(mine.rows, theirs.rows)
            np.testing.assert_array_equal(mine.bits(), theirs.bits())
    assert index.memory_bytes == loaded.memory_bytes
