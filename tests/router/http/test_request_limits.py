"""Requests at their limits and one beyond: a real uvicorn on loopback, real shards."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift.router.http import bodies, document_routes, document_stream, shell
from bitsift.router.http.documents_schema import DOCUMENT_PARTS_MAX, LINE_BYTES_MAX, NDJSON
from bitsift.router.http.gateway import ADMIN_BODY_BYTES_MAX
from bitsift.router.http.schema import BODY_PARTS_MAX, SMALL_BYTES_MAX
from bitsift.router.shards.local import LocalLink
from tests.commands import wait_until
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running
from tests.router.http.test_protocol import SEARCH, Peer, refusal
from tests.threads import ended

DIMENSION = 64
JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Running]:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(folder, nothing, DIMENSION, 1)
    links = [LocalLink(shards[0])]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        yield running
    finally:
        running.stop()
        shards[0].close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("limits")) as running:
        yield running


def post(gateway: Running, path: str, body: bytes, **headers: str) -> httpx.Response:
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(f"{gateway.url}{path}", content=body, headers=sent, timeout=60)


# --- methods, types, parameters ------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/v1/index", "/v1/cluster", "/static/app.js", "/docs"]
)
def test_head_is_answered_as_get_is_without_the_body(gateway: Running, path: str) -> None:
    plain = {"accept-encoding": "identity"}  # what is compressed has no length beforehand
    got, head = (httpx.request(m, f"{gateway.url}{path}", headers=plain) for m in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name)
    if path == "/v1/cluster":  # its figures change from one answer to the next
        assert int(head.headers["content-length"]) > 100
    else:
        assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/search", "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/v1/documents", "OPTIONS, POST"),
        ("HEAD", "/v1/documents", "OPTIONS, POST"),
        ("PUT", "/v1/documents/a", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("POST", "/livez", "GET, HEAD, OPTIONS"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/admin/compact", "OPTIONS, POST"),
        ("POST", "/static/app.js", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_405_says_what_is_allowed(gateway: Running, method: str, path: str, allowed: str) -> None:
    # Of another type, a POST is refused before its path is looked at (gate.py).
    headers = {"Content-Type": "application/json"}
    response = httpx.request(method, f"{gateway.url}{path}", headers=headers)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/v1/search", "/v1/documents", "/v1/documents/delete",
                                  "/v1/admin/backup"])  # fmt: skip
@pytest.mark.parametrize("encoding", ["deflate", "br", "gzip, identity", "zstd, gzip"])
def test_bodies_of_other_codings_are_a_415_and_never_read_as_they_are(
    gateway: Running, path: str, encoding: str
) -> None:
    response = post(gateway, path, gzip.compress(b'{"query": "a"}'), content_encoding=encoding)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, zstd"
    assert response.json()["type"] == "bitsift:UnsupportedMediaType"
    assert "content-encoding" in response.json()["detail"]


def test_an_encoding_that_is_none_is_read(gateway: Running) -> None:
    response = post(gateway, "/v1/search", b'{"query": "a"}', content_encoding="Identity")
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("parameters", "named"),
    [("q=a&top_K=3", "top_K: there is no such parameter; did you mean top_k?"),
     ("query=a&q=a", "query: there is no such parameter; did you mean q?"),
     ("q=a&%ff=1", "not UTF-8 (byte 0xff)"), ("q=a&%ED%A0%80=1", "not UTF-8 (byte 0xed)")],
)  # fmt: skip
def test_a_parameter_that_does_not_exist_is_named(
    gateway: Running, parameters: str, named: str
) -> None:
    response = httpx.get(f"{gateway.url}/v1/search?{parameters}")
    assert response.status_code == 422
    assert named in response.json()["detail"]


def test_a_get_may_have_a_body_that_nobody_reads(gateway: Running) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        for _ in range(2):  # the connection is kept
            response = client.request("GET", "/v1/search?q=a", content=b"x" * 1_000_000)
            assert response.status_code == 200


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_search_is_made_of_so_many_parts_at_most(gateway: Running, beyond: int) -> None:
    commas = BODY_PARTS_MAX - len(["{", "vector", "["]) + beyond
    body = b'{"vector":[' + b"0," * commas + b"0]}"
    assert len(body) > SMALL_BYTES_MAX
    response = post(gateway, "/v1/search", body)
    assert response.status_code == 422
    assert ("over 10,000 strings" in response.json()["detail"]) == bool(beyond)


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_body_of_an_admin_route_is_small(gateway: Running, beyond: int) -> None:
    body = b'{"dest": ""}'
    body += b" " * (ADMIN_BODY_BYTES_MAX - len(body) + beyond)
    assert post(gateway, "/v1/admin/backup", body).status_code == (413 if beyond else 422)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_document_is_made_of_so_many_parts_at_most(gateway: Running, beyond: int) -> None:
    fixed = len(["{", "id", ",", "a", "vector", ",", "v", "metadata", "{", "m", "["])
    ones = DOCUMENT_PARTS_MAX - fixed + 1 + beyond
    vector = b",".join([b"1"] * DIMENSION)
    ones -= DIMENSION - 1 + 1 - 1  # the vector is a list: a bracket for a string, and its commas
    document = b'{"id":"a","vector":[%b],"metadata":{"m":[%b]}}' % (
        vector,
        b",".join([b"1"] * ones),
    )
    (result,) = post(gateway, "/v1/documents", b'{"documents":[%b]}' % document).json()["results"]
    assert (result["status"] == "rejected") == bool(beyond), result
    if beyond:
        assert "over 500,000 strings, commas and brackets" in result["error"]["detail"]


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_json_of_a_document_is_no_longer_than_a_line(gateway: Running, beyond: int) -> None:
    document = b'{"id":"long","text":"b"'
    document += b" " * (LINE_BYTES_MAX - len(document) - 1 + beyond) + b"}"
    (result,) = post(gateway, "/v1/documents", b'{"documents":[%b]}' % document).json()["results"]
    assert (result["status"] == "rejected") == bool(beyond), result


# --- how much at once ----------------------------------------------------------------------------


@contextlib.contextmanager
def slow_encoder(gateway: Running, entered: threading.Semaphore) -> Iterator[threading.Event]:
    """Queries wait until the event is set; ``entered`` is released when the first one does."""
    gate = threading.Event()
    encoder: Any = gateway.service.encoder
    encode = encoder.encode_queries

    def slow(texts: Any) -> Any:
        entered.release()
        gate.wait(30)
        return encode(texts)

    encoder.encode_queries = slow
    try:
        yield gate
    finally:
        gate.set()
        encoder.encode_queries = encode


def test_requests_that_come_at_once_begin_a_few_in_each_turn_of_the_event_loop() -> None:
    begun = 0

    async def app(*_: object) -> None:
        nonlocal begun
        begun += 1

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}"}

    async def scenario() -> list[int]:
        limits = shell.RequestLimits(app, 100, {}, ("/apart",))
        scopes = [
            {
                "type": "http",
                "path": "/v1/search",
                "query_string": b"",
                "method": method,
                "headers": [],
            }
            for method in ["GET", "POST"] * 20
        ]
        calls = [asyncio.create_task(limits(scope, receive, unsent)) for scope in scopes]
        in_turn = []
        while not all(call.done() for call in calls):
            before = begun
            await asyncio.sleep(0)
            in_turn.append(begun - before)
        return in_turn

    async def unsent(message: object) -> None:
        raise AssertionError(message)

    in_turn = asyncio.run(scenario())
    assert begun == 40
    assert max(in_turn) <= 2 * shell.REQUESTS_PER_TURN, "and those that the turn before let go"


def test_requests_beyond_what_is_answered_at_once_are_a_429_but_health_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "REQUESTS_MAX", 2)
    entered = threading.Semaphore(0)
    with serving(tmp_path) as gateway, slow_encoder(gateway, entered) as gate:
        answers: list[int] = []

        def ask_until_answered() -> None:
            """A request of ours below may have been the second one."""
            status = 429
            while status == 429:
                status = post(gateway, "/v1/search", b'{"query": "q"}').status_code
            answers.append(status)

        asks = [threading.Thread(target=ask_until_answered) for _ in range(2)]
        for ask in asks:
            ask.start()
        assert entered.acquire(timeout=30)
        assert wait_until(lambda: httpx.get(f"{gateway.url}/v1/index").status_code == 429)
        refused = httpx.get(f"{gateway.url}/v1/index")
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert "2 requests are already in progress" in refused.json()["detail"]
        assert httpx.get(f"{gateway.url}/livez").status_code == 200
        assert httpx.get(f"{gateway.url}/readyz").status_code == 200
        gate.set()
        for ask in asks:
            ended(ask)
        assert answers == [200, 200]
        assert httpx.get(f"{gateway.url}/v1/index").status_code == 200


@pytest.mark.parametrize(
    ("wait_s", "timeout_ms", "alone", "together"),
    [
        (2.4, 5_000, 200, 200),
        (2.6, 5_000, 429, 200),
        (5.1, 5_000, 429, 429),
        (5.1, 11_000, 200, 200),
    ],
)
def test_a_search_that_would_wait_for_over_half_of_its_time_is_refused(
    gateway: Running,
    monkeypatch: pytest.MonkeyPatch,
    wait_s: float,
    timeout_ms: int,
    alone: int,
    together: int,
) -> None:
    """Searches of one request wait for each other, and so for as long as they have time."""
    monkeypatch.setattr(gateway.service.query_vectors, "wait_s", lambda _: wait_s)
    given = {"timeout_ms": timeout_ms}
    one = httpx.post(f"{gateway.url}/v1/search", json={"query": "a", **given})
    assert one.status_code == alone, one.text
    two = httpx.post(f"{gateway.url}/v1/search", json={"queries": ["a", "b"], **given})
    assert two.status_code == together, two.text
    batch = [{"query": "a", **given}, {"query": "b", **given}]
    each = httpx.post(f"{gateway.url}/v1/search/batch", json={"searches": batch}).json()
    refused = ["status" in answer for answer in each["results"]]
    assert refused == [together == 429] * 2, each


@pytest.mark.parametrize("path", [b"/v1/search", b"/v1/documents", b"/v1/documents/delete"])
def test_bodies_that_are_still_being_sent_take_nobodys_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    """A hundred senders of half a body, each of which announces the largest one."""
    monkeypatch.setattr(shell, "REQUESTS_MAX", 4)
    monkeypatch.setattr(document_routes, "CALLS_MAX", 4)
    with serving(tmp_path) as gateway, contextlib.ExitStack() as stack:
        head = SEARCH.replace(b"/v1/search", path) + b"content-length: 2000000\r\n\r\n{"
        if path == b"/v1/documents":  # these count as requests: they see to their own bodies
            monkeypatch.setattr(shell, "REQUESTS_MAX", 200)
        for _ in range(100):
            stack.enter_context(Peer(gateway.url, head))
        assert post(gateway, "/v1/search", b'{"query": "a"}').status_code == 200
        wrote = post(gateway, "/v1/documents", b'{"documents":[{"id":"a","text":"b"}]}')
        assert wrote.status_code == 200, wrote.text
        assert post(gateway, "/v1/documents/delete", b'{"ids":["a"]}').status_code == 200


def test_bodies_take_so_much_ram_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "RAM_BYTES_MAX", bodies.RAM_PER_BYTE * 1_000)
    with serving(tmp_path) as gateway:
        body = b'{"query": "a"}'
        assert post(gateway, "/v1/search", body + b" " * (1_000 - len(body))).status_code == 200
        refused = post(gateway, "/v1/search", body + b" " * (1_001 - len(body)))
        assert refused.status_code == 429
        assert "of at most 8,000" in refused.json()["detail"]


@pytest.mark.parametrize("path", [b"/v1/search", b"/v1/documents"])
def test_a_body_that_does_not_come_to_its_end_is_a_408(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.3)
    head = SEARCH.replace(b"/v1/search", path)
    with Peer(gateway.url, head + b"connection: close\r\ncontent-length: 5\r\n\r\n{") as peer:
        status, problem = refusal(peer.rest())
    assert status == 408
    assert "the body took over" in problem["detail"]


# --- streams -------------------------------------------------------------------------------------

STREAM = (
    b"POST /v1/documents HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
    b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(gateway: Running, body: bytes) -> list[dict[str, Any]]:
    response = httpx.post(
        f"{gateway.url}/v1/documents", content=body, headers={"content-type": NDJSON}, timeout=60
    )
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_slow_senders_do_not_hold_the_streams_for_ever_and_never_other_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then kept a stream open for ever: the old time-out was per chunk."""
    monkeypatch.setattr(document_stream, "IDLE_S", 0.5)
    stop = threading.Event()
    with serving(tmp_path) as gateway, contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(Peer(gateway.url, STREAM))
            for _ in range(document_stream.STREAMS_MAX)
        ]

        def drip() -> None:
            while not stop.wait(0.1):
                for peer in slow:
                    peer.send(chunk(b"x"))

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            refused = httpx.post(
                f"{gateway.url}/v1/documents", content=b"", headers={"content-type": NDJSON}
            )
            while refused.status_code == 200:  # some of them are still on their way
                refused = httpx.post(
                    f"{gateway.url}/v1/documents", content=b"", headers={"content-type": NDJSON}
                )
            assert refused.status_code == 429
            assert "32 streams are already in progress" in refused.json()["detail"]
            wrote = post(gateway, "/v1/documents", b'{"documents":[{"id":"a","text":"b"}]}')
            assert wrote.status_code == 200
            ends = [peer.rest() for peer in slow]
        finally:
            stop.set()
            ended(dripping)
        for end in ends:
            last = json.loads(end.strip().splitlines()[-3])  # behind it: the chunk of no bytes
            assert last["error"]["type"] == "DeadlineExceeded"
            assert "under 1,024 bytes a second" in last["error"]["detail"]
        assert stream(gateway, b'{"id":"a","text":"b"}')[-1]["error"] is None


