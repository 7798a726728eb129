"""HTTP/1.1 as uvicorn speaks it, with limits on what a peer may take: bytes, places and time.

uvicorn with httptools reads headers, URLs, trailers and pipelined requests without end, waits for
them without end, and counts idle sockets as work. Here each of them has a limit, and the socket
that has been silent for longest gives its place to the next one.

A connection is *waiting* while something must come from its peer: the rest of a head, the rest of a
body, the next request. It is *working* while the peer waits for us. Only waiting ones are closed in
favour of others.
"""

from __future__ import annotations

import asyncio
import functools
import select
from enum import Enum
from typing import Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bitsift.errors import BitsiftError
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.refusals import Refusals, RefusedRequest, Request, closing
from bitsift.router.http.search_places import (
    LEAVE,
    REFUSAL,
    UNREAD,
    SearchPlaces,
    asks_for_search,
    begins_search,
)

_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # elsewhere than on Linux only a reset is noticed


class Connection(Protocol):
    """What is counted: an HTTP connection, or one that is still in its TLS handshake."""

    loop: asyncio.AbstractEventLoop

    def check_times(self) -> None:
        """Close what has taken too long."""

    def abort(self) -> None:
        """Close at once."""

    def drop(self, status: int, detail: str) -> None:
        """Say why, where that can be, and close."""


