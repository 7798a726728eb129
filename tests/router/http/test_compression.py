"""Large answers are compressed for callers that take it, and hold the same."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.http import compression
from bitsift.router.http.compression import (
    ANSWER_BYTES_MIN,
    COMPRESSING_MAX,
    Compression,
    coding_of,
)
from tests.gateways import Running, running_texts

DIMENSION = 64
WORDS = "the quick brown fox jumps over the lazy dog and runs away "
TEXTS = [WORDS * 40 + str(i) for i in range(60)]
PLAIN = {"accept-encoding": "identity"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("large")
    with running_texts(folder, TEXTS, DIMENSION, 2) as running:
        yield running


def search(gateway: Running, coding: str, top_k: int) -> httpx.Response:
    body = {"query": TEXTS[3][:50], "top_k": top_k, "mode": "exact"}
    return httpx.post(f"{gateway.url}/v1/search", json=body, headers={"accept-encoding": coding})


def received(gateway: Running, coding: str, top_k: int) -> bytes:
    """The body as it came over the network."""
    body = {"query": TEXTS[3][:50], "top_k": top_k}
    with (
        httpx.Client(headers={"accept-encoding": coding}) as client,
        client.stream("POST", f"{gateway.url}/v1/search", json=body) as answer,
    ):
        return b"".join(answer.iter_raw())


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize(
    ("accepted", "chosen", "unpack"),
    [("gzip", "gzip", gzip.decompress), ("zstd", "zstd", unzstd), ("gzip, zstd", "zstd", unzstd)],
)
@pytest.mark.parametrize("top_k", [10, 60])
def test_a_large_answer_is_compressed_and_the_same(
    gateway: Running, accepted: str, chosen: str, unpack: Any, top_k: int
) -> None:
    answer = search(gateway, accepted, top_k)
    assert answer.headers["content-encoding"] == chosen
    assert answer.headers["vary"] == "Accept-Encoding"
    assert "content-length" not in answer.headers
    plain = search(gateway, "identity", top_k)
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding"
    assert answer.json()["hits"] == plain.json()["hits"]
    packed = received(gateway, accepted, top_k)
    assert len(packed) < len(plain.content) / 4
    assert unpack(packed).startswith(b'{"hits":[')


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/static/app.js", "/docs"])
def test_other_large_texts_are_compressed_too(gateway: Running, path: str) -> None:
    answer = httpx.get(f"{gateway.url}{path}", headers={"accept-encoding": "gzip"})
    plain = httpx.get(f"{gateway.url}{path}", headers=PLAIN)
    is_large = len(plain.content) >= ANSWER_BYTES_MIN
    assert (answer.headers.get("content-encoding") == "gzip") == is_large
    if path != "/metrics":
        assert answer.content == plain.content


def test_a_small_answer_an_error_and_a_head_are_not_compressed(gateway: Running) -> None:
    small = search(gateway, "gzip", 1)
    assert len(small.content) < ANSWER_BYTES_MIN
    assert "content-encoding" not in small.headers
    assert "vary" not in small.headers
    assert "content-encoding" not in search(gateway, "gzip", 0).headers
    head = httpx.head(f"{gateway.url}/openapi.json", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in head.headers


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None), ("identity", None), ("br", None), ("deflate", None), ("gzip", "gzip"),
        ("GZIP", "gzip"), ("gzip;q=0", None), ("gzip; q=0.5, zstd; q=0.4", "gzip"), ("*", "zstd"),
        ("*;q=0", None), ("gzip;q=0, *", "zstd"), ("zstd;q=0, *", "gzip"), ("gzip;q=x", None),
        ("br, gzip, zstd", "zstd"), ("x-gzip", None), ("gzip;q=nan", None),
    ],
)  # fmt: skip
def test_what_a_caller_takes(accepted: str, chosen: str | None) -> None:
    assert coding_of(accepted) == chosen


@given(st.text(alphabet="gzipstd,;q=01.* x"))
def test_any_header_is_read(accepted: str) -> None:
    assert coding_of(accepted) in (None, "gzip", "zstd")


def test_more_than_some_at_once_are_sent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the places are free again however an answer ends."""
    body, entered, go_on = b"x" * ANSWER_BYTES_MIN * 4, threading.Semaphore(0), threading.Event()

    class Slow:
        def compress(self, piece: bytes) -> bytes:
            entered.release()
            go_on.wait(30)
            return piece[:1]

        def flush(self) -> bytes:
            return b""

    monkeypatch.setitem(compression._COMPRESSORS, "gzip", Slow)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    around = Compression(app)
    scope = {"type": "http", "method": "GET", "http_version": "1.1",
             "headers": [(b"accept-encoding", b"gzip")]}  # fmt: skip

    async def ask() -> int:
        sent = list[bytes]()

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        await around(scope, None, send)  # type: ignore[arg-type]
        return sum(map(len, sent))

    async def scenario() -> None:
        busy = [asyncio.create_task(ask()) for _ in range(COMPRESSING_MAX)]
        deadline = time.monotonic() + 30
        for _ in busy:
            while not entered.acquire(blocking=False):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        assert await ask() == len(body)
        busy[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await busy[0]
        go_on.set()
        assert await asyncio.gather(*busy[1:]) == [1] * (COMPRESSING_MAX - 1)
        assert around._running == 0
        assert await ask() == 1

    asyncio.run(scenario())