def test_a_long_line_for_which_there_is_no_room_ends_the_stream_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        document_stream, "STREAMS_RAM_BYTES_MAX", document_stream.STREAM_RAM_BYTES + (1 << 20)
    )
    monkeypatch.setattr(
        document_routes, "STREAMS_RAM_BYTES_MAX", document_stream.STREAM_RAM_BYTES + (1 << 20)
    )
    with serving(tmp_path) as gateway:
        long = b'{"id":"long","text":"%b"}\n' % (b"x" * (2 << 20))
        found = stream(gateway, b'{"id":"short","text":"b"}\n' + b"\n" * 70_000 + long)
        assert found[0]["status"] == "created"
        assert found[-1]["error"]["type"] == "Overloaded"
        for _ in range(3):  # what was held is given back
            assert stream(gateway, b'{"id":"short","text":"b"}')[-1]["error"] is None


class PanicError(BaseException):
    """What a compiled library raises that is no Exception."""


@pytest.mark.parametrize("raised", [RuntimeError("unforeseen"), PanicError(), MemoryError()])
def test_whatever_the_writer_raises_the_stream_says_what_became_of_each_line(
    tmp_path: Path, raised: BaseException
) -> None:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(tmp_path, nothing, DIMENSION, 1)
    links = [LocalLink(shards[0])]

    class Broken:
        """A writer whose first block fails in a way that nobody foresaw."""

        def __init__(self) -> None:
            self.real = make_writer(links, calibration)
            self.calls = 0

        async def upsert_lines(self, *given: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise raised
            return await self.real.upsert_lines(*given)

    running = Running(make_service(links, calibration), Broken())  # type: ignore[arg-type]
    try:
        with Peer(running.url, STREAM) as peer:
            peer.send(chunk(b'{"id":"a","text":"b"}\n\n{"id":"c","text":"d"}\n'))
            first = peer.socket.recv(65_536)
            while b'"line":3' not in first:
                first += peer.socket.recv(65_536)
            assert first.count(b'"failed"') == 2
            peer.send(chunk(b'{"id":"e","text":"f"}\n') + b"0\r\n\r\n")
            rest = peer.rest()
        last = json.loads(rest.strip().splitlines()[-3])
        assert last["totals"]["failed"] == 2
        assert last["totals"]["created"] == 1
    finally:
        running.stop()
        shards[0].close()
