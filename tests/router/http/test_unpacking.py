"""Compressed bodies: read as those that are not, within the same limits, or refused with why."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from bitsift.errors import InvalidRequest, Overloaded
from bitsift.router.admission import Admission
from bitsift.router.http.documents_schema import NDJSON
from bitsift.router.http.gateway import BODY_BYTES_MAX
from bitsift.router.http.unpacking import (
    PADDING_BYTES_MAX,
    PIECE_BYTES,
    RAM_BYTES_MAX,
    WINDOW_BYTES_MAX,
    Unpacked,
)
from tests.gateways import Running, running_texts

CODINGS = ["gzip", "zstd"]
JSON = {"content-type": "application/json"}


def packed(data: bytes, coding: str) -> bytes:
    return gzip.compress(data) if coding == "gzip" else zstandard.compress(data)


def windowed(data: bytes, window_log: int) -> bytes:
    """A stream of zstd whose size is not said, and which looks back so far."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(data) + stream.flush()


def unpacked(
    chunks: Sequence[bytes], coding: str, admission: Admission | None = None
) -> list[bytes]:
    """The pieces in which a body comes that is received as ``chunks``."""
    admission = admission or Admission("compressed bodies", 0, RAM_BYTES_MAX)
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "more_body": False})
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    async def read() -> list[bytes]:
        pieces, more = list[bytes](), True
        with admission.hold() as held:
            body = Unpacked(receive, coding, held)
            while more:
                message = await body()
                pieces.append(message["body"])
                more = message["more_body"]
            assert admission.is_idle
            assert (await body())["type"] == "http.disconnect"
        return pieces

    try:
        return asyncio.run(read())
    finally:
        assert admission.is_idle


@given(st.binary() | st.binary(max_size=9).map(lambda it: it * 20_000), st.data())
def test_a_body_is_what_was_packed_however_it_is_cut(data: bytes, more: st.DataObject) -> None:
    coding = more.draw(st.sampled_from(CODINGS))
    sent = packed(data, coding)
    cuts = sorted(more.draw(st.lists(st.integers(0, len(sent)), max_size=9)))
    chunks = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    pieces = unpacked(chunks, coding)
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= PIECE_BYTES


@given(st.binary(max_size=300), st.data())
def test_one_that_is_damaged_is_refused_or_a_checksum_holds(
    data: bytes, more: st.DataObject
) -> None:
    coding = more.draw(st.sampled_from(CODINGS))
    sent = bytearray(packed(data, coding))
    at = more.draw(st.integers(0, len(sent) - 1))
    sent[at] ^= more.draw(st.integers(1, 255))
    try:
        unpacked([bytes(sent)], coding)
    except InvalidRequest as error:
        assert coding in str(error)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sent: sent[:-1], "ends before its data does"),
        (lambda sent: b"", "ends before its data does"),
        (lambda sent: sent + sent, "goes on behind its end"),
        (lambda sent: sent + b"\0", "goes on behind its end"),
        (lambda sent: b"{}" + sent, "is damaged"),
    ],
)
def test_what_is_no_whole_stream_is_refused(coding: str, change: Any, said: str) -> None:
    sent = change(packed(b'{"query": "a"}' * 99, coding))
    for chunks in ([sent], [sent[at : at + 1] for at in range(len(sent))]):
        with pytest.raises(InvalidRequest, match=said):
            unpacked(chunks, coding)


