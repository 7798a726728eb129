"""RouterActor: the service, and in the same process and event loop the HTTP gateway."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from typing import Any

import ray
import uvicorn
from fastapi import FastAPI

from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.router import collector, tracing
from bitsift.router.description import IndexDescription
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.gateway import create_admin_app, create_app
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.protocol import Connections
from bitsift.router.http.refusals import Refusals
from bitsift.router.http.tls_door import protocol_of
from bitsift.router.indexes import Indexes, Served
from bitsift.router.model.query_vectors import QUERY_CACHE_DEFAULT
from bitsift.router.model.shared import Encoders
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.orders import Order, Orders
from bitsift.router.others import OtherIndexes, Others
from bitsift.router.reports import RouterReport
from bitsift.router.service import SearchService
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.shards.remote import RemoteWriter
from bitsift.shard_worker.search.precedence import share_quickly
from bitsift.write_acks import WriteAcks

BACKLOG = 2_048
"""Connections that the kernel holds until they are accepted."""
KEEP_ALIVE_S = 30
DRAIN_S = 5
TOLD_S = 1.0
"""Time for the answers to requests that were cut off."""


@ray.remote(max_restarts=-1, max_task_retries=0)
class RouterActor:
    """One gateway in front of all shards of one index."""

    def __init__(
        self,
        description: IndexDescription,
        table: ReplicaTable,
        writer: Any,
        encoder: EncoderSpec | None,
        query_cache: int = QUERY_CACHE_DEFAULT,
        shadow: ShadowSettings = ShadowSettings(),  # noqa: B008 (frozen)
        access: AccessSettings = AccessSettings(),  # noqa: B008 (frozen)
        min_ready_shards: int | None = None,
        acks: WriteAcks = WriteAcks.MAJORITY,
        settings: str = "",
        several: bool = False,
    ) -> None:
        """``table`` says where the shards are, until ``place`` is called; ``writer`` is the
        WriterActor of the same shards. ``settings`` names those that a cluster's spec gave.

        ``encoder`` is None for precomputed embeddings.
        ``query_cache`` is how many vectors of queries are remembered, ``shadow`` how many searches
        are asked again to measure recall, ``min_ready_shards`` what /readyz waits for
        (readiness.py). ``access`` says who may ask for what, ``acks`` how many
        replicas have what was acknowledged. With ``several`` there may be other indexes, which
        ``place_others`` says.
        """
        share_quickly()
        access.log.apply()
        tracing.start(access.otlp_endpoint)
        self._settings = settings
        self._min_ready_shards = min_ready_shards
        self._shards = PlacedShards(table, acks=acks)
        shards = FanOut(self._shards.links)
        self._service = SearchService(description, shards, None, query_cache, shadow)
        self._writer = RemoteWriter(writer)
        default = Served(description.name, self._service, self._writer)
        self._indexes = Indexes(default)
        self._indexes.is_whole = not several
        self._orders = Orders() if several else None
        encoders = Encoders(collector.settle)
        self._others = Others(self._indexes, encoders, query_cache, shadow)
        self._access = access
        self._servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []
        self._urls: tuple[str, str | None] | None = None
        if encoder is not None:
            encoders.give(encoder, self._service.query_vectors)

    async def listen(
        self, host: str, port: int, admin_port: int | None = None
    ) -> tuple[str, str | None]:
        """Start the gateway; returns its address, and that of the admin routes if it is another.

        Raises InvalidRequest when a port is taken or a host is invalid; as ``AccessSettings.check``
        when its files changed. Asked again, it says the addresses.
        """
        if self._urls is None:
            self._urls = self._listen(host, port, replace(self._access, admin_port=admin_port))
            collector.settle()
        return self._urls

    async def report(self, host: str, port: int, admin_port: int | None) -> RouterReport:
        """``listen``, and what a controller must know."""
        url, admin_url = await self.listen(host, port, admin_port)
        is_loaded = self._service.description.model is None or self._service.encoder is not None
        return RouterReport(url, admin_url, is_loaded, await self.encoder_failure(), self._settings)

    async def listen_again(self, host: str, port: int, admin_port: int | None) -> int:
        """``listen``, and the pid of the process that does: it is another after a restart."""
        await self.listen(host, port, admin_port)
        return os.getpid()

    def _listen(self, host: str, port: int, access: AccessSettings) -> tuple[str, str | None]:
        indexes, orders = self._indexes, self._orders
        app = create_app(
            self._service, self._writer, access, host, self._min_ready_shards, indexes, orders
        )
        listener = _listener(host, port)
        refusals = Refusals(self._service.metrics, access, host)
        if access.admin_port is None:
            return self._start(app, listener, host, refusals), None
        try:
            admin_app = create_admin_app(self._service, access, indexes, orders)
            admin_listener = _listener(access.admin_host, access.admin_port)
        except BaseException:
            listener.close()
            raise
        admin_url = self._start(admin_app, admin_listener, access.admin_host, None)
        return self._start(app, listener, host, refusals), admin_url

    def _start(
        self, app: FastAPI, listener: socket.socket, host: str, refusals: Refusals | None
    ) -> str:
        """Answer on ``listener``; returns the address."""
        tls = self._access.tls
        connections = Connections(HttpLimits.of_this_process(), refusals)
        config = uvicorn.Config(
            app,
            log_level="warning",
            log_config=None,  # its lines go where ours do
            access_log=False,
            http=protocol_of(connections, tls),  # type: ignore[arg-type]
            ws="none",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
        server = uvicorn.Server(config)
        self._servers.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
        name = f"[{host}]" if ":" in host else host
        return f"{'https' if tls is not None else 'http'}://{name}:{listener.getsockname()[1]}"

    async def place(self, table: ReplicaTable) -> int:
        """Ask the replicas of ``table`` from now on; returns the epoch that is in force.

        No query is lost: those under way end where they are. Raises InvalidRequest for a table
        older than the one in force, or of another number of shards of the same index.
        """
        index = self._shards.index
        epoch = self._shards.place(table)
        if self._shards.index != index:
            shards = FanOut(self._shards.links, self._service.metrics)
            self._service.switch(shards, self._shards.index)
        return epoch

    async def hold_writes(self, seconds: float) -> None:
        """Let new writes wait until another writer takes the place of this one, for ``seconds`` at
        most. Returns when those that were under way have ended.
        """
        await self._writer.gate.hold(seconds)

    async def write_through(self, writer: Any) -> None:
        """``writer`` takes the place of the WriterActor that was given before."""
        self._writer.hand_over(writer)

    async def place_others(self, told: OtherIndexes) -> None:
        """Answer for these besides the default index from now on."""
        self._others.place(told)

    async def next_order(self, wait_s: float) -> Order | None:
        """What a caller wants of the set of indexes; None if nobody does for ``wait_s``."""
        assert self._orders is not None
        return await self._orders.next(wait_s)

    async def order_done(self, number: int, answer: Any, error: BitsiftError | None) -> None:
        """What came of an order."""
        assert self._orders is not None
        self._orders.done(number, answer, error)

    async def loading(self, total: int | None) -> None:
        """Announce that a load of ``total`` records is filling the shards; None: it has ended."""
        self._service.loading_total = total

    async def heal(self, events: list[dict[str, str]]) -> None:
        """Say in /v1/cluster what the supervisor healed lately, the newest last."""
        self._service.healed = events

    async def learn(self, syncs: list[dict[str, Any]]) -> None:
        """Say in /v1/cluster which replicas are in step."""
        self._service.syncs = syncs

    async def encoder_failure(self) -> str | None:
        """Why the encoder could not be loaded, or None."""
        return self._service.query_vectors.failure

    async def stop(self) -> None:
        """Stop listening and finish the requests in flight; those that take too long get an
        error.
        """
        for server, _ in self._servers:
            server.should_exit = True
        await asyncio.gather(*(serving for _, serving in self._servers))
        told = [task for server, _ in self._servers for task in server.server_state.tasks]
        if told:  # cancelled by now (cut_off.py)
            await asyncio.wait(told, timeout=TOLD_S)
        await asyncio.to_thread(tracing.stop)


def _listener(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Its protocol is named, because asyncio turns Nagle's delay off only then;
    with it, an answer of two packets waits 40 ms for the peer's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, TypeError, ValueError) as error:
        listener.close()
        raise InvalidRequest(
            f"cannot listen on {host}:{port} ({error}); choose another host or port"
        ) from error
    listener.listen(BACKLOG)
    return listener
