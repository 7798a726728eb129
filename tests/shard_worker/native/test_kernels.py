"""Each compiled way finds what numpy finds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.shard_worker.bits.live_rows import AliveMarks
from bitsift.shard_worker.codes import Calibration, asymmetric_scores, padded
from bitsift.shard_worker.native import kernels
from tests.shard_worker.kernel_ways import WAYS, going

COMPILED = [way for way in WAYS if way != "faiss"]


def test_a_kernel_was_compiled_where_there_is_a_compiler() -> None:
    assert kernels.is_there() or shutil.which("gcc") is None
    assert kernels.name() in WAYS


def test_the_best_is_chosen_by_itself() -> None:
    best = kernels.name()
    for way in COMPILED:
        kernels.choose(way)
    assert not kernels.choose("none of them")
    assert kernels.name() == best


@pytest.mark.parametrize("way", COMPILED)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(4, 70))
def test_scores_are_those_of_numpy(way: str, seed: int, rows: int, row_bytes: int) -> None:
    """To the last bit, for all but a few in a hundred million."""
    random = np.random.default_rng(seed)
    query = random.standard_normal(8 * row_bytes).astype(np.float32)
    bits = random.integers(0, 256, (rows, row_bytes), dtype=np.uint8)
    codes = random.integers(-128, 128, (rows, 8 * row_bytes + 4), dtype=np.int8)[:, :-4]
    step = random.random(8 * row_bytes).astype(np.float32) + np.float32(0.1)
    calibration = Calibration(8 * row_bytes, -step, step)
    with going("faiss"):
        estimates, scores = asymmetric_scores(query, bits), calibration.scores(query, codes)
    with going(way):
        np.testing.assert_array_equal(asymmetric_scores(query, bits), estimates)
        np.testing.assert_array_equal(calibration.scores(query, codes), scores)
        flipped = np.asfortranarray(codes)
        np.testing.assert_array_equal(calibration.scores(query, flipped), scores)


@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(32, 70), st.booleans())
def test_codes_are_those_of_numpy(
    way: str, kind: type[np.floating[Any]], seed: int, rows: int, dimension: int, turns: bool
) -> None:
    """Of vectors of any length, of which some numbers clip, and some lie between two levels."""
    random = np.random.default_rng(seed)
    vectors = (random.standard_normal((rows, dimension)) * random.lognormal(0, 4)).astype(kind)
    vectors[:, 0], vectors[: rows // 2, 1] = 0, vectors[: rows // 2, 2]
    low, step = np.zeros((2, padded(dimension)), dtype=np.float32)
    low[:dimension], step[:] = -0.2, 1e-7
    step[:dimension] = random.choice([2**-9, 0.4 / 255, 1e-3], dimension)
    calibration = Calibration(dimension, low, step, rotation_seed=7 if turns else None)
    with going("faiss"):
        expected, clipped = calibration.quantize(calibration.units(vectors))
    with going(way):
        for codes, count in (
            calibration.codes(vectors),
            calibration.codes(np.asfortranarray(vectors)),
            calibration.quantize(calibration.units(vectors)),
        ):
            np.testing.assert_array_equal(codes, expected)
            assert count == clipped


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_between_two_codes_becomes_the_even_one(way: str) -> None:
    halves = np.arange(-6, 520, dtype=np.float32)
    units = np.repeat((halves / 2 - 128).astype(np.float32)[:, None], 40, axis=1)
    low, step = np.full(40, -128, dtype=np.float32), np.ones(40, dtype=np.float32)
    with going(way):
        codes, clipped = Calibration(40, low, step).quantize(units)
    expected = [round(half / 2) - 128 for half in halves.tolist()]
    assert codes[:, 3].tolist() == codes[:, 39].tolist() == np.clip(expected, -128, 127).tolist()
    assert clipped == 40 * sum(not -128 <= code <= 127 for code in expected)


@pytest.mark.parametrize("way", COMPILED)
@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(1, 100), st.integers(0, 8))
def test_checksums_are_those_of_google(
    way: str, seed: int, records: int, width: int, more: int
) -> None:
    table = np.random.default_rng(seed).integers(0, 256, (records, width + more), dtype=np.uint8)
    with going(way):
        found = kernels.crc32c(table, width)
    assert found.tolist() == [google_crc32c.value(row[:width].tobytes()) for row in table]


def test_a_read_that_fails_says_why(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Is a directory"):
        kernels.read(folder, np.array([1]), np.empty((1, 10), dtype=np.uint8), 4, 0.0)
    os.close(folder)


def test_records_are_read_where_they_lie_and_zeros_where_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(1, 101)))
    file = os.open(path, os.O_RDONLY)
    places = np.array([1, 0, 90, 95, 99, 2_000], dtype=np.int64)
    records = np.full((6, 10), 255, dtype=np.uint8)
    assert kernels.read(file, places, records, 4, 0.0) == 6
    assert records[0].tolist() == list(range(2, 12))
    assert records[2].tolist() == list(range(91, 101))
    assert not records[[1, 3, 4, 5]].any()
    assert kernels.read(file, places, records, 2, 1e-12) == 2
    assert kernels.read(file, places, records, 2, 60.0) == 6
    kernels.will_need(file, places, 10)
    os.close(file)


@pytest.mark.parametrize("way", ["best", "faiss"])
@given(st.integers(0, 2**32 - 1), st.integers(0, 700), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_living_rows_are_those_of_numpy(way: str, seed: int, rows: int, share: float) -> None:
    """Also where there are more marks than rows, or rows without a mark, which are alive."""
    flags = np.random.default_rng(seed).random(max(0, rows + seed % 17 - 8)) < share
    marks = AliveMarks(np.packbits(flags, bitorder="little"), 0)
    marks = AliveMarks(marks.bitmap, 8 * marks.memory_bytes - int(flags.sum()))
    expected = np.ones(rows, dtype=np.bool_)
    padded = np.zeros(8 * marks.memory_bytes, dtype=np.bool_)
    padded[: len(flags)] = flags
    expected[: len(padded)] = padded[:rows]
    with going(way):
        found = marks.living(rows)
    assert found.dtype == np.int64
    assert np.array_equal(found, np.flatnonzero(expected))
