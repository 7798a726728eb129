"""Every socket of a command and all that it started, by the names of docs/security.md."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults.support import ROOT


def documented() -> dict[str, str]:
    """The table of docs/security.md: (process, address)."""
    text = (ROOT / "docs" / "security.md").read_text()
    text = text.split("## Ports", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("|")][2:]
    return {process.strip(): address.strip() for process, address in rows}


def kind(process: psutil.Process) -> str:
    """The name in the table."""
    line = process.cmdline()
    if line[0].startswith("ray::"):
        name = line[0].removeprefix("ray::").split(".")[0].strip()
        named = ("ShardActor", "WriterActor", "RouterActor", "RuntimeEnvAgent")
        return name if name in named else "ray worker"
    return "bitsift" if any("bitsift.cluster.cli" in part for part in line) else Path(line[0]).name


def sockets(session: int) -> Iterator[tuple[psutil.Process, str, int]]:
    """(process, address, port) of all that listens, TCP and UDP, IPv4 and IPv6."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                for found in process.net_connections(kind="inet"):
                    if found.status == psutil.CONN_LISTEN or found.type == socket.SOCK_DGRAM:
                        yield process, found.laddr.ip.removeprefix("::ffff:"), found.laddr.port


def listening(session: int) -> set[str]:
    """The kinds of processes that listen, on loopback all of them."""
    kinds = set()
    for owner, address, _ in sockets(session):
        with contextlib.suppress(psutil.Error, IndexError):  # it has ended
            kinds.add(kind(owner))
        assert address == "127.0.0.1", owner
    return kinds
