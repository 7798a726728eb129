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

from router.fanout import LocalLink
from router.gateway import create_app
from router.service import SearchService
from router.writes import WriteService
from tests.fakes import make_service, make_shards, make_writer


class Running:
    """A gateway on a free port of loopback."""

    def __init__(self, service: SearchService, writer: WriteService) -> None:
        self.service = service
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(create_app(service, writer), log_level="critical")
        )
        self.thread = threading.Thread(target=self.server.run, args=([listener],))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@contextlib.contextmanager
def running_empty(folder: Path, dimension: int) -> Iterator[Running]:
    """A gateway over two real shards in ``folder`` that hold nothing yet."""
    nothing = np.empty((0, dimension), dtype=np.float32)
    shards, calibration = make_shards(folder, nothing, dimension, 2)
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()
