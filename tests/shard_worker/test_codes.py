"""The codes against plain definitions of them."""

from __future__ import annotations

import functools

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitsift.errors import FormatMismatch, InvalidRequest
from bitsift.shard_worker.codes import (
    Calibration,
    Transform,
    asymmetric_scores,
    bad_rows,
    best_first,
    normalize,
    padded,
    query_bits,
    rotation,
)


def unit_vectors(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return normalize(random.standard_normal((rows, dimension)).astype(np.float32), dimension)


def biased_vectors(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Every dimension has a mean of its own, far from zero for most."""
    random = np.random.default_rng(seed)
    mean = 2 * random.standard_normal(dimension)
    return (mean + random.standard_normal((rows, dimension))).astype(np.float32)


dimensions = st.integers(32, 200)
transforms = st.sampled_from(list(Transform))


def calibrated(vectors: np.ndarray, transform: Transform) -> tuple[Calibration, np.ndarray]:
    """A calibration from ``vectors`` and their units under it."""
    dimension = vectors.shape[1]
    calibration = Calibration.from_sample(normalize(vectors, dimension), dimension, transform)
    return calibration, calibration.units(vectors)


@given(dimensions, st.integers(0, 2**32 - 1), transforms)
def test_bits_are_the_signs_of_the_decoded_codes_less_the_centre(
    dimension: int, seed: int, transform: Transform
) -> None:
    calibration, units = calibrated(biased_vectors(20, dimension, seed), transform)
    codes, _ = calibration.quantize(units)
    center = 0 if calibration.center is None else calibration.center
    expected = np.packbits(calibration.decode(codes) > center, axis=1)
    np.testing.assert_array_equal(calibration.bits(codes), expected)
    query = np.packbits(units > center, axis=1)
    np.testing.assert_array_equal(calibration.query_bits(units), query)
    padding = np.unpackbits(np.concatenate([expected, query]), axis=1)[:, dimension:]
    assert not padding.any()


@given(dimensions, st.integers(0, 2**32 - 1), transforms)
def test_no_transform_changes_a_score(dimension: int, seed: int, transform: Transform) -> None:
    vectors = biased_vectors(30, dimension, seed)
    calibration, units = calibrated(vectors, transform)
    plain = normalize(vectors, dimension)
    np.testing.assert_allclose(units @ units[0], plain @ plain[0], atol=1e-5)
    assert not units[:, dimension:].any()
    codes, clipped = calibration.quantize(units)
    assert clipped == 0
    bound = (np.abs(units[0]) * calibration.step / 2).sum() + 1e-5
    assert (np.abs(calibration.scores(units[0], codes) - plain @ plain[0]) <= bound).all()


def test_centring_makes_every_bit_tell_the_documents_apart() -> None:
    vectors = biased_vectors(2_000, 96)
    one_sided = {}
    for transform in Transform:
        calibration, units = calibrated(vectors, transform)
        ones = np.unpackbits(calibration.bits(calibration.quantize(units)[0]), axis=1).mean(axis=0)
        one_sided[transform] = np.maximum(ones, 1 - ones).max()
    assert one_sided[Transform.NONE] == 1.0
    assert one_sided[Transform.CENTER] < 0.55
    assert one_sided[Transform.CENTER_ROTATE] < 0.55


@settings(max_examples=20)
@given(dimensions, st.integers(0, 2**32 - 1))
def test_a_rotation_is_orthonormal_and_made_again_from_its_seed(dimension: int, seed: int) -> None:
    matrix = rotation(dimension, seed).copy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dimension), atol=1e-5)
    rotation.cache_clear()
    np.testing.assert_array_equal(rotation(dimension, seed), matrix)


def test_the_rotation_of_a_seed_never_changes_between_versions() -> None:
    corner = rotation(64, 20_240_131)[:2, :3]
    np.testing.assert_allclose(corner, ROTATION_FOR_EVER, atol=1e-6)


@given(dimensions, st.integers(0, 2**32 - 1))
def test_decoded_scores_are_within_the_quantization_step_of_fp32(dimension: int, seed: int) -> None:
    units = unit_vectors(50, dimension, seed)
    calibration = Calibration.from_sample(units, dimension)
    codes, clipped = calibration.quantize(units)
    assert clipped == 0
    query = unit_vectors(1, dimension, seed + 1)[0]
    error = np.abs(calibration.scores(query, codes) - units @ query)
    bound = (np.abs(query) * calibration.step / 2).sum()
    assert (error <= bound + 1e-5).all()


def test_raw_codes_would_order_differently_where_decoded_scores_do_not() -> None:
    random = np.random.default_rng(3)
    scales = np.geomspace(0.05, 1.0, 64)
    units = normalize((random.standard_normal((2_000, 64)) * scales).astype(np.float32), 64)
    calibration = Calibration.from_sample(units, 64)
    codes, _ = calibration.quantize(units)
    query = units[7]
    exact = np.argsort(-(units @ query))[:10]
    decoded = np.argsort(-calibration.scores(query, codes))[:10]
    raw = np.argsort(-(codes.astype(np.float32) @ query))[:10]
    assert len(set(exact) & set(decoded)) >= 9
    assert len(set(exact) & set(raw)) < len(set(exact) & set(decoded))


def test_a_score_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    units = unit_vectors(97, 384)
    calibration = Calibration.from_sample(units, 384)
    codes, _ = calibration.quantize(units)
    query = unit_vectors(1, 384, 9)[0]
    together = calibration.scores(query, codes)
    alone = [calibration.scores(query, codes[i : i + 1])[0] for i in range(len(codes))]
    np.testing.assert_array_equal(together, np.array(alone))


@given(st.integers(4, 64).map(lambda n: n * 8), st.integers(0, 2**32 - 1))
def test_asymmetric_scores_are_the_query_against_plus_and_minus_one(width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    query = random.standard_normal(width).astype(np.float32)
    signs = random.integers(0, 2, (30, width), dtype=np.uint8)
    found = asymmetric_scores(query, np.packbits(signs, axis=1))
    np.testing.assert_allclose(found, (signs * 2.0 - 1) @ query, rtol=1e-4, atol=1e-3)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(4, 40).map(lambda n: n * 8))))
def test_packing_and_unpacking_bits_is_lossless(bits: np.ndarray) -> None:
    vectors = np.where(bits, 1, -1).astype(np.float32)
    unpacked = np.unpackbits(query_bits(vectors), axis=1).astype(bool)
    np.testing.assert_array_equal(unpacked, bits)


def test_padding_dimensions_add_nothing_to_a_score_and_set_no_bit() -> None:
    dimension = 37
    units = unit_vectors(30, dimension)
    assert units.shape[1] == padded(dimension) == 40
    calibration = Calibration.from_sample(units, dimension)
    codes, _ = calibration.quantize(units)
    assert (calibration.decode(codes)[:, dimension:] == 0).all()
    assert (np.unpackbits(calibration.bits(codes), axis=1)[:, dimension:] == 0).all()


def test_a_dimension_that_never_varies_keeps_its_value() -> None:
    vectors = np.random.default_rng(0).standard_normal((2_000, 32)).astype(np.float32)
    units = normalize(vectors, 32)
    units[:, 3] = 0.25
    calibration = Calibration.from_sample(units, 32)
    codes, _ = calibration.quantize(units)
    np.testing.assert_allclose(calibration.decode(codes)[:, 3], 0.25, atol=1e-4)


def test_values_outside_the_calibrated_range_clip_and_are_counted() -> None:
    units = unit_vectors(2_000, 64)
    calibration = Calibration.from_sample(units, 64)
    outside = np.zeros((1, 64), dtype=np.float32)
    outside[0, 5], outside[0, 6] = 1.0, -1.0
    codes, clipped = calibration.quantize(outside)
    assert clipped == 2
    assert codes[0, 5] == 127
    assert codes[0, 6] == -128


@given(dimensions, st.integers(0, 2**32 - 1), transforms)
def test_calibration_survives_json_exactly(dimension: int, seed: int, transform: Transform) -> None:
    vectors = biased_vectors(50, dimension, seed)
    calibration, units = calibrated(vectors, transform)
    again = Calibration.from_json(orjson.loads(orjson.dumps(calibration.to_json())))
    np.testing.assert_array_equal(again.low, calibration.low)
    np.testing.assert_array_equal(again.step, calibration.step)
    np.testing.assert_array_equal(again.units(vectors), units)
    np.testing.assert_array_equal(again.query_bits(units), calibration.query_bits(units))
    np.testing.assert_array_equal(again.bit_thresholds, calibration.bit_thresholds)


def test_a_program_that_knows_no_transform_refuses_a_calibration_with_one() -> None:
    vectors = biased_vectors(50, 48)
    assert calibrated(vectors, Transform.NONE)[0].to_json().keys() == VERSION_1_KEYS
    for transform in set(Transform) - {Transform.NONE}:
        assert calibrated(vectors, transform)[0].to_json()["version"] == 2
    with pytest.raises(FormatMismatch, match="version 3, this program reads 1 and 2"):
        Calibration.from_json({"version": 3})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_vectors_without_a_direction_are_refused(value: float) -> None:
    vectors = np.ones((3, 32), dtype=np.float32)
    vectors[1] = value
    assert bad_rows(vectors).tolist() == [False, True, False]
    calibration = Calibration.for_any(32)
    for refuses in (functools.partial(normalize, dimension=32), calibration.codes):
        with pytest.raises(InvalidRequest, match="vector 1 is zero"):
            refuses(vectors)


def test_a_vector_of_another_width_is_refused_with_both_widths() -> None:
    calibration = Calibration.for_any(32)
    for refuses in (functools.partial(normalize, dimension=32), calibration.codes):
        with pytest.raises(InvalidRequest, match="33 dimensions, the index has 32"):
            refuses(np.ones((1, 33), dtype=np.float32))


@given(
    hnp.arrays(np.float32, st.integers(0, 60), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    st.integers(1, 20),
)
def test_best_first_is_the_head_of_a_full_sort(scores: np.ndarray, count: int) -> None:
    ties = np.arange(len(scores), dtype=np.int64)[::-1].copy()
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], ties[i]))[:count]
    assert best_first(scores, ties, count).tolist() == expected


ROTATION_FOR_EVER = [[-0.2477025, 0.1400737, 0.0724575], [-0.1168600, -0.1511174, 0.2086019]]
VERSION_1_KEYS = {"version", "dimension", "low", "step"}
