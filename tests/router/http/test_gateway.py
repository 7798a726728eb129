"""The HTTP interface: a real uvicorn on loopback, real shards, the real client."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift.client import AsyncClient, Client
from bitsift.errors import InvalidRequest, ShardUnavailable, Unavailable
from bitsift.router.http.gateway import BODY_BYTES_MAX
from bitsift.router.shards.local import LocalLink
from tests.fakes import BrokenLink, HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(300)]


@pytest.fixture(scope="module")
def units() -> np.ndarray:
    return HashEncoder(DIMENSION).encode_documents(TEXTS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, units: np.ndarray) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    shards, calibration = make_shards(folder, units, DIMENSION, 2, TEXTS)
    links = [LocalLink(s) for s in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, units: np.ndarray) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("broken")
    shards, calibration = make_shards(folder, units, DIMENSION, 2, TEXTS)
    dead = BrokenLink(ShardUnavailable("shard 1 is failed: no disk"))
    links = [LocalLink(shards[0]), dead]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()


def post(gateway: Running, body: object) -> httpx.Response:
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    headers = {"content-type": "application/json"}
    return httpx.post(f"{gateway.url}/v1/search", content=content, headers=headers)


def test_a_text_finds_its_document_by_post_and_by_get(gateway: Running) -> None:
    posted = post(gateway, {"query": TEXTS[5], "top_k": 3}).json()
    assert posted["hits"][0]["text"] == TEXTS[5]
    assert len(posted["hits"]) == 3
    assert posted["coverage"] == {"shards": 2, "answered": 2, "failures": []}
    assert posted["partial"] is False
    assert set(posted["timings_ms"]) == {"encode", "fan_out", "rescore", "texts", "total"}
    got = httpx.get(f"{gateway.url}/v1/search", params={"q": TEXTS[5], "top_k": 3}).json()
    assert got["hits"] == posted["hits"]
    options: dict[str, Any] = {"q": TEXTS[5], "candidates": 5, "include": "title", "explain": True}
    titled = httpx.get(f"{gateway.url}/v1/search", params=options).json()["hits"][0]
    assert titled["title"] == "title 5"
    assert titled["text"] is None
    assert titled["explain"]["int8"]["rank"] == 1


def test_several_queries_are_answered_in_order(gateway: Running) -> None:
    results = post(gateway, {"queries": TEXTS[:20], "top_k": 1}).json()["results"]
    assert [result["hits"][0]["text"] for result in results] == TEXTS[:20]


def test_a_vector_finds_what_its_text_finds(gateway: Running, units: np.ndarray) -> None:
    by_vector = post(gateway, {"vector": (units[9] * 3).tolist()}).json()
    by_text = post(gateway, {"query": TEXTS[9]}).json()
    assert by_text["hits"][0]["id"] == "9"
    assert [hit["id"] for hit in by_vector["hits"]] == [hit["id"] for hit in by_text["hits"]]


def test_explain_shows_the_rank_and_score_of_each_stage(gateway: Running) -> None:
    hit = post(gateway, {"query": TEXTS[5], "explain": True}).json()["hits"][0]
    assert hit["explain"]["hamming"] == {
        "rank": 1,
        "distance": hit["explain"]["hamming"]["distance"],
    }
    assert hit["explain"]["int8"] == {"rank": 1, "score": hit["score"]}
    assert hit["explain"]["asymmetric"]["rank"] == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        {},
        {"query": ""},
        {"query": "  "},
        {"query": None},
        {"query": 5},
        {"query": "x" * 1_000_000},
        '{"query": "\\ud800"}',
        b'{"query": "\xff\xfe"}',
        {"query": "a", "vector": [1.0]},
        {"query": "a", "queries": ["b"]},
        {"query": "a", "top_k": 0},
        {"query": "a", "top_k": -1},
        {"query": "a", "top_k": 10**30},
        {"query": "a", "top_k": 2.5},
        {"query": "a", "top_k": "10"},
        {"query": "a", "unknown": 1},
        {"query": "a", "mode": "magic"},
        {"query": "a", "include": ["code"]},
        {"query": "a", "timeout_ms": 0},
        {"queries": []},
        {"queries": ["a"] * 101},
        {"queries": ["a", ""]},
        {"vector": []},
        {"vector": [1.0] * 63},
        {"vector": [0.0] * 64},
        {"vector": ["1"] * 64},
        '{"vector": [' + ",".join(["NaN"] * 64) + "]}",
        '{"vector": [' + ",".join(["Infinity"] * 64) + "]}",
        '{"vector": [' + ",".join(["1e400"] * 64) + "]}",
        '{"vector": [' + ",".join(["9" * 400] * 64) + "]}",
        '{"vector": ' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
)
def test_a_bad_body_is_a_422_problem_never_a_500(gateway: Running, body: object) -> None:
    response = post(gateway, body)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert problem["type"] == "bitsift:InvalidRequest"
    assert problem["detail"]


@pytest.mark.parametrize("text", ["🕷️" * 20, "عنكبوت", "nul\x00byte", "e\u0301", "a\u202eb"])
def test_any_unicode_text_is_answered_the_same_each_time(gateway: Running, text: str) -> None:
    first, second = (post(gateway, {"query": text}).json() for _ in range(2))
    assert first["hits"] == second["hits"]
    assert len(first["hits"]) == 10


def test_a_body_over_the_limit_is_refused_announced_or_not(gateway: Running) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65_536 + 4):
            yield b" " * 65_536

    assert post(gateway, b" " * (BODY_BYTES_MAX + 1)).status_code == 413
    assert (
        httpx.post(
            f"{gateway.url}/v1/search",
            content=chunks(),
            headers={"content-type": "application/json"},
        ).status_code
        == 413
    )
    assert post(gateway, {"query": "still here"}).status_code == 200


def test_unknown_routes_and_methods_are_problems_too(gateway: Running) -> None:
    for response in (httpx.get(f"{gateway.url}/v2"), httpx.delete(f"{gateway.url}/v1/search")):
        assert response.status_code in (404, 405)
        assert response.headers["content-type"] == "application/problem+json"


def test_a_dead_shard_makes_the_answer_partial_or_a_503_on_demand(broken: Running) -> None:
    partial = post(broken, {"query": "a"})
    assert partial.status_code == 200
    assert partial.json()["partial"] is True
    assert partial.json()["coverage"]["failures"][0]["shard"] == 1
    assert {hit["shard"] for hit in partial.json()["hits"]} == {0}
    complete = post(broken, {"query": "a", "require_complete": True})
    assert complete.status_code == 503
    assert complete.headers["retry-after"]
    assert complete.json()["type"] == "bitsift:ShardUnavailable"


def test_the_index_says_how_far_a_load_is(gateway: Running, broken: Running) -> None:
    total = 2 * len(TEXTS)
    gateway.service.loading_total = broken.service.loading_total = total
    try:
        index = httpx.get(f"{gateway.url}/v1/index").json()
        assert index["loading"] == {"done": len(TEXTS), "total": total}
        index = httpx.get(f"{broken.url}/v1/index").json()
        assert 0 < index["loading"]["done"] == index["documents"] < len(TEXTS)
        gateway.service.loading_total = 10  # the others were added by hand meanwhile
        index = httpx.get(f"{gateway.url}/v1/index").json()
        assert index["loading"] == {"done": 10, "total": 10}
    finally:
        gateway.service.loading_total = broken.service.loading_total = None


def test_status_routes_say_how_it_is(gateway: Running, broken: Running) -> None:
    index = httpx.get(f"{gateway.url}/v1/index").json()
    assert index["documents"] == len(TEXTS)
    assert index["memory"]["float32_bytes"] == len(TEXTS) * DIMENSION * 4
    assert index["memory"]["ratio"] == 32.0
    assert index["examples"] == ["one", "two"]
    assert index["loading"] is None
    assert httpx.get(f"{gateway.url}/livez").status_code == 200
    assert httpx.get(f"{gateway.url}/readyz").status_code == 200
    states = [s["state"] for s in httpx.get(f"{broken.url}/v1/cluster").json()["shards"]]
    assert states == ["READY", "UNREACHABLE"]


def test_the_operator_sees_what_the_query_cache_spares(gateway: Running) -> None:
    def cache() -> dict[str, int]:
        return dict(httpx.get(f"{gateway.url}/v1/cluster").json()["encoder"]["query_cache"])

    before = cache()
    first, second = (post(gateway, {"query": "asked twice"}).json() for _ in range(2))
    after = cache()
    assert first["hits"] == second["hits"]
    assert after["misses"] - before["misses"] == 1
    assert after["hits"] - before["hits"] == 1
    assert after["entries"] == before["entries"] + 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/x-ndjson", 415),
        (None, 415),
    ],
)
def test_only_json_is_read_so_that_no_other_site_can_post(
    gateway: Running, kind: str | None, status: int
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = b'{"query": "a"}'
    response = httpx.post(f"{gateway.url}/v1/search", content=body, headers=headers)
    assert response.status_code == status
    if status == 415:
        assert response.json()["type"] == "bitsift:UnsupportedMediaType"
        assert "content type" in response.json()["detail"]


def test_a_wrong_field_is_named_by_its_place(gateway: Running) -> None:
    wrong = post(gateway, {"vector": [0.5, "x"], "top_k": 0}).json()["detail"]
    assert "vector.1: " in wrong
    assert "top_k: " in wrong


def test_the_description_of_the_interface_refers_to_nothing_that_it_lacks(
    gateway: Running,
) -> None:
    text = httpx.get(f"{gateway.url}/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    referred = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', text))
    assert "Mode" in referred
    assert referred <= set(schemas)
    body = json.loads(text)["paths"]["/v1/search"]["post"]["requestBody"]["content"]
    assert {"query", "queries", "vector"} <= set(body["application/json"]["schema"]["properties"])


def test_not_ready_until_the_encoder_is_loaded(gateway: Running) -> None:
    encoder, gateway.service.encoder = gateway.service.encoder, None
    try:
        response = httpx.get(f"{gateway.url}/readyz")
        assert response.status_code == 503
        assert "encoder" in response.json()["detail"]
        assert post(gateway, {"query": "a"}).status_code == 503
        assert httpx.get(f"{gateway.url}/livez").status_code == 200
    finally:
        gateway.service.encoder = encoder


def test_the_page_its_files_and_the_docs_are_served(gateway: Running) -> None:
    page = httpx.get(f"{gateway.url}/")
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert httpx.get(f"{gateway.url}/static/app.js").status_code == 200
    assert httpx.get(f"{gateway.url}/docs").status_code == 200
    assert "/v1/search" in httpx.get(f"{gateway.url}/openapi.json").json()["paths"]


def test_the_client_returns_typed_answers_and_raises_typed_errors(gateway: Running) -> None:
    with Client(gateway.url) as client:
        answer = client.search(TEXTS[3], top_k=2, explain=True)
        assert answer.hits[0].text == TEXTS[3]
        assert answer.hits[0].explain is not None
        assert [a.hits[0].text for a in client.search_many(TEXTS[:3])] == TEXTS[:3]
        assert client.index()["documents"] == len(TEXTS)
        assert len(client.cluster()["shards"]) == 2
        with pytest.raises(InvalidRequest, match="top_k"):
            client.search("a", top_k=0)
    with (
        pytest.raises(Unavailable, match="cannot be reached"),
        Client("http://127.0.0.1:9") as gone,
    ):
        gone.search("a")


def test_the_asynchronous_client_does_the_same(gateway: Running) -> None:
    async def scenario() -> None:
        async with AsyncClient(gateway.url) as client:
            answers = await asyncio.gather(*(client.search(text) for text in TEXTS[:40]))
            assert [answer.hits[0].text for answer in answers] == TEXTS[:40]
            assert len(await client.search_many(TEXTS[:2])) == 2

    asyncio.run(scenario())


def test_importing_the_client_loads_neither_ray_nor_faiss_nor_torch() -> None:
    script = (
        "import sys, bitsift; bitsift.Client; import bitsift.client;"
        "print([m for m in ('ray','faiss','torch','numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
