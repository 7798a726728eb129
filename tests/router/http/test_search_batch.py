"""POST /v1/search/batch: each search is answered as it would be alone, or fails alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift import AsyncClient, Client
from bitsift.errors import BitsiftError, DeadlineExceeded, InvalidRequest
from bitsift.options import HITS_MAX, LIKED_MAX, QUERIES_MAX
from bitsift.results import Answer
from bitsift.router import answer_bytes
from bitsift.router.http.search_batch import STEPS_MAX, cut
from bitsift.router.shards.local import LocalLink
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
JSON = {"content-type": "application/json"}
TEXTS = [f"a text about number {i}" for i in range(60)]
VECTOR = HashEncoder(DIMENSION).encode_queries(["something else"])[0].tolist()
GOOD: list[dict[str, Any]] = [
    {"query": TEXTS[3], "top_k": 3},
    {"vector": VECTOR, "mode": "exhaustive", "explain": True},
    {"query": TEXTS[4], "filter": {"number": {"$lt": 9}}, "include": ["title"], "limit": 2},
    {"query": TEXTS[5], "filter": "number >= 50", "offset": 2, "explain": True},
    {"query": TEXTS[3], "min_score": 0.9, "candidates": 60},
    {"like": ["3", "4"], "unlike": ["5"], "include": ["vector"]},
    {"query": 'brackets ]} and "quotes" \\', "exclude": ["1", "2"], "timeout_ms": 60_000},
]
BAD: list[tuple[Any, str]] = [
    ({"query": ""}, "query"),
    ({"query": "x", "top_k": 0}, "top_k"),
    ({"query": "x", "topk": 3}, "did you mean top_k"),
    ({"queries": ["x", "y"]}, "each search of a batch is one"),
    ({"vector": VECTOR[:-1]}, "dimension"),
    ({"query": "x", "filter": {"a": {"$gtt": 1}}}, "$gt"),
    ({"query": "x", "limit": 3, "top_k": 4}, "limit and top_k"),
    ({}, "exactly one"),
    ([], "object"),
    ("x", "object"),
    (None, "object"),
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    folder = tmp_path_factory.mktemp("batch")
    shards, calibration = make_shards(folder, units, DIMENSION, 2, TEXTS)
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()


def batch(gateway: Running, *searches: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{gateway.url}/v1/search/batch", json={"searches": searches}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    assert len(found) == len(searches)
    return found


def alone(gateway: Running, search: Any) -> dict[str, Any]:
    body = json.dumps(search).encode()
    answer = httpx.post(f"{gateway.url}/v1/search", content=body, headers=JSON, timeout=60)
    found: dict[str, Any] = answer.json()
    return found


def untimed(answer: dict[str, Any]) -> str:
    """All of an answer but its times, as it is written."""
    return json.dumps({name: value for name, value in answer.items() if name != "timings_ms"})


def test_answers_are_those_of_single_calls_to_the_last_bit(gateway: Running) -> None:
    together = batch(gateway, *GOOD)
    for search, answer in zip(GOOD, together, strict=True):
        assert answer["hits"], search
        assert untimed(answer) == untimed(alone(gateway, search)), search
        assert answer["timings_ms"]["total"] > 0
    assert len(together[0]["hits"]) == 3
    assert len(together[2]["hits"]) == 2
    assert together[3]["filter"] is not None


@pytest.mark.slow
def test_large_answers_are_the_same_too(gateway: Running) -> None:
    searches = [{"query": text, "top_k": 60} for text in TEXTS[:20]]
    wrong = {"query": " "}
    found = batch(gateway, *searches[:10], wrong, *searches[10:])
    assert found.pop(10)["status"] == 422
    for search, answer in zip(searches, found, strict=True):
        assert untimed(answer) == untimed(alone(gateway, search))


@pytest.mark.parametrize(("wrong", "said"), BAD, ids=[str(bad)[:30] for bad, _ in BAD])
def test_a_bad_search_fails_alone_with_the_problem_that_it_would_have_alone(
    gateway: Running, wrong: Any, said: str
) -> None:
    first, problem, last = batch(gateway, GOOD[0], wrong, GOOD[1])
    assert untimed(first) == untimed(alone(gateway, GOOD[0]))
    assert untimed(last) == untimed(alone(gateway, GOOD[1]))
    assert (problem["type"], problem["status"]) == ("bitsift:InvalidRequest", 422)
    assert problem["outcome"] == "not_done"
    assert said in problem["detail"]
    if not (isinstance(wrong, dict) and "queries" in wrong):
        assert problem == alone(gateway, wrong)


def test_broken_json_within_a_search_is_its_own_fault(gateway: Running) -> None:
    body = b'{"searches": [{"query": "x"}, {"query": x}, {"query": "y"}]}'
    answer = httpx.post(f"{gateway.url}/v1/search/batch", content=body, headers=JSON)
    first, problem, last = answer.json()["results"]
    assert first["hits"]
    assert last["hits"]
    assert "JSON" in problem["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b'{"searches": []}', b'{"searches": {}}', b'{"searches": [{}', b"\xff",
        b'{"searches": [{}], "mode": "exact"}', b'{"searches": [{}]} x', b'{"queries": ["x"]}',
        b'{"searches": [{"query": "x"},]}', b'{"searches": [{"query": "x"}, , {"query": "y"}]}',
        b'{"searches": [' + b"[" * 2_000, b'{"searches": [{"query": "x}]}',
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_whole_is_a_422(gateway: Running, body: bytes) -> None:
    answer = httpx.post(f"{gateway.url}/v1/search/batch", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (422, "bitsift:InvalidRequest")
    assert "searches" in answer.json()["detail"], answer.text


@pytest.mark.slow
def test_a_batch_has_so_many_searches_hits_and_ids_at_most(gateway: Running) -> None:
    def status(searches: list[dict[str, Any]]) -> int:
        body = {"searches": searches}
        return httpx.post(f"{gateway.url}/v1/search/batch", json=body, timeout=60).status_code

    small = {"query": "x", "top_k": 1, "include": []}
    assert status([small] * QUERIES_MAX) == 200
    assert status([small] * (QUERIES_MAX + 1)) == 422
    deep = {"query": "x", "top_k": 1_000, "include": []}
    assert status([deep] * (HITS_MAX // 1_000)) == 200
    assert status([*[deep] * (HITS_MAX // 1_000), small]) == 422
    ids = {**small, "exclude": [str(n) for n in range(1_000)]}
    assert status([ids] * (HITS_MAX // 1_000)) == 200
    assert status([*[ids] * (HITS_MAX // 1_000), {**small, "exclude": ["1"]}]) == 422
    liked = {**small, "like": [str(n) for n in range(LIKED_MAX // 2)]}
    assert status([liked] * 2) == 200
    assert status([liked, liked, {**small, "unlike": ["1"]}]) == 422


def test_cutting_a_body_takes_so_many_steps_at_most() -> None:
    one = b'{"a":"\\"' + b'","\\"' * (STEPS_MAX // 2 - 10) + b'"}'
    assert cut(b'{"searches":[%b]}' % one) == [one]
    many = b'{"a":"\\"' + b'","\\"' * STEPS_MAX + b'"}'
    with pytest.raises(InvalidRequest, match="too many"):
        cut(b'{"searches":[%b]}' % many)


@given(st.lists(st.dictionaries(st.text(), st.text() | st.lists(st.integers())), min_size=1))
def test_a_body_is_cut_where_a_parser_would(searches: list[Any]) -> None:
    for indent in (None, 1):
        body = json.dumps({"searches": searches}, indent=indent).encode()
        if len(searches) <= QUERIES_MAX:
            assert [json.loads(one) for one in cut(body)] == searches


def test_each_search_has_its_own_deadline(gateway: Running) -> None:
    started = time.monotonic()
    late, answer = batch(gateway, {**GOOD[0], "timeout_ms": 0.001}, GOOD[0])
    assert time.monotonic() - started < 30
    assert late["status"] in (429, 504)
    assert late["outcome"] == "not_done"
    assert answer["hits"]


def test_one_whose_documents_have_no_room_fails_alone(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_bytes, "ANSWER_BYTES_MAX", 2_000)
    large = {"query": "x", "top_k": 60}
    small, problem = batch(gateway, {"query": "x", "top_k": 1}, large)
    assert small["hits"]
    assert problem["status"] == 422
    assert "the answer would hold" in problem["detail"]
    assert gateway.service.memory.held_bytes == 0


def test_an_error_that_nobody_foresaw_fails_alone(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = gateway.service.search

    async def failing(options: Any, held: Any = None, *, together: bool = False) -> Answer:
        if options.top_k == 7:
            raise ZeroDivisionError
        return await search(options, held, together=together)

    monkeypatch.setattr(gateway.service, "search", failing)
    answer, problem = batch(gateway, {"query": "x"}, {"query": "x", "top_k": 7})
    assert answer["hits"]
    assert (problem["status"], problem["type"]) == (500, "bitsift:InternalError")


def test_parameters_belong_into_the_body(gateway: Running) -> None:
    body = {"searches": [GOOD[0]]}
    answer = httpx.post(f"{gateway.url}/v1/search/batch?top_k=3", json=body)
    assert answer.status_code == 422


# --- clients ------------------------------------------------------------------------------------


def check_clients_answers(found: list[Answer | BitsiftError], first: Answer, last: Answer) -> None:
    one, local, refused, late, other = found
    assert isinstance(one, Answer)
    assert one.hits == first.hits
    assert isinstance(local, InvalidRequest)
    assert isinstance(refused, InvalidRequest)
    assert "dimension" in refused.message
    assert isinstance(late, DeadlineExceeded | BitsiftError)
    assert isinstance(other, Answer)
    assert other.hits == last.hits


SENT: list[dict[str, Any]] = [
    {"query": TEXTS[3], "top_k": 2},
    {"query": "x", "topk": 2},
    {"vector": [1.0, 2.0]},
    {"query": TEXTS[3], "timeout_ms": 0.001},
    {"vector": np.array(VECTOR, dtype=np.float32), "filter": {"number": 7}},
]


def test_both_clients_have_answers_and_errors_in_their_places(gateway: Running) -> None:
    with Client(gateway.url) as client:
        first, last = client.search(**SENT[0]), client.search(**SENT[4])
        check_clients_answers(client.search_batch(SENT), first, last)
        check_clients_answers(client.search_batch(iter(SENT)), first, last)
        assert client.search_batch([]) == []
        (two,) = client.search_batch([{"query": "x", "limit": 2}])
        assert isinstance(two, Answer)
        assert len(two.hits) == 2
        only_wrong = client.search_batch([{"query": ""}, 5])  # type: ignore[list-item]
        assert [type(one) for one in only_wrong] == [InvalidRequest] * 2
        for wrong in ("x", {"query": "x"}, 5):
            with pytest.raises(InvalidRequest, match="several searches"):
                client.search_batch(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="1 to 100"):
            client.search_batch([{"query": "x"}] * 101)

    async def ask() -> None:
        async with AsyncClient(gateway.url) as client:
            check_clients_answers(await client.search_batch(SENT), first, last)
            assert await client.search_batch([]) == []

    asyncio.run(ask())


def test_a_client_that_reads_its_writes_sends_the_token_with_each(gateway: Running) -> None:
    with Client(gateway.url, read_your_writes=True) as client:
        client.add({"id": "new", "text": "a text that is new"})
        found = client.search_batch([{"query": "a text that is new", "top_k": 1}] * 3)
        assert [one.hits[0].id for one in found if isinstance(one, Answer)] == ["new"] * 3
        client.delete("new")
