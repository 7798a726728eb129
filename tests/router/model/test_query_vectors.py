"""The vectors of queries: encoded once, remembered within a limit, counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bitsift.errors import InvalidRequest, Unavailable
from bitsift.router.description import IndexDescription, ModelSpec
from bitsift.router.metrics import Metrics
from bitsift.router.model.query_vectors import (
    BATCH_CHARACTERS_MAX,
    REMEMBERED_CHARACTERS_MAX,
    TEXT_CHARACTERS,
    QueryVectors,
)
from bitsift.shard_worker.codes import Calibration
from tests.fakes import HASH_MODEL, UUID, HashEncoder

DIMENSION = 64


class CountingEncoder(HashEncoder):
    """A HashEncoder that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(DIMENSION)
        self.batches: list[list[str]] = []

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        if "thirteen" in texts:
            raise Unavailable("thirteen")
        return super().encode_queries(texts)


def vectors_of(
    encoder: HashEncoder | None, remembered: int, model: ModelSpec | None = None
) -> QueryVectors:
    sample = HashEncoder(DIMENSION).encode_queries(["a", "b"])
    calibration = Calibration.from_sample(sample, DIMENSION)
    description = IndexDescription("test", UUID, "", 1, calibration, model)
    return QueryVectors(description, encoder, remembered, Metrics())


def ask(vectors: QueryVectors, *texts: str) -> list[np.ndarray]:
    """One after the other."""

    async def scenario() -> list[np.ndarray]:
        return [await vectors.of(text) for text in texts]

    return asyncio.run(scenario())


def test_a_text_asked_again_is_not_encoded_again() -> None:
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=10)
    first, other, again = ask(vectors, "one", "two", "one")
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(other, encoder.encode_documents(["two"])[0])
    assert encoder.batches[:2] == [["one"], ["two"]]
    assert vectors.cache_facts() == {"entries": 2, "entries_max": 10, "hits": 1, "misses": 2}
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 1.0


def test_the_least_recently_used_is_forgotten_at_the_limit() -> None:
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=2)
    ask(vectors, "one", "two", "one", "three", "one", "two")
    assert encoder.batches == [["one"], ["two"], ["three"], ["two"]]
    assert vectors.cache_facts()["entries"] == 2


def test_a_cache_of_zero_remembers_nothing() -> None:
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=0)
    ask(vectors, "one", "one")
    assert encoder.batches == [["one"], ["one"]]
    assert vectors.cache_facts() == {"entries": 0, "entries_max": 0, "hits": 0, "misses": 2}


def test_a_batch_of_the_encoder_is_small_enough_to_be_left_behind() -> None:
    """What was given up is encoded no further than to the end of the batch that has begun."""
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=0)
    texts = [f"short {n}" for n in range(20)] + ["long" * 100 + str(n) for n in range(3)]
    texts.append("e" * (BATCH_CHARACTERS_MAX + 1))

    async def scenario() -> None:
        await asyncio.gather(*map(vectors.of, texts))

    asyncio.run(scenario())
    assert [len(batch) for batch in encoder.batches] == [16, 5, 1, 1, 1]
    assert [text for batch in encoder.batches for text in batch] == texts
    for batch in encoder.batches[:-1]:
        assert sum(len(text) + TEXT_CHARACTERS for text in batch) <= BATCH_CHARACTERS_MAX


def test_the_same_text_asked_by_many_at_once_is_encoded_once() -> None:
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=0)

    async def together() -> list[np.ndarray]:
        return await asyncio.gather(*(vectors.of(text) for text in ["a", "b", "a", "b", "a"]))

    found = asyncio.run(together())
    assert encoder.batches == [["a", "b"]]
    for place, vector in enumerate(found):
        np.testing.assert_array_equal(vector, found[place % 2])


def test_another_encoder_is_asked_anew() -> None:
    vectors = vectors_of(CountingEncoder(), remembered=10)
    ask(vectors, "one")
    vectors.encoder = encoder = CountingEncoder()
    ask(vectors, "one")
    assert encoder.batches == [["one"]]


def test_a_failure_is_not_remembered() -> None:
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=10)
    for _ in range(2):
        with pytest.raises(Unavailable, match="thirteen"):
            ask(vectors, "thirteen")
    assert encoder.batches == [["thirteen"], ["thirteen"]]


def test_without_an_encoder_it_is_said_whether_one_will_come() -> None:
    with pytest.raises(Unavailable, match="still loading"):
        ask(vectors_of(None, 10, model=HASH_MODEL), "one")
    with pytest.raises(InvalidRequest, match="search with a vector"):
        ask(vectors_of(None, 10), "one")


def test_a_text_that_is_too_long_to_be_remembered_is_encoded_again() -> None:
    encoder = CountingEncoder()
    vectors = vectors_of(encoder, remembered=10)
    kept, long = "x" * REMEMBERED_CHARACTERS_MAX, "x" * (REMEMBERED_CHARACTERS_MAX + 1)
    ask(vectors, kept, long, kept, long)
    assert encoder.batches == [[kept], [long], [long]]
    assert vectors.cache_facts()["entries"] == 1


class ForgetfulEncoder(CountingEncoder):
    """Has no vector for a text with "xyzzy" in it."""

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        found = super().encode_queries(texts)
        found[["xyzzy" in text for text in texts]] = np.nan
        return found

    encode_documents = encode_queries


def test_a_query_without_a_vector_fails_alone_and_is_not_remembered() -> None:
    encoder = ForgetfulEncoder()
    vectors = vectors_of(encoder, remembered=10)

    async def scenario() -> list[Any]:
        asked = ("a", "xyzzy", "b", "xyzzy")
        return await asyncio.gather(*map(vectors.of, asked), return_exceptions=True)

    a, bad, b, again = asyncio.run(scenario())
    assert encoder.batches == [["a", "xyzzy", "b"]]
    for good in (a, b):
        assert np.linalg.norm(good) == pytest.approx(1)
    for refused in (bad, again):
        assert isinstance(refused, InvalidRequest)
        assert "no vector for this text" in refused.message
    assert vectors.cache_facts()["entries"] == 2


def test_a_passage_without_a_vector_is_none_in_its_place() -> None:
    vectors = vectors_of(ForgetfulEncoder(), remembered=0)
    a, none, b = asyncio.run(vectors.of_passages(["a", "xyzzy", "b"]))
    assert none is None
    assert a is not None
    assert b is not None
