"""Searches for which no place is free stay unread: a real uvicorn on loopback, real shards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from bitsift.options import SearchOptions
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.search_places import (
    LEAVE,
    UNREAD,
    InPlace,
    SearchPlaces,
    asks_for_search,
    in_the_time_left,
)
from tests.commands import wait_until
from tests.gateways import Running
from tests.router.http.test_protocol import GET, SEARCH, SMALL, Peer, serving
from tests.router.http.test_request_limits import slow_encoder
from tests.threads import ended

FEW = replace(SMALL, searches_min=2, searches_max=2, held_s=30.0, connections_max=300)
SHORT = replace(FEW, held_s=0.2)


def search(text: str, head: bytes = SEARCH) -> bytes:
    body = json.dumps({"query": text}).encode()
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def held(gateway: Running, count: int) -> bool:
    return wait_until(lambda: gateway.connections.searches.held == count)


@contextlib.contextmanager
def all_places_taken(
    folder: Path, limits: HttpLimits
) -> Iterator[tuple[Running, Callable[[], None]]]:
    """A server whose two places are taken, until what is given is called."""
    entered = threading.Semaphore(0)
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(serving(folder, limits))
        gate = stack.enter_context(slow_encoder(gateway, entered))
        first = [stack.enter_context(Peer(gateway.url, search(f"{n}"))) for n in range(2)]
        assert wait_until(lambda: gateway.connections.searches.are_taken)

        def free() -> None:
            gate.set()
            for peer in first:
                assert peer.answer().startswith(b"HTTP/1.1 200")

        yield gateway, free


# --- requests ------------------------------------------------------------------------------------


def test_searches_beyond_the_places_wait_unread_and_all_are_answered(tmp_path: Path) -> None:
    with all_places_taken(tmp_path, FEW) as (gateway, free), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(gateway.url, search(f"more {n}"))) for n in range(20)]
        assert held(gateway, 20)
        assert gateway.connections.waiting == 0, "no place is taken from one that waits for us"
        free()
        for peer in peers:
            assert peer.answer().startswith(b"HTTP/1.1 200")
            peer.send(search("once more"))
            assert peer.answer().startswith(b"HTTP/1.1 200")
        assert held(gateway, 0)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v1/index", "/"])
def test_other_requests_pass_by_searches_that_wait(tmp_path: Path, path: str) -> None:
    with (
        all_places_taken(tmp_path, FEW) as (gateway, free),
        Peer(gateway.url, search("more")) as peer,
    ):
        assert held(gateway, 1)
        assert httpx.get(f"{gateway.url}{path}", timeout=10).status_code == 200
        free()
        assert peer.answer().startswith(b"HTTP/1.1 200")


def test_what_stays_unread_for_too_long_is_refused_and_its_connection_is_kept(
    tmp_path: Path,
) -> None:
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        head = SEARCH + b"origin: http://localhost\r\nx-request-id: mine\r\n"
        with Peer(gateway.url, search("more", head)) as peer:
            refused, _, body = peer.answer().partition(b"\r\n\r\n")
            assert refused.startswith(b"HTTP/1.1 429"), refused
            for name in (b"retry-after: ", b"x-content-type-options: ", b"x-request-id: mine"):
                assert name in refused.lower(), refused
            assert json.loads(body)["type"] == "bitsift:Overloaded"
            assert json.loads(body)["outcome"] == "not_done"
            free()
            peer.send(search("once more"))
            assert peer.answer().startswith(b"HTTP/1.1 200")
        metrics = httpx.get(f"{gateway.url}/metrics").text
        assert 'route="/v1/search",status="429"' in metrics
        assert "bitsift_http_unread_seconds_count 1.0" in metrics


def test_whoever_may_not_search_is_told_so_first(tmp_path: Path) -> None:
    with all_places_taken(tmp_path, SHORT) as (gateway, _):
        foreign = SEARCH.replace(b"host: localhost", b"host: elsewhere.example")
        with Peer(gateway.url, search("more", foreign)) as peer:
            assert peer.answer().startswith(b"HTTP/1.1 421")


def test_senders_of_half_a_body_take_no_place(tmp_path: Path) -> None:
    with serving(tmp_path, FEW) as gateway, contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(Peer(gateway.url, SEARCH + b"content-length: 99\r\n\r\n{"))
        assert wait_until(lambda: len(gateway.connections) == 50)
        assert not gateway.connections.searches.are_taken
        assert httpx.post(f"{gateway.url}/v1/search", json={"query": "a"}).status_code == 200


def test_a_place_is_free_again_when_its_client_is_gone(tmp_path: Path) -> None:
    entered = threading.Semaphore(0)
    with serving(tmp_path, FEW) as gateway, slow_encoder(gateway, entered):
        peers = [Peer(gateway.url, search(f"{n}")) for n in range(3)]
        assert held(gateway, 1)
        for peer in peers:
            peer.socket.close()
        assert wait_until(lambda: len(gateway.connections) == 0)
        assert held(gateway, 0)
        assert not gateway.connections.searches.are_taken


def test_a_request_in_two_pieces_and_one_behind_another_are_answered(tmp_path: Path) -> None:
    whole = search("more")
    with (
        all_places_taken(tmp_path, FEW) as (gateway, free),
        Peer(gateway.url, whole[:-5]) as apart,
        Peer(gateway.url, whole + whole) as twice,
    ):
        assert held(gateway, 2)
        apart.send(whole[-5:])
        free()
        assert apart.answer().startswith(b"HTTP/1.1 200")
        twice.send(GET + b"connection: close\r\n\r\n")
        assert twice.rest().count(b"HTTP/1.1 200") == 3


def test_a_server_that_stops_refuses_what_it_has_not_read(tmp_path: Path) -> None:
    with (
        all_places_taken(tmp_path, FEW) as (gateway, free),
        Peer(gateway.url, search("more")) as peer,
    ):
        assert held(gateway, 1)
        stopping = threading.Thread(target=gateway.stop)
        stopping.start()
        assert peer.rest().startswith(b"HTTP/1.1 429")
        free()
        ended(stopping)


def test_the_time_that_a_request_stayed_unread_is_of_the_time_that_it_has() -> None:
    asked = SearchOptions(query="a", timeout_ms=1_000)
    assert in_the_time_left({"state": {}}, asked) == asked
    assert in_the_time_left({"state": {UNREAD: 0.25}}, asked).timeout_ms == 750
    assert in_the_time_left({"state": {UNREAD: 2.5}}, asked).timeout_ms == 1


@pytest.mark.parametrize(
    ("begin", "asks"),
    [
        (b"POST /v1/search HTTP/1.1\r\n", True),
        (b"POST /below/v1/indexes/a/search HTTP/1.1\r\n", True),
        (b"POST /v1/search/batch HTTP/1.1\r\n", True),
        (b"GET /v1/search?q=a HTTP/1.1\r\n", True),
        (b"/v1/search", True),
        (b"GET /v1/documents?id=/v1/search HTTP/1.1\r\n", False),
        (b"GET /livez HTTP/1.1\r\nreferer: /v1/search\r\n", False),
        (b"POST /v1/sea", False),
        (b"", False),
    ],
)
def test_requests_for_searches_are_known_by_their_first_line(begin: bytes, asks: bool) -> None:
    assert asks_for_search(begin) is asks


def test_a_place_is_free_when_the_answer_begins_however_slowly_it_is_taken() -> None:
    happened: list[str] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        happened.append("answering")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def slow(_: Message) -> None:
        happened.append("sending")

    async def nothing() -> Message:
        raise AssertionError

    scope = {"type": "http", "state": {LEAVE: lambda: happened.append("left")}}
    asyncio.run(InPlace(app)(scope, nothing, slow))
    assert happened == ["answering", "left", "sending"]


# --- places --------------------------------------------------------------------------------------


class FakeLoop:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, call: Callable[..., None], *given: object) -> None:
        self.soon.append(lambda: call(*given))

    def call_at(self, when_s: float, call: Callable[..., None], *given: object) -> object:
        self.later.append((when_s, lambda: call(*given)))
        return object()

    def turn(self) -> None:
        due = [call for when_s, call in self.later if when_s <= self.now_s]
        self.later = [one for one in self.later if one[0] > self.now_s]
        soon, self.soon = self.soon, []
        for call in soon + due:
            call()


class FakeConnection:
    """Takes a place when it is let in, unless it is refused."""

    def __init__(self, places: SearchPlaces, loop: FakeLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop  # type: ignore[assignment]
        self.places = places
        self.became: list[str] = []

    def ask(self) -> None:
        if self.places.are_taken:
            self.places.hold(self)
        else:
            self.let_in(0.0, refused=False)

    def let_in(self, held_s: float, *, refused: bool) -> None:
        assert not refused or held_s >= 1.0
        self.became.append("refused" if refused else "taken")
        if not refused:
            self.places.take(self)


def test_the_newest_is_let_in_first_and_the_oldest_refused_first() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=1, searches_max=1, held_s=1.0))
    first, second, third = (FakeConnection(places, loop) for _ in range(3))
    for connection in (first, second, third):
        connection.ask()
        loop.now_s += 0.25
    places.leave(first)
    loop.turn()
    assert (second.became, third.became) == ([], ["taken"])
    loop.now_s = 1.24
    loop.turn()
    assert second.became == []
    loop.now_s = 1.26
    loop.turn()
    assert second.became == ["refused"]


def test_there_are_as_many_places_as_searches_are_answered_in_a_second() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=2, searches_max=5))

    def room() -> int:
        taken = []
        while not places.are_taken:
            taken.append(FakeConnection(places, loop))
            places.take(taken[-1])
        for connection in taken:
            places._taken.discard(connection)
        return len(taken)

    def answer(per_s: int) -> int:
        for _ in range(3 * per_s):
            connection = FakeConnection(places, loop)
            places.take(connection)
            loop.now_s += 1 / per_s
            places.leave(connection)
        return room()

    assert [room(), answer(4), answer(1), answer(40), answer(3)] == [2, 4, 2, 5, 3]


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "answered", "lost", "later"]), st.integers(0, 7)))
)
def test_nobody_waits_while_a_place_is_free_and_each_is_let_in_once(
    steps: list[tuple[str, int]],
) -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=2, searches_max=2, held_s=1.0))
    open_ = [FakeConnection(places, loop) for _ in range(8)]
    asked = set[FakeConnection]()
    for what, number in steps:
        connection = open_[number]
        if what == "ask" and connection not in asked:
            asked.add(connection)
            connection.became.clear()
            connection.ask()
        elif what == "later":
            loop.now_s += number / 4
        elif what == "lost" or connection.became:
            places.leave(connection)
            asked.discard(connection)
        loop.turn()
        taken = [one for one in asked if one.became == ["taken"]]
        assert all(len(one.became) <= 1 for one in asked)
        assert len(taken) <= 2
        waiting = [one for one in asked if not one.became]
        assert len(waiting) == places.held
        assert not waiting or len(taken) == 2
    loop.now_s += 1.0
    loop.turn()
    assert places.held == 0
