"""What a peer may take of the server, over raw sockets: a real uvicorn, real shards."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx
import numpy as np
import pytest

from bitsift.router.http.limits import CONNECTIONS_MAX, HttpLimits
from bitsift.router.shards.local import LocalLink
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
SMALL = HttpLimits(
    connections_max=20, head_timeout_s=0.5, linger_s=0.5, stalled_s=0.5, sweep_s=0.05
)
GET = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
SEARCH = b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@contextlib.contextmanager
def serving(folder: Path, limits: HttpLimits) -> Iterator[Running]:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(folder, nothing, DIMENSION, 1)
    links = [LocalLink(shards[0])]
    running = Running(
        make_service(links, calibration), make_writer(links, calibration), limits=limits
    )
    try:
        yield running
    finally:
        running.stop()
        shards[0].close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Small places and times, the limits of bytes as they are."""
    with serving(tmp_path_factory.mktemp("protocol"), SMALL) as running:
        yield running


class Peer:
    """A raw socket to the gateway."""

    def __init__(self, url: str, sent: bytes = b"") -> None:
        parsed = urlparse(url)
        self.socket = socket.create_connection((parsed.hostname, parsed.port), timeout=30)
        self.send(sent)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the answer says why
            self.socket.sendall(data)

    def answer(self) -> bytes:
        """One whole answer; its head and its body may come apart. The connection stays."""
        with self.socket.makefile("rb") as reader:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = reader.readline()
                assert line, head
                head += line
            (length,) = re.findall(rb"content-length: (\d+)", head)
            return head + reader.read(int(length))

    def rest(self) -> bytes:
        """All that comes until the connection is closed."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(65_536):
                found += part
        return found


def refusal(found: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem document of one answer that closes the connection."""
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"connection: close" in head, found[:300]
    return int(head.split()[1]), json.loads(body)


def wait_until_empty(gateway: Running) -> None:
    limit = time.monotonic() + 30
    while len(gateway.connections):
        assert time.monotonic() < limit, len(gateway.connections)
        time.sleep(0.02)


def headers(count: int) -> bytes:
    return b"".join(b"x-%d: 1\r\n" % i for i in range(count))


# --- bytes ---------------------------------------------------------------------------------------


def test_as_many_headers_as_allowed_are_read_and_one_more_is_a_431(gateway: Running) -> None:
    with Peer(gateway.url, GET + headers(126) + b"connection: close\r\n\r\n") as peer:
        assert peer.rest().startswith(b"HTTP/1.1 200")
    with Peer(gateway.url, GET + headers(127) + b"connection: close\r\n\r\n") as peer:
        status, problem = refusal(peer.rest())
    assert (status, problem["status"]) == (431, 431)
    assert "more than 128 headers" in problem["detail"]


@pytest.mark.parametrize("beyond", [0, 1])
def test_heads_may_have_64_kib(gateway: Running, beyond: int) -> None:
    known = len(b"host: localhost\r\n" + b"connection: close\r\n" + b"x: \r\n")
    long = b"x: " + b"a" * (SMALL.head_bytes_max - known + beyond) + b"\r\n"
    with Peer(gateway.url, GET + b"connection: close\r\n" + long + b"\r\n") as peer:
        found = peer.rest()
    if beyond:
        assert refusal(found)[0] == 431
    else:
        assert found.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", ["one value", "one name", "many", "url"])
def test_a_head_without_end_is_refused_long_before_it_takes_much(
    gateway: Running, kind: str
) -> None:
    first = {"one value": GET + b"x: ", "one name": GET, "many": GET, "url": b"GET /"}[kind]
    sent = 0
    with Peer(gateway.url, first) as peer:
        peer.socket.settimeout(0.05)
        refused = b""
        while not refused and sent < 64 << 20:
            peer.send(b"y: z\r\n" * 10_000 if kind == "many" else b"a" * 60_000)
            sent += 60_000
            with contextlib.suppress(TimeoutError, ConnectionError):
                refused = peer.socket.recv(65_536)
    assert refused.split()[1] in (b"431", b"414"), refused
    assert sent <= 10 * SMALL.head_bytes_max


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_url_may_have_32_kib(gateway: Running, beyond: int) -> None:
    url = b"/livez?" + b"a" * (SMALL.url_bytes_max - len(b"/livez?") + beyond)
    sent = b"GET " + url + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with Peer(gateway.url, sent) as peer:
        found = peer.rest()
    assert found.split()[1] == (b"414" if beyond else b"200")


