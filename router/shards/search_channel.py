"""Searches to one replica over a connection of their own, where there is one: Ray's own part of a
call costs the router several times as much (docs/scale.md).

Where the replica takes them is asked through Ray, in the background, by the first search; until
then, and whenever the connection breaks, searches go through Ray, those under way too. A search
changes nothing, so asking twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from bitsift.errors import BitsiftError, Corrupt, ShardUnavailable, said_by
from bitsift.router.shards.background import let_end
from bitsift.router.shards.breaker import MISS_S_MIN
from bitsift.router.shards.ray_calls import Callee
from bitsift.shard_worker.search_server import set_options
from bitsift.shard_worker.wire.envelopes import (
    HEAD_BYTES,
    Answer,
    SearchAddress,
    answer_head,
    introduce,
    pack_request,
    refused,
)

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""From one attempt to connect to the next."""
CONNECT_S = 2.0
WAITING_MAX = 64
"""Searches under way on one connection; the replica does one at a time."""


class NoChannel(Exception):
    """There is no connection, or it broke before the answer came: ask through Ray."""


class SearchChannel:
    """Lives in one event loop. ``find`` asks through Ray where the replica takes searches."""

    def __init__(self, callee: Callee, find: Callable[[], Awaitable[SearchAddress]]) -> None:
        self._callee = callee
        self._find = find
        self._connection: _Connection | None = None
        self._connecting = False
        self._retry_at_s = 0.0
        self._has_failed = False

    async def search(self, call: str, frame: bytes) -> bytes:
        """The frame that answers ``frame``. Raises the replica's errors, and NoChannel."""
        connection = self._connection
        if connection is None or not connection.has_room:
            self._connect_later()
            raise NoChannel
        started_s = time.monotonic()
        try:
            kind, body = await connection.ask(call, frame)
        except asyncio.CancelledError:
            if time.monotonic() - started_s >= MISS_S_MIN:
                connection.close()  # whatever is wrong with it, the next search goes elsewhere
            raise
        if kind is Answer.FRAME:
            return body
        if kind is Answer.ERROR:
            raise refused(body)
        failed = self._callee.absent(f"{self._callee.name} failed ({body.decode()})")
        raise failed.with_outcome(ShardUnavailable.outcome)

    def close(self) -> None:
        """Hang up; a later search connects again."""
        if self._connection is not None:
            self._connection.close()

    def _connect_later(self) -> None:
        if (
            self._connection is None
            and not self._connecting
            and time.monotonic() >= self._retry_at_s
        ):
            self._connecting = True
            let_end(asyncio.ensure_future(self._connect()))

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                address = await self._find()
                connected = await asyncio.to_thread(_connected, address)
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(
                    lambda: _Connection(self._lost), sock=connected
                )
            self._has_failed = False
        except (BitsiftError, OSError, TimeoutError) as error:
            level = logging.DEBUG if self._has_failed else logging.INFO
            log.log(level, "searches of %s go through Ray: %s", self._callee.name, said_by(error))
            self._has_failed = True
        finally:
            self._connecting = False
            self._retry_at_s = time.monotonic() + RETRY_S

    def _lost(self) -> None:
        self._connection = None


def _connected(address: SearchAddress) -> socket.socket:
    """A connection on which both sides have proved themselves."""
    connection = socket.create_connection((address.host, address.port), CONNECT_S)
    try:
        introduce(connection, address.secret)
        set_options(connection, CONNECT_S)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


class _Connection(asyncio.Protocol):
    """Answers come in the order of the requests."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._waiting: deque[asyncio.Future[tuple[Answer, bytes]]] = deque()
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < WAITING_MAX

    def ask(self, call: str, frame: bytes) -> asyncio.Future[tuple[Answer, bytes]]:
        """The answer; NoChannel is its exception where the connection breaks."""
        future: asyncio.Future[tuple[Answer, bytes]] = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(pack_request(call, frame))
        self._waiting.append(future)
        return future

    def close(self) -> None:
        """Break it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            asyncio.Transport, transport
        )  # uvloop's are of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= HEAD_BYTES:
            try:
                kind, size = answer_head(bytes(self._received[:HEAD_BYTES]))
            except Corrupt as error:
                log.warning("%s", error)
                self.close()
                return
            if len(self._received) < HEAD_BYTES + size:
                return
            body = bytes(memoryview(self._received)[HEAD_BYTES : HEAD_BYTES + size])
            del self._received[: HEAD_BYTES + size]
            future = self._waiting.popleft()
            if not future.done():
                future.set_result((kind, body))

    def connection_lost(self, _: Exception | None) -> None:
        self._on_lost()
        for future in self._waiting:
            if not future.done():
                future.set_exception(NoChannel())
        self._waiting.clear()
