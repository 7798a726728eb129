"""Searches for which no place is free stay unread: a real uvicorn on loopback, real shards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from bitsift.errors import BitsiftError, Overloaded
from bitsift.options import SearchOptions
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.search_places import (
    LEAVE,
    REFUSED_PER_TURN,
    UNREAD,
    InPlace,
    SearchPlaces,
    begins_search,
    in_the_time_left,
)
from tests.commands import wait_until
from tests.gateways import Running
from tests.router.http.test_protocol import GET, SEARCH, SMALL, Peer, serving
from tests.router.http.test_request_limits import slow_encoder
from tests.threads import ended

FEW = replace(
    SMALL, searches_min=2, searches_max=2, unread_s=30.0, place_s=30.0, connections_max=300
)
SHORT = replace(FEW, unread_s=0.2)


def search(text: str, head: bytes = SEARCH) -> bytes:
    body = json.dumps({"query": text}).encode()
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def held(gateway: Running, count: int) -> bool:
    return wait_until(lambda: gateway.connections.searches.unread == count)


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
        assert wait_until(lambda: gateway.connections.searches.taken == 2)

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


@pytest.mark.parametrize(
    "more",
    [b"", b"origin: http://localhost\r\n", b"expect: 100-continue\r\n"],
    ids=["by_the_protocol", "by_the_application", "by_the_application_2"],
)
def test_what_stays_unread_for_too_long_is_refused_and_its_connection_is_kept(
    tmp_path: Path, more: bytes
) -> None:
    with all_places_taken(tmp_path, SHORT) as (gateway, free):
        head = SEARCH + more + b"x-request-id: mine\r\n"
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
        assert 'method="POST",route="/v1/search",status="429"} 1.0' in metrics
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
        assert gateway.connections.searches.taken == 0
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
        assert gateway.connections.searches.taken == 0


def test_nothing_is_searched_for_callers_that_went_while_they_waited(tmp_path: Path) -> None:
    with all_places_taken(tmp_path, FEW) as (gateway, free):
        gone = [Peer(gateway.url, search(f"gone {n}")) for n in range(20)]
        with Peer(gateway.url, search("there")) as there:
            assert held(gateway, 21)
            for peer in gone:
                peer.socket.close()
            searched = list[str | None]()
            find = gateway.service.search

            async def watched(options: SearchOptions, *given: Any, **named: Any) -> Any:
                searched.append(options.query)
                return await find(options, *given, **named)

            gateway.service.search = watched  # type: ignore[method-assign]
            free()
            assert there.answer().startswith(b"HTTP/1.1 200")
            assert wait_until(lambda: gateway.connections.searches.unread == 0)
            assert searched == ["there"]


def test_a_connection_whose_request_was_refused_before_its_body_came_is_closed_in_time(
    tmp_path: Path,
) -> None:
    whole = search("more")
    with all_places_taken(tmp_path, SHORT) as (gateway, _):
        gateway.server.config.timeout_keep_alive = 1
        with Peer(gateway.url, whole[:-5]) as peer:
            assert peer.answer().startswith(b"HTTP/1.1 429")
            peer.send(whole[-5:])
            assert peer.rest() == b""


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


def test_one_freed_place_lets_one_in_though_bodies_come_later(tmp_path: Path) -> None:
    """Whoever was let in takes the place when all of the request is there."""
    with all_places_taken(tmp_path, FEW) as (gateway, free), contextlib.ExitStack() as stack:
        whole = search("more")
        peers = [stack.enter_context(Peer(gateway.url, whole[:-5])) for _ in range(40)]
        assert held(gateway, 40)
        seen = [0]
        take = gateway.connections.searches.take

        def watched(connection: Any) -> None:
            take(connection)
            seen.append(gateway.connections.searches.taken)

        gateway.connections.searches.take = watched  # type: ignore[method-assign]
        free()
        for peer in peers:
            peer.send(whole[-5:])
        for peer in peers:
            assert peer.answer().startswith(b"HTTP/1.1 200")
        assert 1 <= max(seen) <= 10


def test_requests_behind_one_that_waited_are_refused_with_it(tmp_path: Path) -> None:
    with (
        all_places_taken(tmp_path, SHORT) as (gateway, _),
        Peer(gateway.url, search("one") + search("two")) as peer,
    ):
        peer.send(GET + b"connection: close\r\n\r\n")
        answers = re.findall(rb"HTTP/1.1 (\d+)", peer.rest())
        assert answers == [b"429", b"429", b"200"]


def test_a_search_behind_another_request_takes_no_place(tmp_path: Path) -> None:
    """It may wait for a peer that does not take the answer before it."""
    entered = threading.Semaphore(0)
    with (
        serving(tmp_path, FEW) as gateway,
        slow_encoder(gateway, entered),
        contextlib.ExitStack() as stack,
    ):
        for _ in range(4):
            stack.enter_context(Peer(gateway.url, GET + b"\r\n" + search("behind")))
        assert entered.acquire(timeout=30)
        assert gateway.connections.searches.taken == 0


def test_too_many_that_wait_are_refused_and_others_find_a_connection(tmp_path: Path) -> None:
    few = replace(FEW, connections_max=20, head_timeout_s=10.0)  # this machine may be busy
    with all_places_taken(tmp_path, few) as (gateway, _), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(gateway.url, search(f"{n}"))) for n in range(13)]
        for peer in peers[:3]:
            assert peer.answer().startswith(b"HTTP/1.1 429"), "the oldest"
        assert held(gateway, 10)
        for _ in range(30):
            assert httpx.get(f"{gateway.url}/livez", timeout=10).status_code == 200


@pytest.mark.parametrize("kind", ["post", "url", "batch"])
def test_a_search_that_stayed_unread_for_all_of_its_time_is_refused(
    tmp_path: Path, kind: str
) -> None:
    asked = {"query": "more", "timeout_ms": 100}
    head = SEARCH.replace(b"/v1/search", b"/v1/search/batch") if kind == "batch" else SEARCH
    body = json.dumps({"searches": [asked]} if kind == "batch" else asked).encode()
    sent = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    if kind == "url":
        sent = GET.replace(b"/livez", b"/v1/search?q=more&timeout_ms=100") + b"\r\n"
    with all_places_taken(tmp_path, FEW) as (gateway, free), Peer(gateway.url, sent) as peer:
        assert held(gateway, 1)
        time.sleep(0.15)
        free()
        answer = peer.answer()
        assert b"this one stayed unread for 0." in answer
        assert answer.startswith(b"HTTP/1.1 200" if kind == "batch" else b"HTTP/1.1 429")


def test_neither_the_time_for_a_head_nor_that_for_the_next_request_runs_meanwhile(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, FEW) as gateway, contextlib.ExitStack() as stack:
        gateway.server.config.timeout_keep_alive = 1
        second = stack.enter_context(Peer(gateway.url, GET + b"\r\n"))
        assert second.answer().startswith(b"HTTP/1.1 200")
        with slow_encoder(gateway, threading.Semaphore(0)) as gate:
            first = [stack.enter_context(Peer(gateway.url, search(f"{n}"))) for n in range(2)]
            assert wait_until(lambda: gateway.connections.searches.taken == 2)
            second.send(search("next"))
            fresh = stack.enter_context(Peer(gateway.url, search("more")[:-5]))
            assert held(gateway, 2)
            paused = [one.flow.read_paused for one in gateway.connections._open]  # type: ignore[attr-defined]
            assert paused.count(True) == 2, "nothing is read of them"
            time.sleep(1.3)
            gate.set()
            fresh.send(search("more")[-5:])
            for peer in (*first, second, fresh):
                assert peer.answer().startswith(b"HTTP/1.1 200")


def test_a_server_that_stops_refuses_what_it_has_not_read(tmp_path: Path) -> None:
    with (
        all_places_taken(tmp_path, FEW) as (gateway, free),
        Peer(gateway.url, search("more")) as peer,
    ):
        assert held(gateway, 1)
        stopping = threading.Thread(target=gateway.stop)
        stopping.start()
        refused = peer.rest()
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"shutting down" in refused
        assert held(gateway, 0)
        free()
        ended(stopping)


def test_the_time_that_a_request_stayed_unread_is_of_the_time_that_it_has() -> None:
    asked = SearchOptions(query="a", timeout_ms=1_000)
    assert in_the_time_left({"state": {}}, asked) is asked
    assert in_the_time_left({"state": {UNREAD: 0.25}}, asked).timeout_ms == 750
    with pytest.raises(Overloaded, match="more than the 1.000 s that it has"):
        in_the_time_left({"state": {UNREAD: 2.5}}, asked)


@pytest.mark.parametrize(
    ("begin", "asks"),
    [
        (b"POST /v1/search HTTP/1.1\r\n", True),
        (b"POST /below/v1/indexes/a/search HTTP/1.1\r\n", True),
        (b"POST /v1/search/batch HTTP/1.1\r\n", True),
        (b"POST /v1/indexes/a/search/batch/ HTTP/1.1\r\n", True),
        (b"GET /v1/search?q=a/b HTTP/1.1\r\n", True),
        (b"HEAD /v1/search/ HTTP/1.1\r\n", True),
        (b"\r\nPOST /v1/search HTTP/1.1\r\n", True),
        (b"OPTIONS /v1/search HTTP/1.1\r\n", False),
        (b"GET /v1/indexes/research HTTP/1.1\r\n", False),
        (b"GET /v1/indexes/search HTTP/1.1\r\n", False),
        (b"POST /v1/indexes/research/documents HTTP/1.1\r\n", False),
        (b"DELETE /v1/documents/search HTTP/1.1\r\n", False),
        (b"GET /v1/documents/search HTTP/1.1\r\n", False),
        (b"GET /v1/research/livez HTTP/1.1\r\n", False),
        (b"GET /v1/documents?id=/v1/search HTTP/1.1\r\n", False),
        (b"GET /livez HTTP/1.1\r\nreferer: /v1/search\r\n", False),
        (b"POST /v1/sea", False),
        (b"", False),
    ],
)
def test_requests_for_searches_are_known_by_their_first_line(begin: bytes, asks: bool) -> None:
    assert begins_search(begin) is asks


def test_a_place_is_free_when_the_answer_begins_however_slowly_it_is_taken() -> None:
    happened: list[str] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        happened.append("answering")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def slow(_: Message) -> None:
        happened.append("sending")

    async def nothing() -> Message:
        raise AssertionError

    def leave(*, answered: bool) -> None:
        happened.append(f"left {answered}")

    asyncio.run(InPlace(app)({"type": "http", "state": {LEAVE: leave}}, nothing, slow))
    assert happened == ["answering", "left True", "sending"]


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

    def call_later(self, delay_s: float, call: Callable[..., None], *given: object) -> object:
        return self.call_at(self.now_s + delay_s, call, *given)

    def turn(self) -> None:
        due = [call for when_s, call in self.later if when_s <= self.now_s]
        self.later = [one for one in self.later if one[0] > self.now_s]
        soon, self.soon = self.soon, []
        for call in soon + due:
            call()


class FakeConnection:
    """Takes a place when it is let in and its body is there, unless it is refused."""

    def __init__(self, places: SearchPlaces, loop: FakeLoop, *, has_body: bool = True) -> None:
        self.loop: asyncio.AbstractEventLoop = loop  # type: ignore[assignment]
        self.places = places
        self.has_body = has_body
        self.fails = False
        self.became: list[str] = []

    def ask(self) -> None:
        if self.places.are_taken(self.loop.time()):
            self.places.hold(self)
        else:
            self.let_in(0.0, None)

    def let_in(self, unread_s: float, refusal: BitsiftError | None) -> None:
        if self.fails:
            raise RuntimeError("injected")
        assert refusal is None or unread_s >= 1.0
        self.became.append("let in" if refusal is None else "refused")
        if refusal is None and self.has_body:
            self.places.take(self)

    def abort(self) -> None:
        self.became.append("aborted")


def test_the_newest_is_let_in_first_and_the_oldest_refused_first() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=1, searches_max=1, unread_s=1.0))
    asked = [FakeConnection(places, loop) for _ in range(4)]
    for connection in asked:
        connection.ask()
        loop.now_s += 0.25
    places.leave(asked[0])
    loop.turn()

    def became() -> list[list[str]]:
        return [connection.became for connection in asked]

    assert became() == [["let in"], [], [], ["let in"]]
    for now_s, expected in ((1.24, [[], []]), (1.26, [["refused"], []]), (1.49, [["refused"], []]),
                            (1.51, [["refused"], ["refused"]])):  # fmt: skip
        loop.now_s = now_s
        loop.turn()
        assert became()[1:3] == expected


def test_a_slow_answer_takes_a_place_for_so_long_at_most() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=1, searches_max=1, unread_s=1.0, place_s=1.0))
    slow, other = (FakeConnection(places, loop) for _ in range(2))
    slow.ask()
    loop.now_s = 0.5
    other.ask()
    for now_s, became in ((0.9, []), (1.04, ["let in"])):
        loop.now_s = now_s
        loop.turn()
        assert other.became == became
    places.leave(slow, answered=True)
    assert places.taken == 1


def test_one_that_cannot_be_read_holds_up_no_other() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=1, searches_max=1, unread_s=1.0))
    first, second, third = (FakeConnection(places, loop) for _ in range(3))
    for connection in (first, second, third):
        connection.ask()
    third.fails = True
    places.leave(first)
    loop.turn()
    loop.now_s += 0.06
    loop.turn()
    assert (third.became, second.became) == (["aborted"], ["let in"])


def test_many_are_refused_a_few_in_each_turn_of_the_event_loop() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=1, searches_max=1, unread_s=1.0))
    asked = [FakeConnection(places, loop) for _ in range(1 + 5 * REFUSED_PER_TURN)]
    for connection in asked:
        connection.ask()
    loop.now_s = 1.0
    for turn in range(1, 6):
        loop.turn()
        refused = sum(connection.became == ["refused"] for connection in asked)
        assert refused == turn * REFUSED_PER_TURN


def test_there_are_as_many_places_as_searches_are_answered_in_a_second() -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=2, searches_max=5))

    def room() -> int:
        taken = []
        while not places.are_taken(loop.now_s):
            taken.append(FakeConnection(places, loop))
            places.take(taken[-1])
        for connection in taken:
            places.leave(connection)
        return len(taken)

    def after(per_s: int, *, answered: bool = True) -> int:
        for _ in range(3 * per_s):
            connection = FakeConnection(places, loop)
            places.take(connection)
            loop.now_s += 1 / per_s
            places.leave(connection, answered=answered)
        return room()

    assert [room(), after(4), after(1), after(40), after(3)] == [2, 4, 2, 5, 3]
    assert after(40, answered=False) == 3, "what was refused, or left, is no answer"


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "body", "leave", "later"]), st.integers(0, 7)),
        max_size=60,
    ),
    st.sets(st.integers(0, 7)),
)
def test_nobody_waits_for_long_while_a_place_is_free_and_each_is_let_in_once(
    steps: list[tuple[str, int]], without_body: set[int]
) -> None:
    loop = FakeLoop()
    places = SearchPlaces(HttpLimits(searches_min=2, searches_max=2, unread_s=1.0))
    open_ = [FakeConnection(places, loop, has_body=n not in without_body) for n in range(8)]
    asked = set[FakeConnection]()
    for what, number in steps:
        connection = open_[number]
        if what == "ask" and connection not in asked:
            asked.add(connection)
            connection.became.clear()
            connection.ask()
        elif what == "body" and connection in asked and connection.became == ["let in"]:
            places.take(connection)
        elif what == "later":
            loop.now_s += number / 4
        elif what == "leave":
            places.leave(connection)
            asked.discard(connection)
        loop.turn()
        assert all(len(one.became) <= 1 for one in asked)
        assert len([one for one in asked if not one.became]) == places.unread
        if what == "later" and number:
            assert not places.unread or places.are_taken(loop.now_s) or without_body
    loop.now_s += 1.0
    loop.turn()
    assert places.unread == 0
