"""Refusals that the protocol makes are those that the application would have made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bitsift.errors import Overloaded, Unavailable
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.problems import problem_of
from bitsift.router.http.refusals import Refusals, Request
from bitsift.router.logs import LogSettings
from bitsift.router.metrics import Metrics
from tests.commands import wait_until
from tests.router.http.test_protocol import SEARCH, Peer
from tests.router.http.test_search_places import SHORT, all_places_taken, search

OWN = [(b"server", b"it")]
HOST = (b"host", b"localhost:8000")
KIND = (b"content-type", b"application/json; charset=utf-8")
ASKED = Request("POST", b"/v1/search", [HOST, KIND])
ERROR = Overloaded("try again later")


def refusals(access: AccessSettings = AccessSettings()) -> Refusals:  # noqa: B008 (frozen)
    return Refusals(Metrics(), access, "127.0.0.1")


def facts(answer: bytes) -> tuple[bytes, dict[bytes, bytes], dict[str, object]]:
    """The status line, the headers but for those that differ by time, and the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    pairs = [line.split(b": ", 1) for line in lines]
    named = {name: value for name, value in pairs if name != b"date"}
    assert len(pairs) == len({name for name, _ in pairs})
    return first, named, json.loads(body)


@pytest.mark.parametrize(
    "target", [b"/v1/search", b"/v1/search/", b"/v1/indexes/main/search?x=%20", b"/v1/search/batch"]
)
def test_they_say_what_the_application_says(tmp_path: Path, target: bytes) -> None:
    head = SEARCH.replace(b"/v1/search", target) + b"x-request-id: mine\r\n"
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        given = gateway.connections.refusals
        assert given is not None
        said = []
        for chosen in (given, None):
            gateway.connections.refusals = chosen
            with Peer(gateway.url, search("more", head)) as peer:
                said.append(facts(peer.answer()))
        assert said[0] == said[1]
        free()


def test_each_is_counted_by_its_route_and_the_time_that_it_waited() -> None:
    counted: list[object] = []

    class Counting(Metrics):
        def request(self, *given: object) -> None:
            counted.append(given)

        def unread(self, seconds: float) -> None:
            counted.append(seconds)

    access = AccessSettings(root_path="/far")
    asked = Request("GET", b"/far/v1/indexes/a/search/?query=x", [HOST])
    assert Refusals(Counting(), access, "127.0.0.1").answer(asked, ERROR, 2.5, OWN)
    assert counted == [2.5, ("/v1/search", "GET", 429, 0.0)]


def test_each_has_the_id_of_its_request_or_one_of_its_own() -> None:
    named = [HOST, KIND, (b"x-request-id", b"mine")]
    assert b"\r\nx-request-id: mine\r\n" in (
        refusals().answer(ASKED._replace(headers=named), ERROR, 1.0, OWN) or b""
    )
    own = {(refusals().answer(ASKED, ERROR, 1.0, OWN) or b"") for _ in range(2)}
    assert len(own) == 2
    assert all(bytes(problem_of(ERROR).body) in answer for answer in own)


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, KIND, (b"origin", b"http://localhost:8000")],
        [HOST, KIND, (b"sec-fetch-site", b"cross-site")],
        [KIND, (b"host", b"elsewhere.example")],
        [HOST, HOST, KIND],
        [KIND, (b"host", b"a b")],
        [KIND],
        [HOST, (b"content-type", b"text/plain")],
        [HOST],
    ],
)
def test_what_the_application_is_to_see_first_is_left_to_it(
    headers: list[tuple[bytes, bytes]],
) -> None:
    assert refusals().answer(ASKED, ERROR, 1.0, OWN)
    assert refusals().answer(ASKED._replace(headers=headers), ERROR, 1.0, OWN) is None


def test_where_keys_or_logs_or_traces_see_each_request_the_application_answers() -> None:
    for access in (
        AccessSettings(keys=Path("keys")),
        AccessSettings(log=LogSettings(access=True)),
        AccessSettings(otlp_endpoint="http://localhost:4318"),
    ):
        assert refusals(access).answer(ASKED, ERROR, 1.0, OWN) is None


