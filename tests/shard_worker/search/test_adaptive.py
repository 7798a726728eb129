"""How many codes a query reads: what holds for any estimates, and what it is worth on vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitsift.shard_worker.codes import (
    Calibration,
    asymmetric_scores,
    best_first,
    normalize,
    query_bits,
)
from bitsift.shard_worker.search import adaptive
from bitsift.shard_worker.search.adaptive import (
    READS_MAX,
    READS_MIN,
    further_reads,
    noise,
    reads,
    rows_to_read,
)
from tests.shard_worker.kernel_ways import going

top_ks = st.integers(1, 120)
sigmas = st.floats(0.05, 1.0)
pools = hnp.arrays(
    np.float32, st.integers(0, 400), elements=st.floats(-20, 20, width=32, allow_subnormal=False)
).map(lambda scores: -np.sort(-scores))


@given(pools, sigmas, top_ks)
def test_reads_are_within_their_bounds_and_never_fewer_than_top_k_while_there_are_rows(
    estimates: np.ndarray, sigma: float, top_k: int
) -> None:
    needed = reads(estimates, sigma, top_k)
    assert min(len(estimates), max(READS_MIN, 2 * top_k)) <= needed <= len(estimates)
    assert needed <= max(READS_MAX, 4 * top_k)


@given(pools.filter(lambda scores: len(scores) > 1), sigmas, top_ks, st.floats(0.05, 10))
def test_a_wider_margin_at_the_cut_never_needs_more_reads(
    estimates: np.ndarray, sigma: float, top_k: int, margin: float
) -> None:
    wider = estimates.copy()
    wider[top_k:] -= np.float32(margin)
    # t is found to 0.002 σ only, which moves the expected misses by a per cent or so.
    needed = reads(wider, sigma, top_k, adaptive.MISSED * 1.02)
    assert needed <= reads(estimates, sigma, top_k)


def by_definition(estimates: np.ndarray, sigma: float, top_k: int, missed: float) -> int:
    """``reads`` without its bounds: a wide, fine search in float64 with the module's own Φ."""

    def memberships(t: float) -> np.ndarray:
        return adaptive._normal_cdf((estimates.astype(np.float64) - t) / sigma)  # type: ignore[arg-type]

    low, high = -50.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if memberships(middle).sum() > top_k else (low, middle)
    chances = memberships(high)
    return sum(chances[row:].sum() > missed * top_k for row in range(len(chances)))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1.0), st.sampled_from([3, 10, 25]))
def test_reads_is_the_smallest_cut_that_misses_no_more_than_it_may(
    seed: int, sigma: float, top_k: int
) -> None:
    random = np.random.default_rng(seed)
    estimates = -np.sort(random.exponential(1.5, 300)).astype(np.float32)
    estimates[:top_k] += np.float32(random.uniform(0, 5))
    estimates[0] = 30  # one row far above the others: t lies near the top_k-th, not near the first
    estimates = -np.sort(-estimates)
    lowest, highest = max(READS_MIN, 2 * top_k), READS_MAX
    loose, strict = (
        min(max(by_definition(estimates, sigma, top_k, adaptive.MISSED * by), lowest), highest)
        for by in (1.02, 0.98)
    )
    assert loose <= reads(estimates, sigma, top_k) <= strict


