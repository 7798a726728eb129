"""Vectors in answers, and of documents by id: those that were written, as their codes have them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from bitsift.client import AsyncClient, Client
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.codes import Calibration, Transform, normalize
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import NUMBER_BYTES
from tests.fakes import HashEncoder, make_description, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 60
WIDTH = 64
DOCUMENTS = 50


class Served:
    """A gateway over two shards, with a calibration of ``transform``, and the vectors it has."""

    def __init__(self, folder: Path, transform: Transform, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(5)
        given = random.standard_normal((DOCUMENTS, DIMENSION)).astype(np.float32)
        self.vectors = normalize(given, DIMENSION)[:, :DIMENSION]
        padded = normalize(given, DIMENSION)
        made = Calibration.from_sample(padded, DIMENSION, transform)
        monkeypatch.setattr(Calibration, "from_sample", lambda *_: made)
        self.shards, self.calibration = make_shards(folder, made.units(given), DIMENSION, 2)
        links = [LocalLink(shard) for shard in self.shards]
        description = make_description(2, made)
        service = SearchService(description, FanOut(links), HashEncoder(DIMENSION))
        self.running = Running(service, make_writer(links, made))

    def search(self, **options: Any) -> httpx.Response:
        body = {"vector": self.vectors[3].tolist(), **options}
        return httpx.post(f"{self.running.url}/v1/search", json=body, timeout=60)

    def close(self) -> None:
        self.running.stop()
        for shard in self.shards:
            shard.close()

    def check(self, document_id: str, vector: Any) -> None:
        """It is the vector of that document, within half a step a number."""
        assert len(vector) == DIMENSION
        error = np.abs(np.array(vector) - self.vectors[int(document_id)])
        step = float(self.calibration.step.max())
        within = 0.51 * step * (1 if self.calibration.rotation_seed is None else DIMENSION**0.5)
        assert error.max() <= within
        assert float(np.linalg.norm(error)) <= 0.51 * step * DIMENSION**0.5


@pytest.fixture(params=list(Transform))
def served(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    running = Served(tmp_path, request.param, monkeypatch)
    yield running
    running.close()


def test_hits_have_the_vectors_that_were_written_on_every_page_and_surface(served: Served) -> None:
    for options in ({"top_k": 20}, {"top_k": 20, "offset": 15}, {"mode": "exhaustive"}):
        for include in (["vector"], ["title", "vector"], ["title", "text", "metadata", "vector"]):
            hits = served.search(include=include, **options).json()["hits"]
            assert len(hits) >= 10
            for hit in hits:
                served.check(hit["id"], hit["vector"])
                assert (hit["title"] is not None) is ("title" in include)
                cosine = np.array(hit["vector"]) @ served.vectors[3]
                assert hit["score"] == pytest.approx(min(1, cosine), abs=1e-5)
    assert {hit["vector"] for hit in served.search().json()["hits"]} == {None}
    parameters: Any = {"q": "a", "include": ["vector"], "limit": 3}
    answer = httpx.get(f"{served.running.url}/v1/search", params=parameters, timeout=60)
    for hit in answer.json()["hits"]:
        served.check(hit["id"], hit["vector"])
    with Client(served.running.url) as client:
        for found in client.search("a", include=["vector"]).hits:
            served.check(found.id, found.vector)


def test_a_document_by_id_comes_with_its_vector_where_it_is_asked_for(served: Served) -> None:
    url = f"{served.running.url}/v1/documents/7"
    plain, full = httpx.get(url), httpx.get(url, params={"include": "vector"})
    assert plain.json()["vector"] is None
    assert full.json() == {**plain.json(), "vector": full.json()["vector"]}
    served.check("7", full.json()["vector"])
    assert full.headers["etag"] != plain.headers["etag"]
    assert httpx.get(url, params={"include": "text"}).status_code == 422
    with Client(served.running.url) as client:
        served.check("7", client.get("7", include=["vector"]).vector)
        assert client.get("7").vector is None

    async def ask() -> None:
        async with AsyncClient(served.running.url) as client:
            served.check("7", (await client.get("7", include=["vector"])).vector)

    asyncio.run(ask())


def test_vectors_are_counted_in_an_answer_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted is at least what is sent, and beyond the limit no code is read."""
    served = Served(tmp_path, Transform.NONE, monkeypatch)
    read = list[int]()
    whole = Shard.read_each

    def noted(shard: Shard, reads: Any) -> Any:
        found: Any = whole(shard, reads)
        read.extend(len([it for it in one if getattr(it, "code", b"")]) for one in found)
        return found

    monkeypatch.setattr(Shard, "read_each", noted)
    monkeypatch.setattr("bitsift.router.answer_bytes.ANSWER_BYTES_MAX", 40 * WIDTH * NUMBER_BYTES)
    monkeypatch.setattr("bitsift.router.hits.FIRST_BYTES_MAX", 2)
    refused = served.search(include=["vector"], top_k=41)
    assert refused.status_code == 422
    assert "of include" in refused.json()["detail"]
    assert not sum(read)
    allowed = served.search(include=["vector"], top_k=38)
    assert allowed.status_code == 200
    assert sum(read) == 38
    assert served.running.service.memory.held_bytes == 0
    served.close()


def test_a_number_takes_no_more_than_is_counted_for_it() -> None:
    random = np.random.default_rng(1)
    bits = random.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    small = random.standard_normal(200_000).astype(np.float32) * np.float32(1e-4)
    numbers = np.concatenate([bits[np.isfinite(bits)], small])
    written = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    assert max(map(len, written)) + 1 <= NUMBER_BYTES


def test_a_vector_whose_code_is_damaged_is_an_error_and_the_document_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path, Transform.NONE, monkeypatch)
    url = f"{served.running.url}/v1/documents/7"

    def damaged(reader: Any, rows: Any, check: Any = None) -> Any:
        return np.zeros((len(rows), WIDTH), np.int8), np.zeros(len(rows), np.bool_)

    monkeypatch.setattr("bitsift.shard_worker.store.row_reader.RowReader.read_codes", damaged)
    assert httpx.get(url).status_code == 200
    answer = httpx.get(url, params={"include": "vector"})
    assert answer.status_code == 500
    assert "the code of row" in answer.json()["detail"]
    served.close()
