"""Searches refused before anything is made of them: a real uvicorn, raw sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bitsift.router.http import shell
from bitsift.router.http.early_refusal import BODY_BYTES_MAX
from bitsift.router.http.limits import HttpLimits
from tests.commands import wait_until
from tests.gateways import Running
from tests.router.http.test_protocol import SEARCH, Peer, refusal
from tests.router.http.test_request_limits import DIMENSION, JSON, post, serving, slow_encoder
from tests.threads import ended

QUESTION = b'{"query": "a"}'
HEAD = SEARCH + b"content-length: 14\r\n"


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A gateway that has a place for nobody."""
    monkeypatch.setattr(shell, "REQUESTS_MAX", 0)
    with serving(tmp_path) as gateway:
        yield gateway


def ends(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["type"]


def test_it_says_what_every_other_refusal_says(full: Running) -> None:
    early = post(full, "/v1/search", QUESTION)
    usual = post(full, "/v1/search", QUESTION, origin=full.url)
    assert early.status_code == usual.status_code == 429
    assert early.content == usual.content
    of_each = {"x-request-id", "date"}
    for name in (early.headers.keys() | usual.headers.keys()) - of_each:
        assert early.headers.get(name) == usual.headers.get(name), name
    assert early.headers.keys() == usual.headers.keys()


def test_nothing_of_the_body_is_waited_for(full: Running) -> None:
    with Peer(full.url, SEARCH + b"content-length: 2000000\r\n\r\n{") as peer:
        assert ends(peer.answer()) == (429, "bitsift:Overloaded")


@pytest.mark.parametrize("coding", ["whole", "chunked"])
def test_its_body_is_passed_over_and_the_connection_goes_on(full: Running, coding: str) -> None:
    head, body = HEAD, QUESTION
    if coding == "chunked":
        head = SEARCH + b"transfer-encoding: chunked\r\n"
        body = b"6\r\n" + QUESTION[:6] + b"\r\n8\r\n" + QUESTION[6:] + b"\r\n0\r\n\r\n"
    with Peer(full.url) as peer:
        for _ in range(3):
            peer.send(head + b"\r\n" + body[:5])
            assert ends(peer.answer())[0] == 429
            peer.send(body[5:])
        peer.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200 OK" in peer.answer()


def test_two_that_come_together_are_answered_in_turn(full: Running) -> None:
    asked = [HEAD + b"x-request-id: %b\r\n\r\n%b" % (name, QUESTION) for name in (b"a", b"b")]
    with Peer(full.url, b"".join(asked)) as peer:
        found = b""
        while found.count(b"bitsift:Overloaded") < 2:
            found += peer.socket.recv(65_536)
    assert found.index(b"x-request-id: a") < found.index(b"x-request-id: b")


@pytest.mark.parametrize("said", ["HTTP/1.0", "close"])
def test_a_connection_that_is_to_end_ends(full: Running, said: str) -> None:
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") if said == "HTTP/1.0" else HEAD
    more = b"connection: close\r\n" if said == "close" else b""
    with Peer(full.url, head + more + b"\r\n" + QUESTION) as peer:
        status, problem = refusal(peer.rest())
    assert (status, problem["type"]) == (429, "bitsift:Overloaded")


def test_a_body_that_is_none_ends_the_connection_without_a_second_answer(full: Running) -> None:
    with Peer(full.url, SEARCH + b"transfer-encoding: chunked\r\n\r\n") as peer:
        assert ends(peer.answer())[0] == 429
        peer.send(b"this is no chunk\r\n")
        assert peer.rest() == b""


def test_who_waits_to_be_told_to_go_on_is_told_or_refused_the_usual_way(full: Running) -> None:
    with Peer(full.url, HEAD + b"expect: 100-continue\r\n\r\n") as peer:
        assert peer.socket.recv(65_536).startswith(b"HTTP/1.1 100")
        peer.send(QUESTION)
        assert ends(peer.answer())[0] == 429


def test_what_is_no_search_takes_the_usual_way(full: Running) -> None:
    assert httpx.get(f"{full.url}/livez").status_code == 200
    refused = post(full, "/v1/documents/count", b"{}")
    assert (refused.status_code, refused.json()["type"]) == (429, "bitsift:Overloaded")


# --- by the body -----------------------------------------------------------------------------


@pytest.fixture
def pressed(tmp_path: Path) -> Iterator[Running]:
    """A gateway where texts wait for 9 s, unless they are "known"."""
    with serving(tmp_path) as gateway:
        vectors: Any = gateway.service.query_vectors
        vectors.wait_s = lambda text: 0.0 if text == "known" else 9.0
        yield gateway


def test_a_text_that_would_wait_for_too_long_is_told_what_it_is_told_otherwise(
    pressed: Running,
) -> None:
    early = post(pressed, "/v1/search", QUESTION)
    usual = post(pressed, "/v1/search", QUESTION, origin=pressed.url)
    assert early.status_code == usual.status_code == 429
    assert early.content == usual.content
    assert early.headers.keys() == usual.headers.keys()
    page = httpx.get(f"{pressed.url}/metrics").text
    assert 'bitsift_searches_total{mode="auto",outcome="Overloaded"} 2.0' in page


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"query": "known"}', 200),
        (b'{"query": "a", "timeout_ms": 20000}', 200),
        (b'{"query": "a", "timeout_ms": 17000}', 429),
        (b'{"query": "a", "top_k": "no number"}', 429),
        (b'{"queries": ["known"]}', 200),
        (b'{"vector": [%b]}' % b",".join([b"1"] * DIMENSION), 200),
        (b'{"query": 1}', 422),
        (b'{"query": "a", "timeout_ms": "1"}', 422),
        (b'["query"]', 422),
        (b'"query"', 422),
        (b"{", 422),
        (b'{"query": "a"%b}' % (b" " * BODY_BYTES_MAX), 429),
    ],
)
def test_anything_else_has_its_own_answer(pressed: Running, body: bytes, status: int) -> None:
    assert post(pressed, "/v1/search", body).status_code == status