def test_of_a_server_that_stops_the_application_says_it() -> None:
    assert refusals().answer(ASKED, Unavailable("it stops"), 1.0, OWN) is None
    assert refusals().answer(ASKED._replace(method="HEAD"), ERROR, 1.0, OWN) is None


@pytest.mark.parametrize(
    "target", [b"http://localhost/v1/search", b"/v1/indexes/a%2Fb/search", b"/v1/s\xc3\xa4/search"]
)
def test_paths_that_are_to_be_read_first_are_left_to_the_application(target: bytes) -> None:
    assert refusals().answer(ASKED._replace(target=target), ERROR, 1.0, OWN) is None
    assert refusals().answer(ASKED._replace(target=b"/v1/search?query=%20"), ERROR, 1.0, OWN)


def test_no_more_are_refused_of_one_connection_than_may_wait(tmp_path: Path) -> None:
    most = SHORT.pipelined_max
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        with Peer(gateway.url, search("more") * (most + 5)) as peer:
            found = peer.rest()
        assert found.count(b"HTTP/1.1 429") == most + 1
        *_, last = found.split(b"HTTP/1.1 ")
        assert b"connection: close" in last
        assert b"over 16 requests of this connection" in last
        counted = httpx.get(f"{gateway.url}/metrics").text
        assert "bitsift_http_unread_seconds_count 1.0" in counted
        free()


def test_what_comes_when_places_are_free_again_is_not_refused(tmp_path: Path) -> None:
    """Its head began behind a request that was refused."""
    last = search("last")
    with (
        all_places_taken(tmp_path, SHORT) as (gateway, free),
        Peer(gateway.url, search("more") + last[:30]) as peer,
    ):
        assert peer.answer().startswith(b"HTTP/1.1 429")
        free()
        peer.send(last[30:])
        assert peer.answer().startswith(b"HTTP/1.1 200")


def test_the_time_for_a_next_request_does_not_run_while_one_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        gateway.server.config.timeout_keep_alive = 1

        async def slow(_: float) -> list[object]:
            await asyncio.sleep(2.5)
            return []

        monkeypatch.setattr(type(gateway.service.shards), "last_known", lambda *_: slow(0.0))
        behind = b"GET /v1/index HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        with Peer(gateway.url, search("more") + behind) as peer:
            found = peer.rest()
        assert b" 429 " in found
        assert found.count(b"HTTP/1.1 200") == 1
        free()


def _as_it_is(head: bytes) -> bytes:
    return head


def _closing(head: bytes) -> bytes:
    return head + b"connection: close\r\n"


def _of_1_0(head: bytes) -> bytes:
    return head.replace(b"HTTP/1.1", b"HTTP/1.0")


@pytest.mark.parametrize("form", [_as_it_is, _closing, _of_1_0])
def test_connections_go_on_or_end_as_their_callers_said(
    tmp_path: Path, form: Callable[[bytes], bytes]
) -> None:
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        with Peer(gateway.url, search("more", form(SEARCH))) as peer:
            if form is _as_it_is:
                assert peer.answer().startswith(b"HTTP/1.1 429")
                peer.send(search("again") + search("last", _closing(SEARCH)))
            found = peer.rest()
            assert found.count(b" 429 ") == (1 if form is not _as_it_is else 2)
            assert b"connection: close" in found
        free()


def test_bodies_that_come_later_are_dropped(tmp_path: Path) -> None:
    """The first request of a connection, of which the application never hears."""
    whole = search("more")
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        with Peer(gateway.url, whole[:-5]) as peer:
            assert peer.answer().startswith(b"HTTP/1.1 429")
            peer.send(whole[-5:])
            peer.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert peer.answer().startswith(b"HTTP/1.1 200")
        free()


def test_whoever_takes_no_answers_is_refused_by_the_application_which_waits_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, made = b"x" * (8 << 20), []

    def answer(*given: object) -> bytes:
        made.append(given)
        return large

    asked = search("more") + search("again") + search("last", _closing(SEARCH))
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        monkeypatch.setattr(gateway.connections.refusals, "answer", answer)
        with Peer(gateway.url, asked) as peer:
            assert wait_until(lambda: len(made) > 0)
            said = peer.rest()[len(large) :]
        assert len(made) == 1
        assert said.startswith(b"HTTP/1.1 429")
        assert said.count(b"HTTP/1.1 429") == 2
        free()
