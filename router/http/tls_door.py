"""TLS handshakes, counted and bounded as every other wait for a peer.

asyncio shows a TLS connection to its protocol after the handshake, for which it waits a minute:
until then such sockets would be without number. Here the connection is there when it is accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from bitsift.router.http.protocol import Connections, LimitedProtocol
from bitsift.router.http.tls import TlsFiles


class TlsDoor(asyncio.Protocol):
    """A connection up to the end of its handshake; then an HTTP connection has its place."""

    def __init__(self, connections: Connections, context: ssl.SSLContext, **given: Any) -> None:
        """``given`` is what uvicorn makes a protocol with."""
        self.loop = asyncio.get_running_loop()
        self._all = connections
        self._context = context
        self._given = given
        self._socket: socket.socket
        self._handshake: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket from ``transport`` before that reads from it: what comes is for TLS."""
        taken = os.dup(transport.get_extra_info("socket").fileno())
        cast("asyncio.Transport", transport).abort()
        self._socket = socket.socket(fileno=taken)
        self._socket.setblocking(False)
        self._all.opened(self)
        self._handshake = self.loop.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        try:
            await self.loop.connect_accepted_socket(
                functools.partial(_Behind, self, self._all, **self._given),
                self._socket,
                ssl=self._context,
                ssl_handshake_timeout=self._all.limits.handshake_timeout_s,
            )
        except OSError:  # no TLS, too slow, or gone
            pass
        finally:
            self._all.lost(self)

    def check_times(self) -> None:
        """The handshake has a timer of its own."""

    def drop(self, status: int, detail: str) -> None:
        """Close; nothing can be said to a peer that has no keys yet."""
        self.abort()

    def abort(self) -> None:
        """Its transport finds the socket closed, and ends the handshake."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Behind(LimitedProtocol):
    """An HTTP connection that was a ``TlsDoor`` before."""

    def __init__(self, door: TlsDoor, connections: Connections, **given: Any) -> None:
        super().__init__(connections, **given)
        self._door = door

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._all.lost(self._door)
        super().connection_made(transport)


def protocol_of(connections: Connections, tls: TlsFiles | None) -> Callable[..., asyncio.Protocol]:
    """What a connection begins with when it is accepted, for uvicorn's ``Config(http=…)``."""
    if tls is None:
        return connections.protocol
    return functools.partial(TlsDoor, connections, tls.context())
