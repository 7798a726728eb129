"""A Ray cluster of several nodes on loopback, each of which can be killed, frozen, started again.

A child process has the nodes, each a raylet with workers of its own. They share this machine's
disk, and each gets a folder of its own by its name. Run as a program it is that child: it reads the
names of nodes to start, a line each, and says the pid of each one's raylet.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

CPUS = 4
STORE_BYTES = 100_000_000
START_S = 120
"""For a raylet to be known; Ray gives it 30 s, too few on a busy machine."""


@dataclass(slots=True)
class RayNodes:
    """``environment`` is what a driver needs to join; ``raylets`` are pids by the node's name."""

    address: str
    environment: dict[str, str]
    _child: subprocess.Popen[str]
    raylets: dict[str, int] = field(default_factory=dict)
    _joined: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, name: str, **labels: str) -> None:
        """A node, one that was killed for instance."""
        found = _said(self._child, {"name": name, "labels": labels})
        self.raylets[name] = int(found["raylet"])

    def processes(self, name: str) -> list[psutil.Process]:
        """The raylet of a node and all that it started; the raylet last."""
        with contextlib.suppress(psutil.NoSuchProcess):
            raylet = psutil.Process(self.raylets[name])
            return [*raylet.children(recursive=True), raylet]
        return []

    def drive(
        self, command: Sequence[object], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """A command that joins the cluster, to its end."""
        return subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=timeout_s, check=False,
            env=os.environ | self.environment,
        )  # fmt: skip

    def joined(self, command: Sequence[object]) -> subprocess.Popen[str]:
        """A command that joins the cluster, is spoken to by its pipes and ends with the nodes."""
        process = subprocess.Popen(
            [*map(str, command)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=os.environ | self.environment,
        )  # fmt: skip
        self._joined.append(process)
        return process

    def end_joined(self) -> None:
        for process in self._joined:
            process.kill()
            process.communicate(timeout=30)

    def actors(self) -> list[str]:
        """What the actors of all nodes are, killed raylets' among them."""
        lines = []
        for process in _of_session(self._child.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(process.name())
        return [line for line in lines if line.startswith("ray::")]

    def signal(self, name: str, number: signal.Signals) -> None:
        """SIGKILL is the loss of a node; SIGSTOP freezes it, SIGCONT ends that."""
        # A raylet that lives would start others in the place of those that end.
        for process in reversed(self.processes(name)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextlib.contextmanager
def ray_nodes(names: Mapping[str, Mapping[str, str]]) -> Iterator[RayNodes]:
    """Nodes with their labels, the first of which is the head and cannot be lost."""
    folder = Path(tempfile.mkdtemp(prefix="bitsift-nodes-"))  # pytest's are too long for sockets
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
        "HOME": str(folder),
    }
    with (folder / "err").open("wb") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_nodes", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        (first, labels), *others = names.items()
        head = _said(child, {"name": first, "labels": dict(labels)})
        nodes = RayNodes(head["address"], environment, child, {first: int(head["raylet"])})
        for name, more in others:
            nodes.start(name, **more)
        try:
            yield nodes
        finally:
            nodes.end_joined()
    finally:
        _end(child)
        shutil.rmtree(folder, ignore_errors=True)


def _said(child: subprocess.Popen[str], line: Mapping[str, Any]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(line) + "\n")
    child.stdin.flush()
    answer: dict[str, Any] = json.loads(child.stdout.readline() or "null")
    assert isinstance(child.args, list)
    assert answer is not None, Path(child.args[-1], "err").read_text()
    return answer


def _end(child: subprocess.Popen[str]) -> None:
    """It, and whatever of its session is left: workers whose raylet was killed, for instance."""
    ours = _of_session(child.pid)
    for process in ours:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ours, 30)
    child.wait(30)


def _of_session(session: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _session(process.pid) == session]


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def main(folder: str, lines: IO[str]) -> None:
    """Start a node for each line; never returns while there may be more."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster()
    for line in lines:
        wanted = json.loads(line)
        head = {} if cluster.head_node else {"include_dashboard": False, "temp_dir": folder}
        node = cluster.add_node(
            num_cpus=CPUS,
            object_store_memory=STORE_BYTES,
            labels={"bitsift-node": wanted["name"], **wanted["labels"]},
            node_ip_address="127.0.0.1",
            wait=False,
            **head,
        )
        cluster._wait_for_node(node, START_S)
        raylet = node.all_processes["raylet"][0].process.pid
        print(json.dumps({"raylet": raylet, "address": cluster.address}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin)
