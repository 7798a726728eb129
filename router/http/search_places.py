"""So many searches are answered at a time. Requests for more stay unread, so that a caller that
asks too much costs the others little.

To read a request, find that it would wait for too long and say so took 0.7 ms, an answer 3 ms:
asked five times as much as it can answer, a server would do hardly anything else. So a connection
that asks for a search while all places are taken is not read from, and TCP slows its sender down.
The newest goes first, since it has most of its time left; one that stayed unread for ``unread_s``
is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsift.errors import BitsiftError, Overloaded, Unavailable
from bitsift.options import SearchOptions
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.problems import problem_of

log = logging.getLogger(__name__)

UNREAD, REFUSAL, LEAVE = "bitsift.unread_s", "bitsift.refusal", "bitsift.leave"
"""In a request's state: how long it stayed unread, why it is refused, and what to call when its
place is free, with whether it was answered.
"""
REFUSED_PER_TURN = 20
"""Connections of which requests are refused in one turn of the event loop: by the protocol that
takes 2 ms, by the application 4.
"""
_AGAIN_S = 0.05
"""How often it is looked at whether a place is free though no answer has begun: requests that were
let in take their places when their bodies have come, and slow ones lose them.
"""
_LINE_BYTES = 4_096
"""Of a request are looked at, for what it asks."""
_METHODS = (b"GET", b"HEAD", b"POST")


class Asking(Protocol):
    """A connection that asks for a search."""

    loop: asyncio.AbstractEventLoop

    def let_in(self, unread_s: float, refusal: BitsiftError | None) -> None:
        """Read the request, after ``unread_s``; ``refusal`` is its answer."""

    def abort(self) -> None:
        """Close at once."""


def asks_for_search(method: bytes, target: bytes) -> bool:
    """Whether a request asks for a search, of whichever index, below whichever ``root_path``."""
    path = target.partition(b"?")[0].rstrip(b"/").removesuffix(b"/batch")
    *before, last = path.split(b"/")[-4:]
    is_one = before[-1:] == [b"v1"] or before[:2] == [b"v1", b"indexes"]
    return last == b"search" and is_one and method in _METHODS


def begins_search(data: bytes) -> bool:
    """Whether ``data``, the begin of a request, asks for a search as far as it shows."""
    method, _, rest = data[:_LINE_BYTES].lstrip(b"\r\n").partition(b"\n")[0].partition(b" ")
    return asks_for_search(method, rest.partition(b" ")[0])


def in_the_time_left(scope: Scope, search: SearchOptions) -> SearchOptions:
    """``search`` with less time, where its request stayed unread. Raises Overloaded where none is
    left.
    """
    unread_s = scope.get("state", {}).get(UNREAD, 0.0)
    if not unread_s:
        return search
    left_ms = search.timeout_ms - 1e3 * unread_s
    if left_ms < 1:
        raise Overloaded(
            f"so many searches are waiting that this one stayed unread for {unread_s:.1f} s, more "
            f"than the {search.timeout_s:.3f} s that it has; try again later"
        )
    return replace(search, timeout_ms=round(left_ms))


class SearchPlaces:
    """The places of one server, for all its indexes. Lives in its event loop."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._taken: dict[Asking, float] = {}  # since when; the oldest first
        self._most = limits.searches_min
        self._answered, self._since_s = 0, 0.0
        self._unread: dict[Asking, float] = {}  # since when; the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None

    @property
    def unread(self) -> int:
        """How many requests are unread."""
        return len(self._unread)

    @property
    def taken(self) -> int:
        """How many answers are being made."""
        return len(self._taken)

    def are_taken(self, now_s: float) -> bool:
        """Whether no place is free. Answers that take long keep theirs for ``place_s``."""
        while self._taken:
            oldest, since_s = next(iter(self._taken.items()))
            if now_s - since_s < self._limits.place_s:
                break
            del self._taken[oldest]
        return len(self._taken) >= self._most

    def hold(self, connection: Asking) -> None:
        """Call its ``let_in`` when a place is free, or in ``unread_s``, or when too many wait."""
        loop = connection.loop
        self._unread[connection] = loop.time()
        if self._looking is None:
            self._looking = loop.call_later(_AGAIN_S, self._look_again, loop)
        if len(self._unread) > self._limits.unread_max:
            loop.call_soon(self._refuse, loop)
        self._wait(loop)

    def take(self, connection: Asking) -> None:
        """An answer is being made for it, until ``leave``."""
        self._taken[connection] = connection.loop.time()

    def leave(self, connection: Asking, *, answered: bool = False) -> None:
        """Its answer has begun, or it is lost."""
        self._unread.pop(connection, None)
        if answered:
            self._count(connection.loop.time())
        if self._taken.pop(connection, None) is not None and self._unread:
            connection.loop.call_soon(self._let_in, connection.loop)

    def turn_away(self, connection: Asking) -> None:
        """Refuse what is unread of it: the server stops."""
        if connection in self._unread:
            self._let(connection, Unavailable("the server is shutting down; try again later"))

    def _count(self, now_s: float) -> None:
        """One more was answered. There are as many places as are answered in a second."""
        self._answered += 1
        elapsed_s = now_s - self._since_s
        if elapsed_s >= 1.0:
            of_a_second = round(self._answered / elapsed_s)
            self._most = min(max(of_a_second, self._limits.searches_min), self._limits.searches_max)
            self._answered, self._since_s = 0, now_s

    def _let(self, connection: Asking, refusal: BitsiftError | None) -> None:
        since_s = self._unread.pop(connection)
        try:
            connection.let_in(connection.loop.time() - since_s, refusal)
        except Exception:  # the others are to be let in all the same
            log.exception("a request that waited could not be read")
            connection.abort()

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.are_taken(loop.time()):
            for _ in range(self._most - len(self._taken)):
                if self._unread:
                    self._let(next(reversed(self._unread)), None)
        if self._unread and self._looking is None:
            self._looking = loop.call_later(_AGAIN_S, self._look_again, loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = None
        self._let_in(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and self._unread:
            oldest_s = next(iter(self._unread.values()))
            self._timer = loop.call_at(oldest_s + self._limits.unread_s, self._time_is_over, loop)

    def _time_is_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._refuse(loop)

    def _refuse(self, loop: asyncio.AbstractEventLoop) -> None:
        """The oldest, while they have waited for too long or are too many."""
        for _ in range(REFUSED_PER_TURN):
            if not self._is_too_much(loop.time()):
                self._wait(loop)
                return
            said = "more searches are waiting than can be answered in time; try again later"
            self._let(next(iter(self._unread)), Overloaded(said))
        loop.call_soon(self._refuse, loop)

    def _is_too_much(self, now_s: float) -> bool:
        if len(self._unread) > self._limits.unread_max:
            return True
        oldest_s = next(iter(self._unread.values()), now_s)
        return now_s - oldest_s >= self._limits.unread_s


class InPlace:
    """Refuses what stayed unread for too long. Another search leaves its place when its answer
    begins, however slowly its peer takes that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or go on."""
        state = scope.get("state", {})
        if REFUSAL in state:
            await problem_of(state[REFUSAL])(scope, receive, send)
        elif LEAVE in state:
            await self._app(scope, receive, _leaving(send, state[LEAVE]))
        else:
            await self._app(scope, receive, send)


def _leaving(send: Send, leave: Callable[..., None]) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            leave(answered=message["status"] == HTTPStatus.OK)
        await send(message)

    return sent
