"""A real uvicorn on a free port of loopback, in this process."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn

from router.gateway import create_app
from router.service import SearchService
from router.writes import WriteService


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
