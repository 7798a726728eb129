"""What a shard is sent and sends back comes out as it went in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shard_worker.errors import ChecksumMismatch
from shard_worker.types import Candidates, Document, Mode, Query
from shard_worker.wire import (
    pack_candidates,
    pack_documents,
    pack_queries,
    unpack_candidates,
    unpack_documents,
    unpack_queries,
)

WIDTH = 16


def assert_same(found: object, expected: object) -> None:
    for field in dataclasses.fields(expected):  # type: ignore[arg-type]
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert type(ours) is type(theirs), field.name
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype


def some_candidates(count: int, seed: int) -> Candidates:
    random = np.random.default_rng(seed)
    return Candidates(
        shard=3,
        rows=random.integers(0, 2**40, count),
        distances=random.integers(0, WIDTH, count, dtype=np.int32),
        hamming_ranks=random.integers(1, 400, count, dtype=np.int32),
        estimates=random.standard_normal(count).astype(np.float32),
        codes=random.integers(-128, 128, (count, WIDTH), dtype=np.int8),
        corrupt=seed % 2,
        documents={5: Document("five", "", "text", {"n": 1})} if seed % 2 else {},
    )


def test_queries_keep_every_field() -> None:
    random = np.random.default_rng(0)
    options = [
        {},
        {"candidates": 7, "mode": Mode.EXHAUSTIVE, "nprobe": 9, "top_k": 77},
        {"mode": Mode.APPROXIMATE, "with_documents": True},
    ]
    queries = [
        Query(random.standard_normal(WIDTH).astype(np.float32), **given)  # type: ignore[arg-type]
        for given in options
    ]
    for found, expected in zip(unpack_queries(pack_queries(queries)), queries, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("counts", [[5], [0], [3, 0, 40, 1], [0, 0]])
def test_candidates_keep_every_field_whatever_their_number(counts: list[int]) -> None:
    answers = [some_candidates(count, seed) for seed, count in enumerate(counts)]
    for found, expected in zip(unpack_candidates(pack_candidates(answers)), answers, strict=True):
        assert_same(found, expected)


def test_documents_and_the_errors_between_them_keep_their_places() -> None:
    first = Document("1", "title", "text 🕷️", {"tags": ["a", 1.5, None], "deep": {"b": True}}, 12)
    error = ChecksumMismatch("row 7 of shard 3 is damaged")
    found = unpack_documents(pack_documents([first, error, first]))
    assert (found[0], found[2]) == (first, first)
    assert isinstance(found[1], ChecksumMismatch)
    assert found[1].message == error.message
    assert unpack_documents(pack_documents([])) == []