@given(pools, sigmas, top_ks, st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_a_higher_recall_never_needs_fewer_reads(
    estimates: np.ndarray, sigma: float, top_k: int, one: float, other: float
) -> None:
    strict, loose = sorted((one, other))
    needed = reads(estimates, sigma, top_k, loose)
    assert reads(estimates, sigma, top_k, strict) >= needed


@given(pools, sigmas, top_ks, st.floats(-1, 1), st.sampled_from([0.25, 0.5, 2, 4]))
def test_only_differences_in_units_of_the_noise_count(
    estimates: np.ndarray, sigma: float, top_k: int, shift: float, scale: float
) -> None:
    coarse = np.round(estimates * 64) / np.float32(64)  # so that shifting and scaling lose no bit
    moved = (coarse + np.float32(round(shift * 64) / 64)) * np.float32(scale)
    sigma = float(np.float32(sigma))
    needed = reads(coarse.astype(np.float32), sigma, top_k)
    assert reads(moved.astype(np.float32), sigma * scale, top_k) == needed


def test_a_clear_margin_reads_the_least_and_a_flat_tail_the_most() -> None:
    clear = np.concatenate([np.full(10, 9), np.full(390, 4)]).astype(np.float32)
    assert reads(clear, 0.5, 10) == READS_MIN
    assert reads(np.full(400, 4, dtype=np.float32), 0.5, 10) == READS_MAX
    between = np.linspace(9, 2, 400).astype(np.float32)
    assert READS_MIN < reads(between, 0.5, 10) < READS_MAX


def read_and_unread(seed: int, rows: int, done: int, tau: float) -> tuple[np.ndarray, ...]:
    """Estimates and scores of the best ``done`` rows by estimates, and the same of the others."""
    random = np.random.default_rng(seed)
    estimates = -np.sort(random.standard_normal(rows).astype(np.float32))
    scores = (0.1 * estimates + tau * random.standard_normal(rows)).astype(np.float32)
    return estimates[:done], scores[:done], estimates[done:], scores[done:]


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(0, 100), st.floats(0, 1), top_ks, st.floats(0, 0.5), st.floats(0, 0.5))
def test_further_reads_are_among_the_unread_and_no_fewer_where_less_may_be_missed(
    seed: int, done: int, tau: float, top_k: int, one: float, other: float
) -> None:
    estimates, scores, unread, _ = read_and_unread(seed, 400, done, tau)
    strict, loose = sorted((one, other))
    more = further_reads(estimates, scores, unread, top_k, strict)
    assert 0 <= further_reads(estimates, scores, unread, top_k, loose) <= more <= len(unread)
    if done < top_k:
        assert more == len(unread)


@given(seeds, st.sampled_from([3, 10, 25]), st.sampled_from([0.5, 2, 4]), st.floats(-1, 1))
def test_estimates_that_say_all_need_no_further_reads_in_any_unit(
    seed: int, top_k: int, scale: float, shift: float
) -> None:
    estimates, scores, unread, _ = read_and_unread(seed, 400, 50, 0.0)
    moved = [(it * np.float32(scale) + np.float32(shift)) for it in (estimates, unread)]
    assert further_reads(moved[0], scores, moved[1], top_k) <= 1  # the next may be equal


def test_estimates_that_say_nothing_leave_all_rows_alike() -> None:
    estimates, _, unread, _ = read_and_unread(0, 2_000, 100, 0.0)
    scores = np.random.default_rng(1).standard_normal(100).astype(np.float32)
    assert further_reads(estimates, scores, unread, 10) > 1_800
    constant = np.full(100, 1, dtype=np.float32)
    assert further_reads(constant, scores, np.full(1_900, 1, dtype=np.float32), 10) > 1_800


@pytest.mark.parametrize("tau", [0.02, 0.05, 0.1, 0.3])
def test_what_is_missed_after_further_reads_is_about_the_share_that_may_be(tau: float) -> None:
    """Whatever the noise, which nobody is told: read on as far as it says, ask again, 40 times."""
    missed, needed = [], []
    for seed in range(40):
        estimates, scores, unread, theirs = read_and_unread(seed, 4_000, 40, tau)
        while more := further_reads(estimates, scores, unread, 10, 0.02):
            estimates, unread = np.concatenate([estimates, unread[:more]]), unread[more:]
            scores, theirs = np.concatenate([scores, theirs[:more]]), theirs[more:]
        due = np.sort(np.concatenate([scores, theirs]))[-10]
        missed.append((theirs >= due).sum() / 10)
        needed.append(len(scores))
    assert np.mean(missed) <= 0.03
    assert np.mean(needed) < 4_000 * (0.1 if tau < 0.1 else 1)


