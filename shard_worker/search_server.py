"""Takes searches on a socket of the shard's own: through Ray each costs both sides several times
as much (docs/scale.md). Ray still places, starts and watches the process, and whoever asks it where
this socket is may use it.

A connection has a thread, which reads a search, does it and sends the answer: no other thread, and
no event loop, has a part in it. What does not fit in here, or breaks, is asked through Ray.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import cast

from bitsift.errors import BitsiftError, Corrupt, Unavailable
from bitsift.shard_worker.logs import working_for
from bitsift.shard_worker.wire.envelopes import (
    HEAD_BYTES,
    SearchAddress,
    admit,
    answer_of,
    new_secret,
    refusal,
    request_head,
)

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
"""Threads, one for each router that asks."""
GREETING_S = 5.0
IDLE_S = 120.0
"""A connection that brings nothing for so long is closed: its router may have gone. So is one that
takes no answer."""
LOST_MS = 5_000
"""How long what was sent may stay unacknowledged by the other machine."""
PAUSE_S = 0.1
"""After a connection that could not be accepted."""
_READ_BYTES = 64 << 10
Search = Callable[[str, bytes], bytes]
"""The name of a call and its frame: the frame of its answer. Raises BitsiftErrors."""


class SearchServer:
    """Listens on ``host``, on the first of ``ports`` that is free; 0 is any."""

    def __init__(self, host: str, ports: Iterable[int], search: Search) -> None:
        """Raises Unavailable where none can be had."""
        self._search = search
        self._listener = _listener(host, ports)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self.address = SearchAddress(host, self._listener.getsockname()[1], new_secret())
        threading.Thread(target=self._accept, name="searches", daemon=True).start()

    def close(self) -> None:
        """Take no more, and hang up: routers go through Ray from now on."""
        self._is_closed.set()
        _hang_up(self._listener)
        with self._lock:
            for connection in self._open:
                _hang_up(connection)

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # by ``close``, or there is no descriptor left, for instance
                log.debug("no connection for searches: %s", error)
                self._is_closed.wait(PAUSE_S)
                continue
            with self._lock:
                is_full = len(self._open) >= CONNECTIONS_MAX
                if not is_full:
                    self._open.add(connection)
            if is_full:
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        """One connection, to its end."""
        try:
            with contextlib.suppress(OSError, Corrupt), connection:
                set_options(connection, GREETING_S)
                admit(connection, self.address.secret, GREETING_S)
                set_options(connection, IDLE_S)
                with cast(io.BufferedReader, connection.makefile("rb", _READ_BYTES)) as requests:
                    while (answer := self._answer(requests)) is not None:
                        _send(connection, answer)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, requests: io.BufferedReader) -> list[bytes] | None:
        """The parts of the answer to the next request; None where there is none."""
        head = _read(requests, HEAD_BYTES)
        if head is None:
            return None
        name_bytes, frame_bytes = request_head(head)
        body = _read(requests, name_bytes + frame_bytes)
        if body is None:
            return None
        name = body[:name_bytes].decode()
        try:
            return answer_of(self._search(name, body[name_bytes:]))
        except BitsiftError as error:
            return refusal(error)
        except BaseException as error:  # a panic of a library too: the caller waits
            with working_for(name):
                log.exception("a search failed")
            return refusal(error)


def _read(requests: io.BufferedReader, size: int) -> bytes | None:
    """None where the connection ends before, or brings nothing for too long."""
    found = requests.read(size) or b""
    return found if len(found) == size else None


def set_options(connection: socket.socket, timeout_s: float) -> None:
    """No waiting to fill packets; and a limit to each wait, which the kernel keeps: Python's own
    timeouts cost a system call for each.
    """
    limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))  # a timeval
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_MS)


def _send(connection: socket.socket, parts: list[bytes]) -> None:
    connection.sendall(b"".join(parts))


def _listener(host: str, ports: Iterable[int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    errors = []
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            listener.close()
            errors.append(error)
        else:
            return listener
    raise Unavailable(f"no port of {host} is free for searches ({errors[-1:]})")


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
