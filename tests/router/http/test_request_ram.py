"""What the worst requests of each route take in RAM, against the budgets that admission counts.

The router and the writer are one process here, so a budget is that of both together.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator

import httpx
import orjson
import pytest
import zstandard

from bitsift.router.http import bodies
from bitsift.router.http.document_stream import STREAM_RAM_BYTES
from bitsift.router.http.documents_schema import (
    DOCUMENT_BYTES_MAX,
    DOCUMENT_RAM_BYTES,
    LINE_BYTES_MAX,
    UPSERT_BYTES_MAX,
)
from bitsift.router.http.gateway import ADMIN_BODY_BYTES_MAX, BODY_BYTES_MAX
from bitsift.router.http.unpacking import WINDOW_BYTES_MAX
from tests.child_gateway import DIMENSION, Child, child_gateway
from tests.sweeps import covering

NOISE_BYTES = 8 << 20
"""What any request may add: pages of allocators, a thread's stack."""
DENSE = [b"[],", b'{"a":{}},', b'"ab",', b"1.5,", b"1,", b"[[[[[]]]]],", b'{"a":1,"b":2},']
NAMES = ["[],", '{"a":{}},', '"ab",', "1.5,", "1,", "[[[[[]]]]],", '{"a":1,"b":2},']


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_gateway(tmp_path_factory.mktemp("ram")) as child:
        yield child


def growth(
    gateway: Child, path: str, body: bytes, kind: str = "application/json", coding: str = "identity"
) -> int:
    """Bytes of RAM at the peak of one request over those before it."""
    before = gateway.ask("reset")["rss_bytes"]
    headers = {"content-type": kind, "content-encoding": coding}
    response = httpx.post(f"{gateway.url}{path}", content=body, headers=headers, timeout=120)
    assert response.status_code in (200, 400, 413, 422), response.text[:500]
    until = time.monotonic() + 30
    while not (after := gateway.ask("state"))["admissions_idle"]:  # the answer comes before that
        assert time.monotonic() < until
    print(
        f"{path} {response.status_code} {len(body):,}: +{(after['peak_bytes'] - before) >> 20} MiB"
    )
    return int(after["peak_bytes"] - before)