@pytest.mark.parametrize("kind", ["extension", "trailer", "trailers"])
def test_chunks_that_hold_nothing_are_refused(gateway: Running, kind: str) -> None:
    framing = {
        "extension": b"5;" + b"a" * 400_000,
        "trailer": b"0\r\nx: " + b"a" * 400_000,
        "trailers": b"0\r\n" + b"x: y\r\n" * 60_000,
    }[kind]
    with Peer(gateway.url, SEARCH + b"transfer-encoding: chunked\r\n\r\n" + framing) as peer:
        found = peer.rest()
    # An answer to a body that ended is no refusal: the application may answer first.
    assert not found or found.split()[1] in (b"400", b"422", b"431"), found[:200]
    wait_until_empty(gateway)
    assert httpx.get(f"{gateway.url}/livez").status_code == 200


def test_pipelined_requests_are_answered_and_too_many_are_refused(gateway: Running) -> None:
    some = SMALL.pipelined_max
    last = GET + b"connection: close\r\n\r\n"
    with Peer(gateway.url, (GET + b"\r\n") * some + last) as peer:
        assert peer.rest().count(b"HTTP/1.1 200") == some + 1
    with Peer(gateway.url, (GET + b"\r\n") * 1_000 + last) as peer:
        assert peer.rest().count(b"HTTP/1.1 200") < 1_000
    assert httpx.get(f"{gateway.url}/livez").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        GET + b"no colon\r\n\r\n",
        GET + b"a\0b: c\r\n\r\n",
        SEARCH + b"content-length: -1\r\n\r\n",
        SEARCH + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        SEARCH + b"content-length: 99999999999999999999999\r\n\r\n{}",
        SEARCH + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        SEARCH + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        SEARCH + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_request_is_a_problem_and_the_end(gateway: Running, sent: bytes) -> None:
    """Among them what smugglers send: two lengths, and a length with chunks."""
    with Peer(gateway.url, sent + b"\r\n") as peer:
        found = peer.rest()
    if found:  # a body that breaks in the middle of its request has no answer
        assert found.count(b"HTTP/1.1") == 1, found
        status, problem = refusal(found)
        assert status in (400, 405, 413), found
        assert problem["status"] == status


def test_no_other_protocol_is_spoken(gateway: Running) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    with Peer(
        gateway.url, GET + upgrade + b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ) as p:
        assert p.rest().startswith(b"HTTP/1.1 200")


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"G", GET, GET + b"x: y"])
def test_a_head_that_does_not_come_to_its_end_is_a_408(gateway: Running, sent: bytes) -> None:
    with Peer(gateway.url, sent) as peer:
        assert refusal(peer.rest())[0] == 408


def test_a_head_that_comes_byte_by_byte_is_a_408_all_the_same(gateway: Running) -> None:
    with Peer(gateway.url, GET) as peer:
        peer.socket.settimeout(0.05)
        found = b""
        for _ in range(600):
            peer.send(b"a")
            with contextlib.suppress(TimeoutError):
                found = peer.socket.recv(65_536)
                break
        peer.socket.settimeout(30)
        found += peer.rest()
    assert refusal(found)[0] == 408


def test_the_second_request_of_a_connection_has_the_same_time(gateway: Running) -> None:
    with Peer(gateway.url, GET + b"\r\n") as peer:
        assert peer.answer().startswith(b"HTTP/1.1 200")
        peer.send(b"GET /liv")
        assert refusal(peer.rest())[0] == 408


def test_a_socket_that_asks_nothing_is_closed_without_a_word(gateway: Running) -> None:
    with Peer(gateway.url) as peer:
        assert peer.rest() == b""


@pytest.mark.parametrize(
    "framing", [b"content-length: 99999999\r\n", b"transfer-encoding: chunked\r\n"]
)
def test_a_body_that_nobody_reads_is_not_waited_for(gateway: Running, framing: bytes) -> None:
    """A GET with a body without end, and a body that was refused when it was announced."""
    for first in (GET, SEARCH):
        with Peer(gateway.url, first + framing + b"\r\n1\r\na\r\n") as peer:
            if first is GET or b"length" in framing:
                found = peer.rest()
                assert found.split()[1] in (b"200", b"413"), found
    wait_until_empty(gateway)


def test_a_peer_that_takes_no_answer_is_dropped(gateway: Running) -> None:
    with Peer(gateway.url) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.send((b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 16) * 40)
        wait_until_empty(gateway)


