"""How long a search goes on to cost after its client has hung up: at p99 at most 50 ms.

    python benchmarks/abandoned.py [--rows 300000] [--rounds 40]

A real ``bitsift serve`` with two shards. Clients ask, hang up in the middle, and the threads that
worked for them are watched, millisecond by millisecond, until they stand still: in the shards, and
in the router with its encoder. Their processor time is the kernel's (/proc/PID/task/TID/schedstat).
``cpu`` is what all of them together computed after the hang-up, and what the bar is for; ``ended``
the time to the last millisecond in which any of them did, with what others made them wait for a
core. The result goes to benchmarks/results/abandoned.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil

from bitsift.cluster.bench.clients import ask, vector_bodies
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import percentiles
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.location import DEFAULT_MODEL

RESULT = Path(__file__).with_name("results") / "abandoned.json"
DIM, SHARDS, BAR_MS = 384, 2, 50
WATCHED_S = 0.4
"""After the hang-up. What computes then still counts as so long."""
WORKED_S, STILL_S = 2e-3, 2e-4
"""Processor time that makes a thread one that worked for a request; and, in a millisecond, one that
still does. The other threads of Ray's processes wake for some microseconds now and then."""
START_S = 120.0
_ACTOR = re.compile(r"^ray::(Shard|Router)Actor")


@dataclass(frozen=True, slots=True)
class Case:
    """``clients`` send a body each, and hang up ``after_s`` later."""

    clients: int
    after_s: float
    bodies: Sequence[bytes]


@contextlib.contextmanager
def served(index: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a `bitsift serve` in processes of its own, and those that search."""
    program = [sys.executable, "-m", "bitsift.cluster.cli"]
    command = [*program, "serve", str(index), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said = "".join(iter(server.stdout.readline, "}\n"))
            url = json.loads(said + "}")["url"]
            family = psutil.Process(server.pid).children(recursive=True)
            yield url, [p.pid for p in family if _ACTOR.search(" ".join(p.cmdline()))]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(START_S)


def computed_s(pids: Sequence[int]) -> dict[Path, float]:
    """Seconds of processor time of each thread of ``pids``."""
    threads = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return {task / "schedstat": _seconds(task / "schedstat") for task in threads}


def _seconds(schedstat: Path) -> float:
    try:
        return int(schedstat.read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def abandon(url: str, pids: Sequence[int], case: Case, turn: int) -> tuple[float, float] | None:
    """Seconds from the hang-up to the end of all work, and the processor time spent in them.

    None where nothing worked any more when the clients hung up.
    """
    before = computed_s(pids)
    clients = [
        _sent(url, case.bodies[(turn * case.clients + number) % len(case.bodies)])
        for number in range(case.clients)
    ]
    time.sleep(case.after_s)
    now = computed_s(pids)
    workers = [thread for thread in now if now[thread] - before.get(thread, 0.0) > WORKED_S]
    spent = {thread: _seconds(thread) for thread in workers}
    hung_up = time.monotonic()
    for client in clients:
        client.close()
    ended_s = cpu_s = 0.0
    while (elapsed_s := time.monotonic() - hung_up) < WATCHED_S:
        time.sleep(1e-3)
        latest = {thread: _seconds(thread) for thread in workers}
        grown = [latest[thread] - spent[thread] for thread in workers]
        spent = latest
        if any(seconds > STILL_S for seconds in grown):
            ended_s = elapsed_s + 1e-3
            cpu_s += sum(grown)
    return (ended_s, cpu_s) if ended_s else None


def raw_search(url: str, body: bytes) -> bytes:
    """A search as it is sent over a connection."""
    head = (
        f"POST /v1/search HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _sent(url: str, body: bytes) -> socket.socket:
    address = urlsplit(url)
    client = socket.create_connection((address.hostname, address.port))
    client.sendall(raw_search(url, body))
    return client


def cases(spec: SyntheticSpec, texts: Sequence[str]) -> dict[str, Case]:
    vectors = synthetic_queries(spec, 200)
    slow = vector_bodies(vectors, mode="exhaustive", timeout_ms=60_000)
    wide = {"mode": "exact", "candidates": 1_000, "timeout_ms": 60_000}
    many = [orjson.dumps({"queries": texts[first : first + 100], **wide})
            for first in range(0, len(texts), 100)]  # fmt: skip
    return {
        "exhaustive": Case(1, 0.06, slow),
        "exhaustive_of_eight_clients": Case(8, 0.1, slow),
        "hundred_texts": Case(1, 0.06, many),
    }


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    spec, texts = SyntheticSpec(rows, DIM), glosses(100 * rounds)
    model = Encoder.load(DEFAULT_MODEL).spec
    write_index(folder / "index", spec, SHARDS, model=model, texts=texts)
    figures: dict[str, Any] = {"rows": rows, "dim": DIM, "shards": SHARDS, "bar_ms": BAR_MS}
    with served(folder / "index") as (url, pids):
        for name, case in cases(spec, texts).items():
            whole = ask(url, case.bodies[:1])
            found = [abandon(url, pids, case, turn) for turn in range(rounds)]
            good = [one for one in found if one is not None]
            figures[name] = {
                "whole_ms": round(whole.seconds[0] * 1e3, 1),
                "ended": percentiles([ended_s for ended_s, _ in good]),
                "cpu": percentiles([cpu_s for _, cpu_s in good]),
                "over_before_the_hang_up": len(found) - len(good),
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-abandoned-") as folder:
        found = measure(Path(folder), options.rows, options.rounds)
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