def filled(start: bytes, piece: bytes, end: bytes, size_bytes: int) -> bytes:
    """``size_bytes`` at most."""
    return start + piece * ((size_bytes - len(start) - len(end)) // len(piece)) + end


SEARCHES = [b'{"query":[', b'{"vector":[', b'{"include":[', b'{"queries":[']


@pytest.mark.parametrize(("start", "piece"), covering(SEARCHES, DENSE))
def test_a_search_that_is_refused(gateway: Child, start: bytes, piece: bytes) -> None:
    body = filled(start, piece, b"1]}", BODY_BYTES_MAX)
    assert growth(gateway, "/v1/search", body) <= 1.2 * (
        bodies.RAM_PER_BYTE * len(body) + NOISE_BYTES
    )


def test_a_search_that_is_answered(gateway: Child) -> None:
    queries = [f"{i} \N{SPIDER WEB}" + "é" * 8_000 for i in range(100)]
    body = orjson.dumps({"queries": queries, "top_k": 1})
    assert growth(gateway, "/v1/search", body) <= 1.2 * (
        bodies.RAM_PER_BYTE * len(body) + NOISE_BYTES
    )


@pytest.mark.parametrize(("start", "piece"), covering([b"", b'{"query":[', b'{"vector":['], DENSE))
def test_a_batch_that_is_refused_wholly_or_in_part(
    gateway: Child, start: bytes, piece: bytes
) -> None:
    end = b"1]}]}" if start else b"{}]}"
    body = filled(b'{"searches":[' + start, piece, end, BODY_BYTES_MAX)
    assert growth(gateway, "/v1/search/batch", body) <= 1.2 * (
        bodies.RAM_PER_BYTE * len(body) + NOISE_BYTES
    )


def test_a_batch_of_the_largest_searches(gateway: Child) -> None:
    numbers = b"[" + b",".join([b"1"] * 4_096) + b"]"
    body = b'{"searches":[' + b",".join([b'{"vector":%b}' % numbers] * 100) + b"]}"
    assert growth(gateway, "/v1/search/batch", body) <= 1.2 * (
        bodies.RAM_PER_BYTE * len(body) + NOISE_BYTES
    )


@pytest.mark.parametrize("piece", [*DENSE, b"key"], ids=[*NAMES, "keys"])
def test_a_body_of_the_other_routes(gateway: Child, piece: bytes) -> None:
    for path, start, limit in (
        ("/v1/documents/delete", b'{"ids":[', BODY_BYTES_MAX),
        ("/v1/admin/backup", b'{"dest":[', ADMIN_BODY_BYTES_MAX),
    ):
        if piece == b"key":
            keys = b",".join(b'"%d":1' % i for i in range(limit // 10))
            body = b"{%b}" % keys
        else:
            body = filled(start, piece, b"1]}", limit)
        budget = bodies.RAM_PER_BYTE * len(body) + NOISE_BYTES
        assert growth(gateway, path, body) <= 1.2 * budget


def test_a_delete_of_as_many_ids_as_allowed(gateway: Child) -> None:
    body = orjson.dumps({"ids": [f"{i} \N{SPIDER WEB}" + "x" * 190 for i in range(10_000)]})
    assert len(body) <= BODY_BYTES_MAX
    budget = (bodies.RAM_PER_BYTE + bodies.RAM_PER_BYTE) * len(body) + NOISE_BYTES
    assert growth(gateway, "/v1/documents/delete", body) <= 1.2 * budget


def upsert_budget(body: bytes) -> float:
    return 1.2 * (bodies.RAM_PER_BYTE * len(body) + DOCUMENT_RAM_BYTES + NOISE_BYTES)


@pytest.mark.parametrize("piece", [*DENSE, b'{"id":"a"},'], ids=[*NAMES, "documents"])
def test_documents_without_end(gateway: Child, piece: bytes) -> None:
    body = filled(b'{"documents":[', piece, b"1]}", 16 << 20)
    assert growth(gateway, "/v1/documents", body) <= upsert_budget(body)


@pytest.mark.parametrize("piece", DENSE, ids=NAMES)
def test_one_document_without_end(gateway: Child, piece: bytes) -> None:
    for size_bytes in (2 << 20, LINE_BYTES_MAX):
        start = b'{"documents":[{"id":"a","text":"b","metadata":{"m":['
        body = filled(start, piece, b"1]}}]}", size_bytes)
        assert growth(gateway, "/v1/documents", body) <= upsert_budget(body)


def test_one_document_of_the_largest_body(gateway: Child) -> None:
    for piece in DENSE[0], DENSE[2]:
        body = filled(b'{"documents":[{"id":"a","vector":[', piece, b"1]}]}", UPSERT_BYTES_MAX)
        assert growth(gateway, "/v1/documents", body) <= upsert_budget(body)


def test_documents_of_large_texts_that_take_four_bytes_a_character(gateway: Child) -> None:
    text = "\N{SPIDER WEB}" + "x" * (DOCUMENT_BYTES_MAX - 8)
    vector = [1.0] * DIMENSION
    documents = [{"id": str(i), "text": text, "vector": vector} for i in range(15)]
    body = orjson.dumps({"documents": documents})
    assert UPSERT_BYTES_MAX - DOCUMENT_BYTES_MAX - (1 << 20) < len(body) <= UPSERT_BYTES_MAX
    assert growth(gateway, "/v1/documents", body) <= upsert_budget(body)


def test_documents_of_many_small_keys(gateway: Child) -> None:
    metadata = {f"k{i}": i for i in range(160_000)}
    documents = [{"id": str(i), "text": "a", "metadata": metadata} for i in range(20)]
    body = orjson.dumps({"documents": documents})
    assert growth(gateway, "/v1/documents", body) <= upsert_budget(body)


@pytest.mark.parametrize("line", [b"5\n", b"{}\n", b"\n", b'{"id":"a","text":"b"}\n', b"[[[[["],
                         ids=["5", "{}", "blank", "documents", "no newline"])  # fmt: skip
def test_a_stream_of_any_lines(gateway: Child, line: bytes) -> None:
    """However long it is, what it takes is that of a block, or of its longest line."""
    body = line * ((24 << 20) // len(line))
    budget = STREAM_RAM_BYTES + NOISE_BYTES
    if b"\n" not in line:
        budget += bodies.RAM_PER_BYTE * LINE_BYTES_MAX
    path = "/v1/documents?results=errors"
    if line[:1] in (b"5", b"{"):
        body = body[: 1 << 19]  # each of them has an answer
        budget += 70 * len(body)  # which the client here reads late
    assert growth(gateway, path, body, "application/x-ndjson") <= 1.2 * budget


def test_a_stream_of_the_longest_lines(gateway: Child) -> None:
    text = "\N{SPIDER WEB}" + "x" * (DOCUMENT_BYTES_MAX - 200)
    document = {"id": "long", "text": text, "vector": [1.0] * DIMENSION}
    line = orjson.dumps(document)
    line = line[:-1] + b" " * (LINE_BYTES_MAX - len(line)) + b"}\n"
    budget = STREAM_RAM_BYTES + bodies.RAM_PER_BYTE * LINE_BYTES_MAX + NOISE_BYTES
    found = growth(gateway, "/v1/documents", line * 3, "application/x-ndjson")
    assert found <= 1.2 * budget


@pytest.mark.parametrize("kind", ["head", "body of a GET"])
def test_what_is_no_body(gateway: Child, kind: str) -> None:
    before = gateway.ask("reset")["rss_bytes"]
    if kind == "head":
        headers = {f"x-{i}": "a" * 400 for i in range(100)}
        assert httpx.get(f"{gateway.url}/livez", headers=headers).status_code == 200
    else:
        httpx.request("GET", f"{gateway.url}/livez", content=b"x" * (64 << 20), timeout=60)
    assert gateway.ask("state")["peak_bytes"] - before <= 1.2 * NOISE_BYTES


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_takes_what_a_body_of_its_route_may_take(gateway: Child, coding: str) -> None:
    data = b" " * (64 << 20)
    bomb = gzip.compress(data) if coding == "gzip" else zstandard.compress(data)
    most = bodies.RAM_PER_BYTE * BODY_BYTES_MAX + WINDOW_BYTES_MAX + NOISE_BYTES
    assert growth(gateway, "/v1/search", bomb, coding=coding) <= most < len(data)
