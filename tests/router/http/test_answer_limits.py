"""An answer has a budget: 16 MiB, 10,000 hits; what is over it is the caller's to narrow."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from bitsift.options import HITS_MAX, SearchOptions
from bitsift.router import answer_bytes
from bitsift.router.answer_bytes import ANSWER_BYTES_MAX
from bitsift.router.http import answer_json
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.codes import normalize
from tests.commands import wait_until
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
LONG_BYTES = 512 << 10
ROWS = 120
EQUAL = 60
"""So many documents have one and the same vector: all of them are the best hit."""
PLAIN = {"Accept-Encoding": "identity"}
"""These texts are nothing when they are compressed."""
ROOT = Path(__file__).parents[3]


def texts() -> list[str]:
    """Long texts, one after the other compressible: an index of 60 MiB of text is small."""
    return [f"{number:>8} " * (LONG_BYTES // 9) for number in range(ROWS)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    random = np.random.default_rng(3)
    units = normalize(random.standard_normal((ROWS, DIMENSION)).astype(np.float32), DIMENSION)
    units[:EQUAL] = units[0]
    folder = tmp_path_factory.mktemp("large")
    shards, calibration = make_shards(folder, units, DIMENSION, 2, texts())
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    running.vector = units[0].tolist()  # type: ignore[attr-defined]
    yield running
    assert running.service.memory.held_bytes == 0, "an answer did not give back what it held"
    running.stop()
    for shard in shards:
        shard.close()


def post(gateway: Running, **body: object) -> httpx.Response:
    asked = {"timeout_ms": 60_000, **body}
    return httpx.post(f"{gateway.url}/v1/search", json=asked, headers=PLAIN, timeout=120)


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    assert (answer.status_code, answer.json()["type"]) == (status, f"bitsift:{kind}"), answer.text
    return str(answer.json()["detail"])


def test_an_answer_over_the_limit_is_the_callers_to_narrow(gateway: Running) -> None:
    for body in ({"queries": list("abcd"), "top_k": 60}, {"query": "a", "top_k": 60}):
        detail = refused(post(gateway, **body), 422, "InvalidRequest")
        assert "include" in detail
        assert "top_k" in detail
        assert f"{ANSWER_BYTES_MAX:,}" in detail


def test_the_same_hits_without_their_texts_are_answered(gateway: Running) -> None:
    for include in ([], ["title"], ["title", "metadata"]):
        answer = post(gateway, queries=list("abcd"), top_k=60, include=include)
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [len(result["hits"]) for result in results] == [60] * 4
        assert not any(result["partial"] for result in results)


def test_as_much_as_fits_is_answered_whole(gateway: Running) -> None:
    most = (ANSWER_BYTES_MAX - 100_000) // LONG_BYTES
    answer = post(gateway, query="a", top_k=most)
    assert answer.status_code == 200
    expected = texts()
    assert [hit["text"] == expected[int(hit["id"])] for hit in answer.json()["hits"]] == [
        True
    ] * most
    assert int(answer.headers["content-length"]) == len(answer.content) <= ANSWER_BYTES_MAX
    assert not answer.json()["partial"]
    refused(post(gateway, query="a", top_k=most + 1), 422, "InvalidRequest")


def test_the_queries_of_a_request_share_its_bytes(gateway: Running) -> None:
    assert post(gateway, queries=list("abcd"), top_k=7).status_code == 200
    refused(post(gateway, queries=list("abcde"), top_k=7), 422, "InvalidRequest")


def test_equal_scores_do_not_count_beyond_top_k(gateway: Running) -> None:
    """Sixty equal documents of 512 KiB are cut by their ids before their texts are read."""
    answer = post(gateway, vector=gateway.vector, top_k=5)  # type: ignore[attr-defined]
    assert answer.status_code == 200
    hits = answer.json()["hits"]
    assert [hit["id"] for hit in hits] == sorted(map(str, range(EQUAL)))[:5]
    assert [hit["text"] for hit in hits] == [texts()[int(hit["id"])] for hit in hits]


def test_more_hits_than_a_request_may_ask_for_are_refused(gateway: Running) -> None:
    queries = HITS_MAX // 1_000
    assert post(gateway, queries=["a"] * queries, top_k=1_000, include=[]).status_code == 200
    detail = refused(
        post(gateway, queries=["a"] * (queries + 1), top_k=1_000), 422, "InvalidRequest"
    )
    assert "10,000" in detail


def test_answers_under_way_hold_no_more_than_their_memory(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.service.memory, "_bytes_max", 4 * LONG_BYTES)
    assert post(gateway, query="a", top_k=3).status_code == 200
    answer = post(gateway, query="a", top_k=5)
    assert "try again" in refused(answer, 429, "Overloaded")
    assert "retry-after" in answer.headers
    assert gateway.service.memory.held_bytes == 0


def test_a_client_that_does_not_take_its_answer_is_given_up(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_json, "SEND_TIMEOUT_S", 0.5)
    with httpx.stream(
        "POST",
        f"{gateway.url}/v1/search",
        json={"query": "a", "top_k": 30},
        headers=PLAIN,
        timeout=60,
    ) as answer:
        assert answer.status_code == 200
        for _ in range(200):
            if gateway.service.memory.held_bytes == 0:
                break
            time.sleep(0.05)
        assert gateway.service.memory.held_bytes == 0
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


def test_pieces_are_the_json_of_the_whole(gateway: Running) -> None:
    async def answers() -> list[object]:
        ask = [SearchOptions(query=name, top_k=3, explain=name == "a") for name in "abc"]
        return [await gateway.service.search(question) for question in ask]

    found: list[Any] = asyncio.run(answers())
    whole, one = orjson.dumps({"results": found}), orjson.dumps(found[0])
    assert b"".join(answer_json._pieces(found[:1], several=False)) == one
    assert b"".join(answer_json._pieces(found, several=True)) == whole
    assert found == [], "freed where they were written, not in the event loop"


@pytest.mark.parametrize(("several", "trims"), [(1, 0), (3, 1)])
def test_memory_is_given_back_after_large_answers_only(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, several: int, trims: int
) -> None:
    trimmed: list[bool] = []
    monkeypatch.setattr(answer_json, "give_back", lambda: trimmed.append(True))
    answer = post(gateway, queries=["a"] * several, top_k=1)
    assert len(answer.content) > answer_json.SMALL_BYTES
    assert (len(answer.content) > answer_json.TRIMMED_BYTES_MIN) == bool(trims)
    assert wait_until(lambda: len(trimmed) == trims, 10)


def test_the_worst_legal_searches_take_no_more_ram_than_documented(tmp_path: Path) -> None:
    """In a process of its own: the gateway and its shards, and clients elsewhere."""
    for step in ("build", "measure"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.router.http.worst_answers", step, str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["answered"] == [200], found
    assert found["refused"] == [422], found
    budget = answer_bytes.RAM_PER_ANSWER_BYTE * ANSWER_BYTES_MAX
    assert found["grown_bytes"] <= 1.2 * budget, found
