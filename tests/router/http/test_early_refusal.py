"""Searches refused by their heads: a real uvicorn whose places are all taken, raw sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bitsift.router.http import shell
from tests.commands import wait_until
from tests.gateways import Running
from tests.router.http.test_protocol import SEARCH, Peer, refusal
from tests.router.http.test_request_limits import JSON, post, serving, slow_encoder
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