def test_what_was_held_goes_on_as_if_it_had_not_been(pressed: Running) -> None:
    known, length = b'{"query": "known"}', b"content-length: 18\r\n\r\n"
    with Peer(pressed.url) as peer:
        for _ in range(2):
            peer.send(SEARCH + length + known[:7])
            peer.send(known[7:] + HEAD + b"\r\n" + QUESTION)
            found = b""
            while b"bitsift:Overloaded" not in found:
                found += peer.socket.recv(65_536)
            assert found.index(b'"hits"') < found.index(b"bitsift:Overloaded")
        peer.send(SEARCH + b"connection: close\r\n" + length + known)
        assert b'"hits"' in peer.rest()
    assert wait_until(lambda: len(pressed.connections) == 0)


def test_half_a_body_that_is_held_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with serving(tmp_path, HttpLimits(linger_s=0.3, sweep_s=0.05)) as gateway:
        vectors: Any = gateway.service.query_vectors
        vectors.wait_s = lambda _: 9.0
        with Peer(gateway.url, HEAD + b"\r\n{") as peer:
            assert peer.rest() == b""


def test_with_a_place_it_is_a_search_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "REQUESTS_MAX", 1)
    entered = threading.Semaphore(0)
    with serving(tmp_path) as gateway, slow_encoder(gateway, entered) as gate:
        ask = threading.Thread(target=lambda: post(gateway, "/v1/search", QUESTION))
        ask.start()
        assert entered.acquire(timeout=30)
        with httpx.Client(base_url=gateway.url, headers=JSON, timeout=60) as client:
            refused = client.post("/v1/search", content=QUESTION)
            assert refused.status_code == 429
            gate.set()
            ended(ask)
            asked = [client.post("/v1/search", content=QUESTION) for _ in range(2)]
            assert [answer.status_code for answer in asked] == [200, 200]
        assert wait_until(lambda: gateway.connections.waiting == 0)