def test_a_stream_of_empty_blocks_ends() -> None:
    stream = zlib.compressobj(wbits=31)
    empty = stream.flush(zlib.Z_FULL_FLUSH) + b"\0\0\0\xff\xff" * (PADDING_BYTES_MAX // 5)
    with pytest.raises(InvalidRequest, match="more padding than data"):
        unpacked([empty] * 2, "gzip")


def test_a_stream_that_looks_back_far_is_refused_and_one_that_looks_back_less_is_counted() -> None:
    data = b"a text " * 20_000
    with pytest.raises(InvalidRequest, match="looks back over 8 MiB"):
        unpacked([windowed(data, WINDOW_BYTES_MAX.bit_length())], "zstd")
    sent = windowed(data, WINDOW_BYTES_MAX.bit_length() - 1)
    assert b"".join(unpacked([sent], "zstd")) == data
    with pytest.raises(Overloaded, match="compressed bodies in progress"):
        unpacked([sent], "zstd", Admission("compressed bodies", 0, WINDOW_BYTES_MAX))
    small = Admission("compressed bodies", 0, 1 << 19)
    assert b"".join(unpacked([packed(data, "zstd")], "zstd", small)) == data  # it says its size
    assert b"".join(unpacked([packed(data, "gzip")], "gzip", small)) == data


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_texts(tmp_path_factory.mktemp("unpacking"), ["a", "b", "c"], 64, 2) as running:
        yield running


def post(gateway: Running, path: str, body: bytes, coding: str, **more: str) -> httpx.Response:
    headers = {**JSON, "content-encoding": coding, **more}
    return httpx.post(f"{gateway.url}{path}", content=body, headers=headers, timeout=60)


@pytest.mark.parametrize("coding", [*CODINGS, "x-gzip", "GZIP"])
def test_every_body_may_be_compressed(gateway: Running, coding: str) -> None:
    def send(path: str, body: Any) -> Any:
        data = packed(json.dumps(body).encode(), "gzip" if "gzip" in coding.lower() else "zstd")
        answer = post(gateway, path, data, coding)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert len(send("/v1/search", {"query": "a", "top_k": 2})["hits"]) == 2
    document = {"id": f"of {coding}", "text": "a text " * 50_000}
    assert send("/v1/documents", {"documents": [document]})["created"] == 1
    assert httpx.get(f"{gateway.url}/v1/documents/of {coding}").json()["text"] == document["text"]
    assert send("/v1/documents/delete", {"ids": [document["id"]]})["deleted"] == 1
    assert send("/v1/documents/count", {})["count"] == 3


@pytest.mark.parametrize("coding", CODINGS)
def test_a_stream_of_documents_may_be_compressed(gateway: Running, coding: str) -> None:
    lines = b"".join(b'{"id": "s%d", "text": "a text"}\n' % n for n in range(5_000))
    kind = {"content-type": NDJSON}
    answer = post(gateway, "/v1/documents?results=errors", packed(lines, coding), coding, **kind)
    last = json.loads(answer.text.splitlines()[-1])
    assert (last["error"], last["totals"]["created"]) == (None, 5_000)
    cut = packed(lines, coding)[:-20]
    answer = post(gateway, "/v1/documents?results=errors", cut, coding, **kind)
    assert "ends before" in json.loads(answer.text.splitlines()[-1])["error"]["detail"]
    ids = [f"s{n}" for n in range(5_000)]
    done = httpx.post(f"{gateway.url}/v1/documents/delete", json={"ids": ids}, timeout=60)
    assert done.json()["deleted"] == 5_000


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_grows_beyond_the_limit_is_a_413(gateway: Running, coding: str) -> None:
    bomb = packed(b" " * (64 << 20), coding)
    assert len(bomb) < 100_000
    answer = post(gateway, "/v1/search", bomb, coding)
    assert answer.status_code == 413
    assert f"larger than {BODY_BYTES_MAX:,} bytes" in answer.json()["detail"]
    nested = packed(bomb, coding)
    assert post(gateway, "/v1/search", nested, coding).status_code == 422  # that is no JSON
    assert post(gateway, "/v1/search", nested, f"{coding}, {coding}").status_code == 415


def test_a_damaged_body_is_a_422_that_says_so(gateway: Running) -> None:
    for path in ("/v1/search", "/v1/documents"):
        answer = post(gateway, path, b'{"query": "a"}', "gzip")
        assert (answer.status_code, answer.json()["type"]) == (422, "bitsift:InvalidRequest")
        assert "the gzip stream is damaged" in answer.json()["detail"]


def test_a_request_without_a_body_has_nothing_to_unpack(gateway: Running) -> None:
    answer = httpx.get(f"{gateway.url}/v1/search?q=a", headers={"content-encoding": "gzip"})
    assert answer.status_code == 200
