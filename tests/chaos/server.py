"""`bitsift serve` in a session of its own, and its processes by what they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from bitsift.cluster.serving.claim import LOCK_FILE
from tests.commands import COMMAND, free_port, processes, wait_until

START_S = 120
STOP_S = 60
_TITLES = {
    "router": "ray::RouterActor",
    "writer": "ray::WriterActor",
    "raylet": "raylet/raylet",
    "GCS": "gcs/gcs_server",
    "dashboard": "dashboard/dashboard.py",
    "dashboard agent": "ray::DashboardAgent",
    "runtime-env agent": "ray::RuntimeEnvAgent",
}
"""How the command lines of the processes look that say nothing of themselves."""


class Server:
    """One index, served on one port, in one life after the other."""

    def __init__(self, index: Path, log: Path) -> None:
        self.index = index
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = log
        self._sessions: list[int] = []
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        port = self.url.rpartition(":")[2]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, "serve", str(self.index), "--port", port],
                stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},  # each line is seen as it is said
            )  # fmt: skip
        self._sessions.append(process.pid)
        return process

    def start_again(self) -> None:
        """Another life, after the process ended."""
        self.process.wait(STOP_S)
        self.process = self._start()

    def wait_ready(self) -> None:
        assert wait_until(self._is_ready, START_S), self.said()

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        return False

    def said(self) -> str:
        """All that it has said so far, of all lives."""
        return self._log.read_text()

    def cluster(self) -> dict[str, Any]:
        facts: dict[str, Any] = httpx.get(f"{self.url}/v1/cluster", timeout=10).json()
        return facts

    def pids(self, victim: str) -> list[int]:
        """The pids of a kind of process: a shard, both shards, the main one, one of Ray's."""
        if victim == "main":
            return [self.process.pid]
        if victim in ("shard", "both shards"):
            shards = sorted(self.cluster()["shards"], key=lambda shard: int(shard["shard"]))
            pids = [int(shard["pid"]) for shard in shards]
            return pids[:1] if victim == "shard" else pids
        running = processes(self.process.pid)
        return [pid for pid, line in running if _TITLES[victim] in line]

    def mark(self) -> str:
        """The mark of its life: in the environment of its processes, and in its folders."""
        return (self.index / LOCK_FILE).read_text().split()[1]

    def left(self) -> list[tuple[int, str]]:
        """The processes of all lives that are there now."""
        return [found for session in self._sessions for found in processes(session)]

    def stop(self) -> int:
        """Ctrl-C; the exit status, when nothing of its last life is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(STOP_S)
        assert wait_until(lambda: not self.left(), STOP_S), self.left()
        return status

    def kill(self) -> None:
        """Whatever is there, for the end of a test that failed."""
        for pid, _ in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


@contextlib.contextmanager
def signalled(pids: list[int], name: str, stop_s: float) -> Any:
    """Send a signal; SIGSTOP is followed by SIGCONT after ``stop_s``, as the block's end."""
    for pid in pids:
        os.kill(pid, getattr(signal, f"SIG{name}"))
    began_s = time.monotonic()
    try:
        yield
        if name == "STOP":
            time.sleep(max(0.0, began_s + stop_s - time.monotonic()))
    finally:
        if name == "STOP":
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
