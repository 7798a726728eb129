"""So many searches are answered at a time. Requests for more stay unread, so that a caller that
asks too much costs the others little.

To read a request, find that it would wait for too long and say so took 0.7 ms, an answer 3 ms:
asked five times as much as it can answer, a server would do hardly anything else. So a connection
that asks for a search while all places are taken is not read from, and TCP slows its sender down.
The newest goes first, since it has most of its time left; one that stayed unread for ``held_s`` is
refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsift.errors import Overloaded
from bitsift.options import SearchOptions
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.problems import problem_of

UNREAD, REFUSED, LEAVE = "bitsift.unread_s", "bitsift.refused", "bitsift.leave"
"""In a request's state: how long it stayed unread, that it did so for too long, and what to call
when its place is free.
"""


class Asking(Protocol):
    """A connection that asks for a search."""

    loop: asyncio.AbstractEventLoop

    def let_in(self, held_s: float, *, refused: bool) -> None:
        """Read the request, after ``held_s``."""


def asks_for_search(begin: bytes) -> bool:
    """Whether what begins like this, a request or a URL, asks for a search. A guess: nothing but
    the time depends on it.
    """
    path = begin.partition(b"\n")[0].partition(b"?")[0]
    return b"search" in path.partition(b"/v1/")[2]


def in_the_time_left(scope: Scope, search: SearchOptions) -> SearchOptions:
    """``search`` with less time, where its request stayed unread."""
    held_s = scope.get("state", {}).get(UNREAD, 0.0)
    return replace(search, timeout_ms=max(1, round(search.timeout_ms - 1e3 * held_s)))


class SearchPlaces:
    """The places of one server. Lives in its event loop."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._taken: set[Asking] = set()
        self._most = limits.searches_min
        self._answered, self._since_s = 0, 0.0
        self._held: dict[Asking, float] = {}  # since when; the oldest first
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """How many requests are unread."""
        return len(self._held)

    @property
    def are_taken(self) -> bool:
        return len(self._taken) >= self._most

    def hold(self, connection: Asking) -> None:
        """Call its ``let_in`` when a place is free, or in ``held_s``."""
        self._held[connection] = connection.loop.time()
        self._wait(connection.loop)

    def take(self, connection: Asking) -> None:
        """An answer is being made for it, until ``leave``."""
        self._taken.add(connection)

    def leave(self, connection: Asking) -> None:
        """Its answer has begun, or it is lost."""
        self._held.pop(connection, None)
        if connection in self._taken:
            self._taken.remove(connection)
            self._count(connection.loop.time())
            if self._held:
                connection.loop.call_soon(self._let_in, connection.loop)

    def _count(self, now_s: float) -> None:
        """One more was answered. There are as many places as are answered in a second."""
        self._answered += 1
        elapsed_s = now_s - self._since_s
        if elapsed_s >= 1.0:
            of_a_second = round(self._answered / elapsed_s)
            self._most = min(max(of_a_second, self._limits.searches_min), self._limits.searches_max)
            self._answered, self._since_s = 0, now_s

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._held and not self.are_taken:
            connection, since = self._held.popitem()
            connection.let_in(loop.time() - since, refused=False)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and self._held:
            oldest = next(iter(self._held.values()))
            self._timer = loop.call_at(oldest + self._limits.held_s, self._refuse, loop)

    def _refuse(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        too_long = loop.time() - self._limits.held_s
        for connection, since in list(self._held.items()):
            if since > too_long:
                break
            self._held.pop(connection)
            connection.let_in(loop.time() - since, refused=True)
        self._wait(loop)


class InPlace:
    """Refuses what stayed unread for too long. Another search leaves its place when its answer
    begins, however slowly its peer takes that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem, or go on."""
        state = scope.get("state", {})
        if state.get(REFUSED):
            said = "more searches are waiting than can be answered in time; try again later"
            await problem_of(Overloaded(said))(scope, receive, send)
        elif LEAVE in state:
            await self._app(scope, receive, _leaving(send, state[LEAVE]))
        else:
            await self._app(scope, receive, send)


def _leaving(send: Send, leave: Callable[[], None]) -> Send:
    async def sent(message: Message) -> None:
        leave()
        await send(message)

    return sent