class Connections:
    """All connections of one server. ``protocol`` is what uvicorn's ``Config(http=…)`` takes."""

    def __init__(self, limits: HttpLimits, refusals: Refusals | None = None) -> None:
        """``refusals`` None: the application refuses all searches that are refused."""
        self.limits = limits
        self.refusals = refusals
        self.searches = SearchPlaces(limits)
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # the one that is silent for longest first
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    @property
    def waiting(self) -> int:
        """How many wait for their peers."""
        return len(self._waiting)

    def protocol(self, *args: Any, **given: Any) -> LimitedProtocol:
        return LimitedProtocol(self, *args, **given)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) > self.limits.connections_max:
            oldest = next(iter(self._waiting))
            if oldest is connection:
                oldest.drop(503, "all connections are busy; try again later")
            else:
                oldest.abort()
            self.lost(oldest)
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(self.limits.sweep_s, self._sweep)

    def heard(self, connection: Connection) -> None:
        """Something came from its peer, or is to come next."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def working(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def _sweep(self) -> None:
        self._sweeper = None
        for connection in list(self._open):
            connection.check_times()
        if self._open:
            loop = next(iter(self._open)).loop
            self._sweeper = loop.call_later(self.limits.sweep_s, self._sweep)


class _Reading(Enum):
    """What comes next from the peer."""

    HEAD = 1
    BODY = 2
    NEXT = 3
    """Nothing until the answer is sent, then another head."""
    REFUSED = 4
    """Whatever comes is dropped until the peer has had the time to read why."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self._all = connections
        self._limits = connections.limits
        self._reading = _Reading.HEAD
        self._since = self.loop.time()  # of ``_reading``, or of an answer before the body's end
        self._fields_bytes = 0  # of the head, or the trailers, as far as they are parsed
        self._unparsed_bytes = 0  # that brought neither a whole head nor a byte of a body
        self._unread = b""  # of a search for which no place is free
        self._waited: dict[str, Any] = {}  # for the states of requests that were kept
        self._heads_kept = 0  # how many of these there were
        self._takes_place = False
        self._stalled = (0, self._since)  # bytes that the peer has not taken, and since when

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._all.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.lost(self)
        self._all.searches.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read it, or keep it for later."""
        self._unset_keepalive_if_required()
        if self._unread or self._must_wait(data):
            self._hold(data)
        else:
            self._feed(data)

    def shutdown(self) -> None:
        """Answer what is asked, and close."""
        self._all.searches.turn_away(self)
        super().shutdown()

    def _must_wait(self, data: bytes) -> bool:
        return (
            self._all.searches.are_taken(self.loop.time())
            and self._answered
            and self._reading in (_Reading.HEAD, _Reading.NEXT)
            and self._unparsed_bytes == 0
            and len(data) <= self._limits.head_bytes_max
            and begins_search(data)
        )

    def _hold(self, data: bytes) -> None:
        if not self._unread:
            self.flow.pause_reading()
            self._all.working(self)
            self._all.searches.hold(self)
        self._unread += data

    def let_in(self, unread_s: float, refusal: BitsiftError | None) -> None:
        """Read what was kept."""
        data, self._unread = self._unread, b""
        if self.transport.is_closing() or self._is_gone:
            self.transport.abort()
            return
        self._waited = {UNREAD: unread_s} | ({} if refusal is None else {REFUSAL: refusal})
        self._since = self.loop.time()
        self._heads_kept = 0
        self.flow.resume_reading()
        self._feed(data)

    @property
    def _is_gone(self) -> bool:
        """Whether its peer has hung up: who is not read from does not learn of it."""
        peer = select.poll()
        peer.register(self.transport.get_extra_info("socket").fileno(), _HUNG_UP)
        return bool(peer.poll(0))

    def _feed(self, data: bytes) -> None:
        """Feed the parser, by pieces none of which can take much."""
        if self._reading is _Reading.NEXT and self._answered:
            self._read_next(_Reading.HEAD)
        if self._is_waiting:
            self._all.heard(self)
        try:
            while data and self._reading is not _Reading.REFUSED:
                piece, data = (
                    data[: self._limits.head_bytes_max],
                    data[self._limits.head_bytes_max :],
                )
                self._unparsed_bytes += len(piece)
                self.parser.feed_data(piece)
                self._check_unparsed()
        except httptools.HttpParserUpgrade:  # no other protocol is spoken here
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, RefusedRequest):
                self.drop(cause.status, cause.detail)
            else:
                self.drop(400, "this is not an HTTP request")
        except RefusedRequest as refused:
            self.drop(refused.status, refused.detail)
        if self._heads_kept:  # what comes later has not waited
            self._waited = {}

    # What the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        if self._reading is not _Reading.HEAD:
            self._read_next(_Reading.HEAD)
        self._fields_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes_max:
            raise RefusedRequest(
                414, f"the URL is longer than {self._limits.url_bytes_max:,} bytes; POST takes more"
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the head, or of the trailers, which are counted and dropped."""
        self._fields_bytes += len(name) + len(value) + len(b": \r\n")
        if self._fields_bytes > self._limits.head_bytes_max:
            raise RefusedRequest(
                431, f"the headers take more than {self._limits.head_bytes_max:,} bytes"
            )
        if self._reading is not _Reading.HEAD:
            return
        if len(self.headers) >= self._limits.headers_max:
            raise RefusedRequest(431, f"more than {self._limits.headers_max} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        self._fields_bytes = 0
        if len(self.pipeline) >= self._limits.pipelined_max:
            raise self._too_many()
        self._read_next(_Reading.BODY)
        self._takes_place = False
        self._heads_kept += bool(self._waited)
        asks = asks_for_search(self.parser.get_method(), self.url)
        if asks and REFUSAL in self._waited and self._refuse():
            return
        if asks:
            self.scope["state"].update(self._waited)
        self._takes_place = asks and REFUSAL not in self._waited and self._answered
        if self._takes_place:
            self.scope["state"][LEAVE] = functools.partial(self._all.searches.leave, self)
        super().on_headers_complete()

    def _too_many(self) -> RefusedRequest:
        most = self._limits.pipelined_max
        return RefusedRequest(429, f"over {most} requests of this connection are waiting")

    def _refuse(self) -> bool:
        """Whether it was done here, and not left to the application."""
        parser, refusals = self.parser, self._all.refusals
        is_special = self.expect_100_continue or parser.should_upgrade() or self.flow.write_paused
        goes_on = parser.get_http_version() == "1.1" and parser.should_keep_alive()
        if refusals is None or is_special or not goes_on or not self._answered:
            return False
        if self._heads_kept > self._limits.pipelined_max:
            raise self._too_many()
        request = Request(parser.get_method().decode(), self.url, self.headers)
        error = self._waited[REFUSAL]
        unread_s = self._waited[UNREAD] if self._heads_kept == 1 else None
        answer = refusals.answer(request, error, unread_s, self.server_state.default_headers)
        if answer is None:
            return False
        self.transport.write(answer)
        self.on_response_complete()
        return True

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        if self._cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._read_next(_Reading.NEXT)
        if not self._is_waiting:
            self._all.working(self)
            if self._takes_place:
                self._all.searches.take(self)
        elif self._answered and not self.transport.is_closing():  # before all of it had come
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._cycle is not None:
            super().on_message_complete()

    # What the application's answers call

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._answered:
            self._since = self.loop.time()
            self._all.searches.leave(self)
        if self._is_waiting:
            self._all.heard(self)

    # Limits

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """None until the application was asked."""
        return cast("RequestResponseCycle | None", self.cycle)

    @property
    def _answered(self) -> bool:
        """No request is being answered."""
        return self._cycle is None or self._cycle.response_complete

    @property
    def _is_waiting(self) -> bool:
        return self._answered or (self._reading is _Reading.BODY and not self.pipeline)

    def _read_next(self, what: _Reading) -> None:
        self._reading = what
        self._since = self.loop.time()

    def _check_unparsed(self) -> None:
        if (
            self._reading is _Reading.HEAD
            and self._unparsed_bytes >= 2 * self._limits.head_bytes_max
        ):
            raise RefusedRequest(
                431, f"the head takes more than {self._limits.head_bytes_max:,} bytes"
            )
        if self._reading is _Reading.BODY and self._unparsed_bytes > self._limits.silent_bytes_max:
            raise RefusedRequest(400, f"{self._limits.silent_bytes_max:,} bytes of empty chunks")

    def check_times(self) -> None:
        """Close what has taken too long."""
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._stalled[0]:
            self._stalled = (unsent, now)
        elif now - self._stalled[1] > self._limits.stalled_s:
            self.transport.abort()
            return
        if self._unread:
            return
        waited_s = now - self._since
        if self._reading is _Reading.HEAD and self._answered:
            if waited_s > self._limits.head_timeout_s:
                if self._unparsed_bytes == 0:  # browsers connect ahead: nothing was asked
                    self.transport.close()
                self.drop(408, f"no complete head arrived in {self._limits.head_timeout_s:.0f} s")
            return
        lingers = self._reading is _Reading.REFUSED or (
            self._reading is _Reading.BODY and self._answered
        )
        if lingers and waited_s > self._limits.linger_s:
            self.transport.abort()

    def abort(self) -> None:
        self.transport.abort()

    def drop(self, status: int, detail: str) -> None:
        """Say why, where no answer is under way, and close."""
        if self.transport.is_closing():
            return
        if not self._answered:
            self.transport.abort()  # nothing can be said in the middle of an answer
            return
        self._read_next(_Reading.REFUSED)
        self.transport.write(closing(status, detail))
        if self.transport.can_write_eof():
            self.transport.write_eof()  # closed at once, a peer that still sends loses the answer
        else:
            self.transport.close()
