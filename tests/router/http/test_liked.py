"""More like this over HTTP, several shards: by brute force over the decoded codes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from bitsift.checked import checked_search
from bitsift.client import AsyncClient, Client
from bitsift.cluster.cli import main as cli
from bitsift.errors import InvalidRequest, NotFound
from bitsift.options import LIKED_MAX, SearchOptions
from bitsift.router.liked import LENGTH_MIN, Liked, moved
from bitsift.router.shards.fanout import FanOut
from tests.fakes import HashEncoder
from tests.served_documents import ALL, DIMENSION, EVERY_CODE, Served, serving

IDS = [f"d{number}" for number in range(120)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("liked")) as running:
        running.write({key: {"number": place} for place, key in enumerate(IDS)})
        yield running


def search(served: Served, **options: Any) -> list[tuple[str, float]]:
    """Ids and scores of all hits; the body has no query unless ``options`` have one."""
    body = {"top_k": ALL, **EVERY_CODE, **options}
    answer = httpx.post(f"{served.running.url}/v1/search", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert not answer.json()["partial"]
    return [(hit["id"], hit["score"]) for hit in answer.json()["hits"]]


def vectors(served: Served) -> dict[str, np.ndarray]:
    """The unit vector of each document."""
    found = {}
    for shard in served.shards:
        for key in served.documents:
            if shard._current.store.find(key) is not None:
                code = shard.document(key, fields=frozenset(["vector"])).code
                units = shard._calibration.decode(np.frombuffer(code, np.int8)[None])[0]
                found[key] = units / np.linalg.norm(units)
    assert found.keys() == served.documents.keys()
    return found


def check(
    served: Served,
    hits: Sequence[tuple[str, float]],
    query: np.ndarray | None,
    like: Sequence[str],
    unlike: Sequence[str] = (),
    kept: bool = False,
) -> None:
    """``hits`` are all but the given documents, and their scores those of Rocchio's vector."""
    known = vectors(served)
    wanted = np.zeros(DIMENSION) if query is None else query.astype(np.float64)
    if like:
        wanted = wanted + 0.75 * sum(known[key] for key in like) / len(like)
    if unlike:
        wanted = wanted - 0.15 * sum(known[key] for key in unlike) / len(unlike)
    wanted /= np.linalg.norm(wanted)
    given = set() if kept else {*like, *unlike}
    assert {key for key, _ in hits} == served.documents.keys() - given
    assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)
    lengths = {key: np.linalg.norm(_decoded(served, key)) for key in known}
    for key, score in hits:
        assert score == pytest.approx(float(wanted @ known[key]) * lengths[key], abs=2e-6)


def _decoded(served: Served, key: str) -> np.ndarray:
    for shard in served.shards:
        if shard._current.store.find(key) is not None:
            code = shard.document(key, fields=frozenset(["vector"])).code
            return np.asarray(shard._calibration.decode(np.frombuffer(code, np.int8)[None])[0])
    raise AssertionError(key)


def test_the_query_is_moved_as_rocchio_says(served: Served) -> None:
    chance = random.Random(4)
    (query,) = HashEncoder(DIMENSION).encode_queries(["a question"])
    for number in range(12):
        chosen = chance.sample(sorted(served.documents), 5)
        like, unlike = chosen[: chance.randint(1, 3)], chosen[3 : 3 + chance.randint(0, 2)]
        mode = chance.choice(["auto", "exact", "exhaustive"])
        check(served, search(served, like=like, mode=mode), None, like)
        options: dict[str, Any] = {"like": like, "unlike": unlike, "mode": mode}
        check(served, search(served, **options), None, like, unlike)
        check(served, search(served, query="a question", **options), query, like, unlike)
        beside = search(served, vector=query.tolist(), unlike=unlike)
        check(served, beside, query, [], unlike)
        kept = search(served, query="a question", keep_liked=True, **options)
        check(served, kept, query, like, unlike, kept=True)
        if number % 4 == 3:
            served.write({key: {"number": number} for key in chance.sample(IDS, 20)})
            served.delete(chance.sample(sorted(served.documents), 3))


def test_it_is_like_itself_most_and_the_answer_is_full_without_it(served: Served) -> None:
    key = sorted(served.documents)[0]
    hits = search(served, like=[key], keep_liked=True, top_k=3)
    assert hits[0][0] == key
    assert hits[0][1] == pytest.approx(1, abs=0.02)
    assert search(served, like=[key], top_k=2) == hits[1:]


def test_an_id_that_there_is_not_is_a_404_that_names_it(served: Served) -> None:
    url = f"{served.running.url}/v1/search"
    key = sorted(served.documents)[0]
    body = {"like": [key, "nobody"], "unlike": ["none"]}
    answer = httpx.post(url, json=body, timeout=60)
    assert answer.status_code == 404
    assert "not: 'nobody', 'none'" in answer.json()["detail"]
    many = httpx.post(url, json={"like": [f"x{at}" for at in range(9)]}, timeout=60)
    assert "'x4' and 4 more" in many.json()["detail"]
    with Client(served.running.url) as client, pytest.raises(NotFound, match="'nobody'"):
        client.search(like=["nobody"])


