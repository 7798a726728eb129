"""Connections that nobody has accepted yet wait in the kernel, and only so many."""

from __future__ import annotations

import selectors
import socket
import struct
from collections.abc import Iterator

import pytest

from bitsift.router import actor
from bitsift.router.actor import BACKLOG, _listener

SHORT = 4


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for client in opened:
        client.close()


def connecting(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    return client


def connected(clients: list[socket.socket], timeout_s: float) -> int:
    """How many of ``clients`` are connected; it waits until all are, or for ``timeout_s``."""
    done = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_WRITE)
        while selector.get_map() and (ready := selector.select(timeout_s)):
            done += len(ready)
            for key, _ in ready:
                selector.unregister(key.fileobj)
    return done


def test_a_connection_beyond_the_backlog_waits_until_one_is_accepted(
    monkeypatch: pytest.MonkeyPatch, clients: list[socket.socket]
) -> None:
    monkeypatch.setattr(actor, "BACKLOG", SHORT)
    with _listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        clients += [connecting(port) for _ in range(SHORT + 3)]
        waiting = connected(clients, 0.5)
        assert waiting == SHORT + 1  # Linux takes one more than it is told
        listener.settimeout(30)
        for _ in range(SHORT + 3):
            listener.accept()[0].close()


def test_the_kernel_is_told_the_backlog() -> None:
    with _listener("127.0.0.1", 0) as listener:
        facts = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        (queue_max,) = struct.unpack_from("=I", facts, 28)  # tcpi_sacked: of a listener, its limit
        with open("/proc/sys/net/core/somaxconn") as somaxconn:
            assert queue_max == min(BACKLOG, int(somaxconn.read()))
