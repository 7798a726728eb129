"""A request of several texts: what the encoder is given together, and the order of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest

from bitsift.errors import InvalidRequest
from bitsift.options import SearchOptions
from bitsift.router.http.search_routes import QUESTIONS_PER_TURN, _answered
from bitsift.router.shards.local import LocalLink
from bitsift.router.turns import Turns
from tests.fakes import HashEncoder, make_service, make_shards

DIMENSION = 64
TEXTS = [f"{n} " + "a text about this and that " * (n * 7 % 16) for n in range(60)]


class NotingEncoder(HashEncoder):
    """A HashEncoder that keeps what it was given together."""

    def __init__(self) -> None:
        super().__init__(DIMENSION)
        self.batches: list[Sequence[str]] = []

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(texts)
        return super().encode_queries(texts)


def test_texts_of_like_length_are_encoded_together_and_answered_in_their_order(
    tmp_path: Path,
) -> None:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2, TEXTS)
    service = make_service([LocalLink(shard) for shard in shards], calibration)
    service.encoder = encoder = NotingEncoder()
    searches = [SearchOptions(text, top_k=1) for text in TEXTS]

    async def scenario() -> bytes:
        turns = Turns(QUESTIONS_PER_TURN)
        return bytes((await _answered(service, searches, turns, several=True)).body)

    results = orjson.loads(asyncio.run(scenario()))["results"]
    assert [result["hits"][0]["text"] for result in results] == TEXTS
    lengths = [len(text) for batch in encoder.batches for text in batch]
    assert lengths == sorted(map(len, TEXTS))
    assert len(encoder.batches) > len(TEXTS) // QUESTIONS_PER_TURN
    for shard in shards:
        shard.close()


def test_a_text_without_a_vector_is_named_by_its_place(tmp_path: Path) -> None:
    class ForgetfulEncoder(HashEncoder):
        def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
            found = super().encode_queries(texts)
            found[["xyzzy" in text for text in texts]] = np.nan
            return found

    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 1, TEXTS)
    service = make_service([LocalLink(shards[0])], calibration)
    service.encoder = ForgetfulEncoder(DIMENSION)
    searches = [SearchOptions(text, top_k=1) for text in ("a", "b", "xyzzy")]
    turns = Turns(QUESTIONS_PER_TURN)
    with pytest.raises(InvalidRequest, match=r"^queries\.2: the model has no vector"):
        asyncio.run(_answered(service, searches, turns, several=True))
    with pytest.raises(InvalidRequest, match="^query: the model has no vector"):
        asyncio.run(_answered(service, searches[2:], turns, several=False))
    shards[0].close()
