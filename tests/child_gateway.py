"""A gateway over real shards in a process of its own, which tells its parent how it is.

``python -m tests.child_gateway FOLDER`` prints its URL, then answers each line of its input by one:
``reset`` sets the peak of its RAM back, ``state`` says what it holds. It ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from bitsift.router.admission import Admission
from bitsift.router.http.gateway import create_app
from bitsift.router.http.limits import HttpLimits
from bitsift.router.http.protocol import Connections
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker import generations
from tests.fakes import make_service, make_shards, make_writer

DIMENSION = 64
ROOT = Path(__file__).parents[1]


class Child:
    """The parent's side."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.child_gateway", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self.pid = self._process.pid
        self.url = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, f"the gateway ended with {self._process.poll()}"
        return line

    def ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return dict(json.loads(self._line()))

    def state(self) -> dict[str, Any]:
        return self.ask("state")

    def close(self) -> int:
        """Its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()


@contextlib.contextmanager
def child_gateway(folder: Path) -> Iterator[Child]:
    child = Child(folder)
    try:
        yield child
    finally:
        child.close()


def _memory() -> dict[str, int]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss_bytes": int(fields["VmRSS"].split()[0]) << 10,
        "anonymous_bytes": int(fields["RssAnon"].split()[0]) << 10,
        "peak_bytes": int(fields["VmHWM"].split()[0]) << 10,
    }


def _state(loop: asyncio.AbstractEventLoop, connections: Connections) -> dict[str, Any]:
    gc.collect()
    admissions = [held for held in gc.get_objects() if isinstance(held, Admission)]
    return {
        **_memory(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks(loop)),
        "connections": len(connections),
        "admissions": len(admissions),
        "admissions_idle": all(admission.is_idle for admission in admissions),
    }


# No request here takes longer, and what is kept for so long looks like a leak.
generations.RETIRED_S = 5.0


async def _serve(folder: Path) -> None:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(folder, nothing, DIMENSION, 2)
    links = [LocalLink(one) for one in shards]
    app = create_app(make_service(links, calibration), make_writer(links, calibration))
    connections = Connections(HttpLimits.of_this_process())
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            log_level="warning",
            ws="none",
            timeout_graceful_shutdown=5,
            http=connections.protocol,  # type: ignore[arg-type]
        )
    )
    loop = asyncio.get_running_loop()
    ended = threading.Event()

    def keep_up() -> None:  # as the actor of a shard does
        while not ended.wait(1.0):
            for one in shards:
                one.maintain()

    keeper = threading.Thread(target=keep_up)
    keeper.start()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "reset":
                Path("/proc/self/clear_refs").write_text("5")
            print(json.dumps(_state(loop, connections)), flush=True)
        server.should_exit = True

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(httpx.get, f"{url}/livez")  # the application is built by then
        print(url, flush=True)
        threading.Thread(target=listen, daemon=True).start()

    telling = asyncio.create_task(announce())
    await server.serve()
    await telling
    ended.set()
    keeper.join(60)
    for one in shards:
        one.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
