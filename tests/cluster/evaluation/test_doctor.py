"""The doctor on vectors whose illness is known, and its statistics on numbers made up for them."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from bitsift.cluster.evaluation.doctor import CANDIDATES, Diagnosis, diagnose, recommend
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import Transform, normalize

DIMENSION = 128


def healthy(rows: int, seed: int = 0) -> np.ndarray:
    """Clustered vectors without a common direction."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((150, DIMENSION))
    vectors = centres[random.integers(0, 150, rows)] + 0.8 * random.standard_normal(
        (rows, DIMENSION)
    )
    return vectors.astype(np.float32)


def shifted(vectors: np.ndarray) -> np.ndarray:
    """The same with a strong common direction: most signs are then the same for all."""
    common = np.random.default_rng(7).standard_normal(DIMENSION)
    return vectors + (3 * common).astype(np.float32)


def examined(vectors: np.ndarray, target: float = 0.9) -> Diagnosis:
    units = normalize(vectors, DIMENSION)
    return diagnose(units[100:], units[:100], queries_are_documents=True, target=target)


@pytest.fixture(scope="module")
def of_shifted() -> Diagnosis:
    return examined(shifted(healthy(1_600)))


@pytest.fixture(scope="module")
def of_healthy() -> Diagnosis:
    return examined(healthy(1_600))


def test_centring_is_recommended_where_the_vectors_share_a_direction(
    of_shifted: Diagnosis,
) -> None:
    assert of_shifted.recommended is not None
    assert of_shifted.recommended.transform is Transform.CENTER
    gain = of_shifted.transforms[Transform.CENTER].gain_at_40
    assert gain is not None
    assert gain.low > 0
    assert "transform center with" in of_shifted.reason


def test_no_transform_is_recommended_where_none_wins_by_more_than_noise(
    of_healthy: Diagnosis,
) -> None:
    assert of_healthy.recommended is not None
    assert of_healthy.recommended.transform is Transform.NONE


def test_biased_bits_are_counted_and_centring_mends_them(
    of_shifted: Diagnosis, of_healthy: Diagnosis
) -> None:
    ill, mended = (of_shifted.transforms[t].bits for t in (Transform.NONE, Transform.CENTER))
    assert ill.biased > DIMENSION / 3
    assert ill.effective < 0.6 * DIMENSION
    assert (mended.dead, mended.biased) == (0, 0)
    assert mended.effective == pytest.approx(DIMENSION, abs=1)
    assert of_healthy.transforms[Transform.NONE].bits.biased < DIMENSION / 20


def test_a_dead_bit_is_named_by_its_dimension() -> None:
    vectors = healthy(1_000)
    vectors[:, 17] = 5
    bits = examined(vectors).transforms[Transform.NONE].bits
    assert bits.dead == 1
    assert bits.worst[0] == 17


def test_more_candidates_never_lower_recall_and_intervals_hold_the_mean(
    of_healthy: Diagnosis,
) -> None:
    for report in of_healthy.transforms.values():
        means = [report.recall[count].mean for count in CANDIDATES]
        assert means == sorted(means)
        assert all(e.low <= e.mean <= e.high for e in report.recall.values())
        assert report.recall[20].mean <= report.adaptive.mean <= report.recall[160].mean
        assert 20 <= report.adaptive_reads <= 160


def test_a_target_that_nothing_reaches_is_refused_with_the_best_that_was_found() -> None:
    found = examined(shifted(healthy(1_600)), target=1.0)
    assert found.recommended is None
    assert found.reason.startswith("no setting reaches recall@10 1.0: the best is 0.")
    data = orjson.loads(orjson.dumps(found.to_json()))
    assert data["recommended"] is None
    assert data["transforms"]["center+rotate"]["recall"].keys() == {"20", "40", "80", "160"}


def test_a_sample_that_says_too_little_is_refused() -> None:
    units = normalize(healthy(499), DIMENSION)
    with pytest.raises(InvalidRequest, match="at least 500 and 30 are needed"):
        diagnose(units, units[:40], queries_are_documents=True, target=0.9)


# --- the choice, on recalls made up for it --------------------------------------------------------


def recalls(**by_transform: list[float]) -> dict[Transform, dict[int, np.ndarray]]:
    """Mean recall at 20, 40, 80, 160 for each transform, with the same noise for all queries."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(400)
    noise -= noise.mean()
    means = {Transform(name.replace("_", "+")): values for name, values in by_transform.items()}
    lowest = [0.5] * len(CANDIDATES)
    return {
        t: {c: m + noise for c, m in zip(CANDIDATES, means.get(t, lowest), strict=True)}
        for t in Transform
    }


def test_the_fewest_candidates_that_reach_the_target_are_chosen() -> None:
    chosen = recommend(recalls(none=[0.90, 0.97, 0.985, 0.99]), 0.98)
    assert chosen is not None
    assert (chosen.transform, chosen.candidates) == (Transform.NONE, 80)


def test_a_transform_that_needs_fewer_candidates_beyond_noise_replaces_none() -> None:
    found = recalls(none=[0.90, 0.97, 0.985, 0.99], center=[0.95, 0.983, 0.99, 0.99])
    chosen = recommend(found, 0.98)
    assert chosen is not None
    assert (chosen.transform, chosen.candidates) == (Transform.CENTER, 40)


def test_a_transform_that_is_better_within_noise_only_is_passed_over() -> None:
    found = recalls(none=[0.90, 0.979, 0.985, 0.99], rotate=[0.90, 0.981, 0.985, 0.99])
    random = np.random.default_rng(1)
    found[Transform.ROTATE][40] = random.permutation(found[Transform.ROTATE][40])
    chosen = recommend(found, 0.98)
    assert chosen is not None
    assert (chosen.transform, chosen.candidates) == (Transform.NONE, 80)


def test_the_simpler_of_two_transforms_that_do_as_well_is_chosen() -> None:
    found = recalls(center=[0.9, 0.985, 0.99, 0.99], center_rotate=[0.9, 0.985, 0.99, 0.99])
    chosen = recommend(found, 0.98)
    assert chosen is not None
    assert chosen.transform is Transform.CENTER


def test_nothing_is_recommended_where_nothing_reaches_the_target() -> None:
    assert recommend(recalls(none=[0.5, 0.6, 0.7, 0.8]), 0.98) is None