def test_equal_codes_have_no_noise_and_still_get_their_reads() -> None:
    bits = np.full((400, 8), 5, dtype=np.uint8)
    query = np.full(64, 0.125, dtype=np.float32)
    assert noise(query, bits) == 0
    assert noise(query, bits[:1]) == 0
    assert noise(query, bits[:0]) == 0
    assert reads(np.empty(0, dtype=np.float32), 0.0, 10) == 0
    assert reads(asymmetric_scores(query, bits), 0.0, 10) == READS_MAX


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_noise_is_that_of_the_bits_on_which_the_pool_disagrees(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    query = random.standard_normal(64).astype(np.float32)
    bits = random.integers(0, 256, (rows, 8), dtype=np.uint8)
    bits[:, :4] = 77
    still = query.copy()
    still[:32] = 0
    assert noise(query, bits) == pytest.approx(noise(still, bits))
    assert noise(2 * query, bits) == pytest.approx(2 * noise(query, bits))


def test_noise_of_two_opposite_codes_is_that_of_a_sample_of_two() -> None:
    query = np.full(64, 0.125, dtype=np.float32)
    bits = np.array([[85] * 8, [170] * 8], dtype=np.uint8)
    assert noise(query, bits) == pytest.approx(math.sqrt(2 * (1 - 2 / math.pi)))


def test_noise_of_random_codes_is_that_of_a_gaussian_vector_whose_signs_are_taken() -> None:
    random = np.random.default_rng(0)
    query = normalize(random.standard_normal((1, 1024)).astype(np.float32), 1024)[0]
    bits = random.integers(0, 256, (400, 128), dtype=np.uint8)
    assert noise(query, bits) == pytest.approx(math.sqrt(1 - 2 / math.pi), rel=0.02)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_the_normal_distribution_is_near_enough(x: np.ndarray) -> None:
    exact = [0.5 * math.erfc(-value / math.sqrt(2)) for value in x.tolist()]
    np.testing.assert_allclose(adaptive._normal_cdf(x), exact, atol=2e-4)


def test_on_vectors_of_uneven_density_it_beats_fixed_reads_of_the_same_average() -> None:
    random = np.random.default_rng(0)
    dimension, kept = 128, 10
    centers = random.standard_normal((40, dimension))
    spread = np.geomspace(0.2, 1.5, 40)
    cluster = random.integers(0, 40, 4_000)
    vectors = centers[cluster] + spread[cluster, None] * random.standard_normal((4_000, dimension))
    documents = normalize(vectors[:3_900].astype(np.float32), dimension)
    queries = normalize(vectors[3_900:].astype(np.float32), dimension)
    calibration = Calibration.from_sample(documents, dimension)
    codes, _ = calibration.quantize(documents)
    bits = calibration.bits(codes)
    exact = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :kept]
    asked = query_bits(queries)
    ranks, chosen = [], []
    for query, its_bits, true in zip(queries, asked, exact, strict=True):
        distances = np.bitwise_count(bits ^ its_bits).sum(axis=1, dtype=np.int64)
        pool = np.argsort(distances, kind="stable")[:400]
        estimates = asymmetric_scores(query, bits[pool])
        order = best_first(estimates, pool, 400)
        ranks.append([np.flatnonzero(pool[order] == row) for row in true])
        chosen.append(reads(estimates[order], noise(query, bits[pool]), kept, missed=0.0085))

    def found(counts: list[int]) -> float:
        pairs = zip(ranks, counts, strict=True)
        return float(np.mean([(rank < n).sum() for those, n in pairs for rank in those]))

    average = round(float(np.mean(chosen)))
    missed, missed_by_fixed = 1 - found(chosen), 1 - found([average] * len(chosen))
    assert missed < 0.7 * missed_by_fixed
    assert missed < 0.02


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 19, 21, 100, 401, 800]),
    st.integers(4, 70),
    st.sampled_from([1, 3, 10, 45]),
    st.floats(0, 8),
)
def test_a_kernel_reads_what_numpy_would(
    seed: int, rows: int, row_bytes: int, top_k: int, spread: float
) -> None:
    """One row more or less where the sum of chances is the limit to seven digits."""
    random = np.random.default_rng(seed)
    query = random.standard_normal(8 * row_bytes).astype(np.float32)
    query /= np.linalg.norm(query)
    vectors = random.standard_normal((rows, 8 * row_bytes)).astype(np.float32)
    vectors += np.float32(spread) * random.random((rows, 1), dtype=np.float32) * query
    vectors[rows // 2 :] = vectors[: rows - rows // 2]  # equal estimates are ordered by row
    numbers = random.permutation(10 * rows)[:rows].astype(np.int64)
    bits = np.packbits(vectors > 0, axis=1)
    with going("faiss"):
        estimates, places = rows_to_read(query, bits, numbers, top_k)
    with going("best"):
        found, chosen = rows_to_read(query, bits, numbers, top_k)
    np.testing.assert_array_equal(found, estimates)
    assert abs(len(chosen) - len(places)) <= 1
    shorter = min(len(chosen), len(places))
    np.testing.assert_array_equal(chosen[:shorter], places[:shorter])
