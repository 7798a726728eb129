"""Whether a node is ready: each replica on its disk is open. For the probe of an orchestrator.

Nothing is asked of other nodes, nor of Ray, so a node does not get unready because another does.
That a replica is also up to date, and in the table, says `bitsift cluster status`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from typing import Any

from bitsift.cluster.fleet.node_store import HeldIndex, NodeStore
from bitsift.errors import BitsiftError, reason
from bitsift.shard_worker.open_mark import is_open

log = logging.getLogger(__name__)

PATH = "/readyz"
CONNECTIONS_MAX = 8
"""At once; what comes beyond them is closed."""
REQUEST_TIMEOUT_S = 5.0
"""For a whole request with its answer, however slowly its bytes come."""
BIND_AGAIN_S = 5.0
"""The agent before this one may not have ended yet."""


def unready(store: NodeStore) -> str | None:
    """What of the replicas on this disk is not open; None: all are, or there are none."""
    held = store.held()
    wanted = [index for index in held if index.uuid not in _retired(held)]
    found = []
    for index in wanted:
        for replica in index.replicas:
            if not replica.is_whole:
                found.append(f"shard {replica.shard} is being copied")
            elif not is_open(store.replica(index.uuid, replica.shard)):
                found.append(f"shard {replica.shard} is not open")
    return "; ".join(found) or None


def _retired(held: list[HeldIndex]) -> set[str]:
    """Nobody serves these any more; the newest state knows them."""
    states = [index.state for index in held if index.state is not None]
    newest = max(states, key=lambda state: state["epoch"], default=None)
    return set() if newest is None else set(newest.get("retired", ()))


def listen(address: str, port: int, check: Callable[[], str | None]) -> None:
    """Answer ``GET /readyz`` with 200 or 503 and what ``check`` says, in a thread, from when the
    port is free.
    """
    threading.Thread(target=_listen, args=(address, port, check), name="ready", daemon=True).start()


def _listen(address: str, port: int, check: Callable[[], str | None]) -> None:
    again = threading.Event()
    while True:
        try:
            with ReadyServer(address, port, check) as server:
                server.serve_forever()
        except OSError as error:
            log.error("readiness cannot be asked at %s:%d: %s", address, port, error)
        again.wait(BIND_AGAIN_S)


class ReadyServer(ThreadingHTTPServer):
    """One answer a connection."""

    daemon_threads = True

    def __init__(self, address: str, port: int, check: Callable[[], str | None]) -> None:
        """Raises OSError where the port is taken."""
        self.check = check
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__((address, port), _Answer)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client: Any) -> None:
        late = threading.Timer(REQUEST_TIMEOUT_S, _hang_up, (request,))
        late.daemon = True
        late.start()
        try:
            super().process_request_thread(request, client)
        finally:
            late.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked went away, or was too slow."""
        log.debug("a request for readiness ended early", exc_info=True)


def _hang_up(connection: socket) -> None:
    with contextlib.suppress(OSError):  # it has ended
        connection.shutdown(SHUT_RDWR)


class _Answer(BaseHTTPRequestHandler):
    server: ReadyServer

    def do_GET(self) -> None:
        if self.path != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            lacking = self.server.check()
        except (BitsiftError, OSError) as error:  # of a disk that is away, for instance
            lacking = reason(error)
        body = f"{lacking or 'ready'}\n".encode()
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if lacking else HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """A probe every few seconds is no news."""