def test_a_connection_is_kept_for_the_next_request_and_not_for_ever(tmp_path: Path) -> None:
    with serving(tmp_path, SMALL) as running:
        running.server.config.timeout_keep_alive = 1
        with Peer(running.url, GET + b"\r\n") as peer:
            assert peer.answer().startswith(b"HTTP/1.1 200")
            peer.send(GET + b"\r\n")
            assert peer.answer().startswith(b"HTTP/1.1 200")
            assert peer.rest() == b""


def test_a_server_that_stops_waits_for_answers_and_not_for_ever(tmp_path: Path) -> None:
    gate = threading.Event()
    try:
        with serving(tmp_path, SMALL) as running:
            running.server.config.timeout_graceful_shutdown = 1
            running.service.encoder.encode_queries = lambda _: gate.wait(60)  # type: ignore[method-assign, return-value, union-attr]
            body = b'{"query": "a"}'
            ask = SEARCH + b"content-length: %d\r\n\r\n%b" % (len(body), body)
            peer = Peer(running.url, ask)
            while len(running.connections) != 1 or running.connections.waiting:
                time.sleep(0.01)
            running.stop()
            assert not gate.is_set()
            peer.rest()
    finally:
        gate.set()


# --- places --------------------------------------------------------------------------------------


def test_silent_sockets_shut_nobody_out(gateway: Running) -> None:
    """Counted as work by uvicorn, they made all others a 503, /livez too."""
    half_sent = (b"", GET, SEARCH + b"content-length: 50\r\n\r\n{")
    with contextlib.ExitStack() as stack:
        for i in range(3 * SMALL.connections_max):
            stack.enter_context(Peer(gateway.url, half_sent[i % 3]))
        assert len(gateway.connections) <= SMALL.connections_max
        assert httpx.get(f"{gateway.url}/livez").status_code == 200
        answer = httpx.post(f"{gateway.url}/v1/search", json={"query": "a"})
        assert answer.status_code == 200


def test_a_thousand_and_one_silent_sockets_shut_nobody_out(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * CONNECTIONS_MAX
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"needs {wanted} files, ulimit -Hn says {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        with serving(tmp_path, HttpLimits()) as running, contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS_MAX + 1):
                stack.enter_context(Peer(running.url))
            assert httpx.get(f"{running.url}/livez", timeout=30).status_code == 200
            assert len(running.connections) <= CONNECTIONS_MAX
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_connection_that_is_silent_for_longest_gives_its_place_not_one_at_work(
    tmp_path: Path,
) -> None:
    limits = replace(SMALL, head_timeout_s=60.0)
    with serving(tmp_path, limits) as running, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(running.url)) for _ in range(SMALL.connections_max)]
        for _ in range(2):  # the oldest is no longer the most silent one
            peers[0].send(GET + b"\r\n")
            assert peers[0].answer().startswith(b"HTTP/1.1 200")
            limit = time.monotonic() + 30
            while len(running.connections) < SMALL.connections_max:
                assert time.monotonic() < limit
                time.sleep(0.01)
        stack.enter_context(Peer(running.url))
        assert peers[1].rest() == b""
        peers[0].send(GET + b"\r\n")
        assert peers[0].answer().startswith(b"HTTP/1.1 200")


def test_where_all_connections_are_at_work_the_next_is_a_503(tmp_path: Path) -> None:
    with serving(tmp_path, replace(SMALL, connections_max=2)) as running:
        gate = threading.Event()
        encode = running.service.encoder.encode_queries  # type: ignore[union-attr]

        def slow(texts: Any) -> Any:
            gate.wait(30)
            return encode(texts)

        running.service.encoder.encode_queries = slow  # type: ignore[union-attr,method-assign]
        body = b'{"query": "a"}'
        ask = SEARCH + b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        with Peer(running.url, ask) as first, Peer(running.url, ask) as second:
            time.sleep(0.2)
            with Peer(running.url) as third:
                assert refusal(third.rest())[0] == 503
            gate.set()
            assert first.rest().startswith(b"HTTP/1.1 200")
            assert second.rest().startswith(b"HTTP/1.1 200")


def test_no_more_connections_than_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, expected in (
        (1_024, 768),
        (100, 16),
        (1 << 20, 1_000),
        (resource.RLIM_INFINITY, 1_000),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert HttpLimits.of_this_process().connections_max == expected
