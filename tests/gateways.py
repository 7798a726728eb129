"""A real uvicorn on a free port of loopback, in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvicorn

from bitsift.router.http.access import AccessSettings
from bitsift.router.http.gateway import create_app
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.protocol import Connections
from bitsift.router.http.refusals import Refusals
from bitsift.router.http.tls import TlsFiles
from bitsift.router.http.tls_door import protocol_of
from bitsift.router.indexes import Indexes, Served
from bitsift.router.orders import Orders
from bitsift.router.service import SearchService
from bitsift.router.shards.local import LocalLink
from bitsift.router.write.service import WriteService
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.shard import Shard
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.threads import ended

START_WITHIN_S = 60.0


class Running:
    """A gateway on a free port of loopback."""

    def __init__(
        self,
        service: SearchService,
        writer: WriteService,
        access: AccessSettings = AccessSettings(),  # noqa: B008 (frozen)
        limits: HttpLimits | None = None,
        drain_s: int | None = None,
        tls: TlsFiles | None = None,
        indexes: Indexes | None = None,
        orders: Orders | None = None,
    ) -> None:
        """``drain_s`` is how long it waits for answers when it stops; None: for ever."""
        self.service = service
        self.indexes = indexes or Indexes(Served(service.description.name, service, writer))
        refusals = Refusals(service.metrics, access, "127.0.0.1")
        self.connections = Connections(limits or HttpLimits(), refusals)
        listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(
                create_app(service, writer, access, indexes=self.indexes, orders=orders),
                log_level="critical",
                http=protocol_of(self.connections, tls),  # type: ignore[arg-type]
                ws="none",
                timeout_graceful_shutdown=drain_s,
            )
        )
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        deadline = time.monotonic() + START_WITHIN_S
        while not self.server.started:
            assert self.thread.is_alive(), "the server ended as it started"
            assert time.monotonic() < deadline, f"not started in {START_WITHIN_S:.0f} s"
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        ended(self.thread)


@contextlib.contextmanager
def running_empty(
    folder: Path,
    dimension: int,
    access: AccessSettings = AccessSettings(),  # noqa: B008 (frozen)
) -> Iterator[Running]:
    """A gateway over two real shards in ``folder`` that hold nothing yet."""
    nothing = np.empty((0, dimension), dtype=np.float32)
    with _running(make_shards(folder, nothing, dimension, 2), access) as running:
        yield running


@contextlib.contextmanager
def running_texts(folder: Path, texts: list[str], dimension: int, shards: int) -> Iterator[Running]:
    """A gateway over real shards in ``folder`` that hold ``texts``, each under its number."""
    units = HashEncoder(dimension).encode_documents(texts)
    made = make_shards(folder, units, dimension, shards, texts)
    with _running(made, AccessSettings()) as running:
        yield running


@contextlib.contextmanager
def _running(made: tuple[list[Shard], Calibration], access: AccessSettings) -> Iterator[Running]:
    shards, calibration = made
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration), access)
    try:
        yield running
    finally:
        running.stop()
        for shard in shards:
            shard.close()
