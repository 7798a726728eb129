"""RouterActor: the service, and in the same process and event loop the HTTP gateway."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
from typing import Any

import ray
import uvicorn

from router.description import IndexDescription
from router.encoder import Encoder
from router.fanout import FanOut
from router.gateway import create_app
from router.query_vectors import QUERY_CACHE_DEFAULT
from router.remote import RemoteLink, RemoteWriter
from router.service import SearchService

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 1_000
KEEP_ALIVE_S = 30
DRAIN_S = 5


@ray.remote(max_restarts=-1, max_task_retries=0)
class RouterActor:
    """One gateway in front of all shards of one index."""

    def __init__(
        self,
        description: IndexDescription,
        shards: list[Any],
        writer: Any,
        encoder: dict[str, Any] | None,
        query_cache: int = QUERY_CACHE_DEFAULT,
    ) -> None:
        """``writer`` is the WriterActor of these shards.

        ``encoder`` holds the arguments of ``Encoder.load``; None for ready-made vectors.
        ``query_cache`` is how many vectors of queries are remembered.
        """
        links = [RemoteLink(number, actor) for number, actor in enumerate(shards)]
        self._service = SearchService(description, FanOut(links), None, query_cache)
        self._writer = RemoteWriter(writer)
        self._encoder_arguments = encoder
        self._failure: str | None = None
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        if encoder is not None:
            threading.Thread(target=self._load_encoder, name="encoder", daemon=True).start()

    def _load_encoder(self) -> None:
        try:
            encoder = Encoder.load(**(self._encoder_arguments or {}))
            encoder.warm_up()
            gc.collect()
            gc.freeze()  # a collection that walks all of torch's objects stops answers for 0.3 s
            self._service.encoder = encoder
        except Exception as error:  # anything: it must reach the operator
            self._failure = f"{type(error).__name__}: {error}"
            log.exception("the encoder cannot be loaded")

    async def listen(self, host: str, port: int) -> str:
        """Start the gateway; returns its address. Raises OSError when the port is taken."""
        listener = _listener(host, port)
        config = uvicorn.Config(
            create_app(self._service, self._writer),
            log_level="warning",
            access_log=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return f"http://{host}:{listener.getsockname()[1]}"

    async def loading(self, total: int | None) -> None:
        """Say that a load of ``total`` records fills the shards meanwhile; None: it has ended."""
        self._service.loading_total = total

    async def encoder_failure(self) -> str | None:
        """Why the encoder could not be loaded, or None."""
        return self._failure

    async def stop(self) -> None:
        """Stop listening, finish the requests in flight."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving


def _listener(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Its protocol is named, because asyncio turns Nagle's delay off only then;
    with it, an answer of two packets waits 40 ms for the peer's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(2048)
    return listener
