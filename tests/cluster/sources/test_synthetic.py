"""Synthetic vectors: the same for ever, unit length, clustered as the embeddings of texts are."""

from __future__ import annotations

import functools
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.cluster.sources.synthetic import (
    BLOCK_ROWS,
    SyntheticSpec,
    synthetic_block,
    synthetic_queries,
    write_npy,
)
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import Calibration, query_bits

SPEC = SyntheticSpec(3 * BLOCK_ROWS, dim=72, seed=5)


@functools.cache
def whole() -> np.ndarray:
    return synthetic_block(SPEC, 0, SPEC.rows)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("synthetic:10M", SyntheticSpec(10_000_000)),
        ("synthetic:1.5k,seed=7", SyntheticSpec(1_500, seed=7)),
        ("synthetic:40m,dim=384,seed=1", SyntheticSpec(40_000_000, 384, 1)),
        ("synthetic:12", SyntheticSpec(12)),
    ],
)
def test_a_source_is_a_number_of_rows_and_options(text: str, spec: SyntheticSpec) -> None:
    assert SyntheticSpec.parse(text) == spec
    assert SyntheticSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    ["synthetic:", "synthetic:0", "synthetic:ten", "synthetic:1k,width=3", "synthetic:1k,dim=0",
     "synthetic:1k,seed=-1", "synthetic:1k,dim"],
)  # fmt: skip
def test_another_source_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match="synthetic:"):
        SyntheticSpec.parse(text)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, SPEC.rows), st.integers(0, SPEC.rows))
def test_any_rows_are_the_same_wherever_the_cut_is(first: int, stop: int) -> None:
    first, stop = sorted((first, stop))
    assert np.array_equal(synthetic_block(SPEC, first, stop - first), whole()[first:stop])


def test_a_smaller_corpus_of_the_same_seed_is_the_head_of_a_larger_one() -> None:
    large = SyntheticSpec(SPEC.rows * 100, SPEC.dim, SPEC.seed)
    assert np.array_equal(synthetic_block(large, 100, 50), synthetic_block(SPEC, 100, 50))
    other = SyntheticSpec(SPEC.rows, SPEC.dim, SPEC.seed + 1)
    assert not np.array_equal(synthetic_block(other, 100, 50), synthetic_block(SPEC, 100, 50))


def test_the_rows_of_a_seed_never_change_between_versions() -> None:
    row = synthetic_block(SyntheticSpec(10, dim=64, seed=3), 9, 1)[0]
    assert row[:3] == pytest.approx([0.060675, 0.074, 0.049117], abs=1e-5)


def test_vectors_have_unit_length_and_queries_are_not_in_the_corpus() -> None:
    corpus, queries = synthetic_block(SPEC, 0, SPEC.rows), synthetic_queries(SPEC, 50)
    assert corpus.dtype == queries.dtype == np.float32
    for vectors in (corpus, queries):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (queries @ corpus.T).max() < 0.9999
    assert np.array_equal(queries[:10], synthetic_queries(SPEC, 10))


def test_the_file_holds_the_rows(tmp_path: Path) -> None:
    spec = SyntheticSpec(BLOCK_ROWS + 10, dim=40)
    write_npy(spec, tmp_path / "v.npy")
    assert np.array_equal(np.load(tmp_path / "v.npy"), synthetic_block(spec, 0, spec.rows))


def test_neighbours_exist_at_every_distance_and_bits_find_them() -> None:
    """The bounds are far from what was measured: they tell this from noise and from tight blobs."""
    spec = SyntheticSpec(5 * BLOCK_ROWS, dim=512, seed=1)
    corpus, queries = synthetic_block(spec, 0, spec.rows), synthetic_queries(spec, 100)
    scores = np.sort(queries @ corpus.T, axis=1)[:, ::-1]
    at_ranks = np.median(scores[:, [0, 9, 99, 999]], axis=0)
    assert (np.diff(at_ranks) < -0.03).all(), at_ranks
    assert 0.5 < at_ranks[1] < 0.8
    variances = np.linalg.eigvalsh(np.cov(corpus.T))
    assert 10 < variances.sum() ** 2 / (variances**2).sum() < 60  # of 512 dimensions
    calibration = Calibration.from_sample(corpus, spec.dim)
    flat = faiss.IndexBinaryFlat(spec.dim)
    flat.add(calibration.bits(calibration.quantize(corpus)[0]))
    _, rows = flat.search(query_bits(queries), 40)
    exact = np.argsort(-(queries @ corpus.T), axis=1)[:, :10]
    found = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), rows.tolist(), strict=True)]
    assert 0.7 < np.mean(found) / 10 < 0.99