def test_documents_that_cancel_each_other_out_have_no_direction(tmp_path: Path) -> None:
    (vector,) = HashEncoder(DIMENSION).encode_queries(["a"])
    with serving(tmp_path) as running:
        given = [("a", vector), ("b", -vector)]
        documents = [{"id": key, "text": "", "vector": it.tolist()} for key, it in given]
        url = running.running.url
        httpx.post(f"{url}/v1/documents", json={"documents": documents}).raise_for_status()
        answer = httpx.post(f"{url}/v1/search", json={"like": ["a", "b"]}, timeout=60)
        assert answer.status_code == 422
        assert "cancel each other out" in answer.json()["detail"]
        assert httpx.post(f"{url}/v1/search", json={"like": ["a"]}).status_code == 200


def test_what_is_left_of_the_vectors_has_a_length_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = np.array([1, 0, 0, 0], np.float32)

    def left(length: float) -> list[float]:
        async def means(*_: object) -> list[Any]:
            return [(length - 1) * query.astype(np.float64)]

        async def ask() -> Any:
            return await moved(query, SearchOptions(), None, (None, None), 0.0, liked)  # type: ignore[arg-type]

        liked = Liked()
        monkeypatch.setattr(liked, "means", means)
        return list(asyncio.run(ask()))

    assert left(LENGTH_MIN * 1.001) == [1, 0, 0, 0]
    with pytest.raises(InvalidRequest, match="cancel each other out"):
        left(LENGTH_MIN * 0.999)


def test_every_surface_takes_documents_in_the_place_of_a_text(served: Served) -> None:
    key = sorted(served.documents)[0]
    expected = [name for name, _ in search(served, like=[key], top_k=5)]
    options: Any = {"like": [key], "top_k": 5, **EVERY_CODE}
    answer = httpx.get(f"{served.running.url}/v1/search", params=options, timeout=60)
    assert [hit["id"] for hit in answer.json()["hits"]] == expected
    with Client(served.running.url) as client:
        assert [hit.id for hit in client.search(**options).hits] == expected

    async def ask() -> None:
        async with AsyncClient(served.running.url) as client:
            assert [hit.id for hit in (await client.search(**options)).hits] == expected

    asyncio.run(ask())
    arguments = ["search", "--like", key, "--top-k", "5", "--candidates", "1000", "--json"]
    run = CliRunner().invoke(cli.app, [*arguments, "--url", served.running.url])
    assert run.exit_code == 0, run.output
    assert [name for name in expected if f'"id": "{name}"' in run.output] == expected


def test_several_texts_read_what_they_should_be_like_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, document = list[str](), FanOut.document

    async def counted(self: FanOut, document_id: str, *rest: Any) -> Any:
        read.append(document_id)
        return await document(self, document_id, *rest)

    monkeypatch.setattr(FanOut, "document", counted)
    texts = ["one text", "another", "and a third"]
    with Client(served.running.url) as client:
        together = client.search_many(texts, like=["d1", "d2"], unlike=["d3"])
        assert sorted(read) == ["d1", "d2", "d3"]
        for text, answer in zip(texts, together, strict=True):
            alone = client.search(text, like=["d1", "d2"], unlike=["d3"])
            assert answer.hits == alone.hits
        with pytest.raises(NotFound, match="nobody"):
            client.search_many(texts, like=["d1", "nobody"])


def test_no_text_is_encoded_for_it(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        running.write({"a": {}, "b": {}})
        running.running.service.encoder = None
        assert [key for key, _ in search(running, like=["a"])] == ["b"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "exactly one of query, queries and vector, not none; or like"),
        ({"unlike": ["a"]}, "exactly one of query, queries and vector, not none; or like"),
        ({"query": "a", "vector": [1.0], "like": ["a"]}, "exactly one"),
        ({"query": "a", "like": "a"}, "like: "),
        ({"query": "a", "like": [True]}, "like.0: "),
        ({"query": "a", "like": [""]}, "like.0: "),
    ],
)
def test_what_is_no_search_is_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        checked_search(body)


def test_so_many_documents_are_liked_at_most() -> None:
    ids = [str(number) for number in range(LIKED_MAX)]
    checked_search({"like": ids})
    checked_search({"like": ids[1:], "unlike": ids[:1]})
    checked_search({"queries": ["a"] * LIKED_MAX, "like": ids[:1]})
    for beyond, said in (
        ({"like": [*ids, "x"]}, "like: .*100"),
        ({"like": ids, "unlike": ["x"]}, "have 101 ids"),
        ({"queries": ["a"] * (LIKED_MAX // 2 + 1), "like": ids[:2]}, "have 102 ids"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            checked_search(beyond)
