"""What a server answers that is asked five times as much as it can: goodput, refusals, RAM.

    python -m benchmarks.overload [--rows 100000] [--seconds 20] [--times 5]

A real ``bitsift serve`` with two shards of 384 dimensions, all of whose processes have half of this
machine's cores, and this one the others: who asks too much elsewhere takes nothing but what it asks
for. For searches by text, each of another text, and by vector:

    peak        the most answers a second of some clients, each of which waits for its answer
    overload    requests come evenly, ``times`` as many as the peak, whatever becomes of earlier
                ones: answers a second within ``PATIENCE_S``, their share of the peak (goodput), p50
                and p99, how many were refused (429, 503), given up, or found no connection
    after       the peak once more
    ram_mib     all processes of the server, before, at most meanwhile, and at the end

The result goes to benchmarks/results/overload.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import orjson
import psutil
import uvloop

from benchmarks.abandoned import raw_search, served
from bitsift.cluster.bench.clients import vector_bodies
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.location import DEFAULT_MODEL

RESULT = Path(__file__).with_name("results") / "overload.json"
DIM, SHARDS = 384, 2
CLIENTS = 4, 16, 64
PEAK_S, WARM_UP_S, PATIENCE_S = 6.0, 3.0, 5.0
CONNECTIONS_MAX = 2_000
OK = 200


class Caller(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """The status of its answer; 0 where the connection ended."""
        self._received = b""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(it for it in head.lower().split(b"\r\n") if it.startswith(b"content-length:"))
        if len(body) >= int(length.partition(b":")[2]):
            self._end(int(head[9:12]))

    def connection_lost(self, _: Exception | None) -> None:
        self._end(0)

    def _end(self, status: int) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(status)


@dataclass(slots=True)
class Requests:
    """Requests for searches at ``url``, and connections to it."""

    url: str
    bodies: Iterator[bytes]
    idle: list[Caller] = field(default_factory=list)
    open: int = 0

    async def caller(self) -> Caller:
        while self.idle:
            caller = self.idle.pop()
            if not caller.transport.is_closing():
                return caller
            self.open -= 1
        address = urlsplit(self.url)
        self.open += 1
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(Caller, address.hostname or "", address.port or 0)
        return caller

    async def status(self) -> int | str:
        """What became of one request."""
        if not self.idle and self.open >= CONNECTIONS_MAX:
            return "no connection"
        caller = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                caller = await self.caller()
                status = await caller.ask(raw_search(self.url, next(self.bodies)))
        except TimeoutError:
            if caller is not None:
                caller.transport.abort()
            self.open -= 1
            return "given up"
        if status:
            self.idle.append(caller)
        else:
            self.open -= 1
        return status or "cut off"


async def closed_loop(requests: Requests, clients: int, seconds: float) -> float:
    """Answers a second of so many clients."""
    ends_s, found = time.monotonic() + seconds, 0

    async def client() -> None:
        nonlocal found
        while time.monotonic() < ends_s:
            status = await requests.status()
            found += status == OK

    await asyncio.gather(*(client() for _ in range(clients)))
    return found / seconds


async def open_loop(requests: Requests, per_s: float, seconds: float) -> dict[str, Any]:
    """Requests at a rate of ``per_s``; counted from ``WARM_UP_S`` on."""
    counts, took, tasks = Counter[int | str](), list[float](), set[asyncio.Task[None]]()

    async def one(is_counted: bool) -> None:
        began_s = time.monotonic()
        status = await requests.status()
        if is_counted:
            counts[status] += 1
            if status == OK:
                took.append(time.monotonic() - began_s)

    began_s = time.monotonic()
    for number in itertools.count():
        due_s = number / per_s
        if due_s > WARM_UP_S + seconds:
            break
        if (wait_s := began_s + due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.ensure_future(one(due_s >= WARM_UP_S))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    late_s = time.monotonic() - began_s - WARM_UP_S - seconds
    await asyncio.gather(*tasks)
    p50, p99 = np.percentile(np.array(took or [0.0]) * 1e3, [50, 99])
    return {
        "asked_per_s": round(per_s), "late_s": round(late_s, 2),
        "answers_per_s": round(counts[OK] / seconds, 1),
        "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1),
        "became": {str(status): count for status, count in counts.most_common()},
    }  # fmt: skip


async def peak(requests: Requests) -> tuple[float, int]:
    """The most answers a second, and of how many clients."""
    rates = [(await closed_loop(requests, clients, PEAK_S), clients) for clients in CLIENTS]
    return max(rates)


def ram_mib(pids: Sequence[int]) -> int:
    """Of these processes, what no other shares."""
    return sum(int(psutil.Process(pid).memory_full_info().uss) for pid in pids) >> 20


async def measured(
    url: str, pids: Sequence[int], bodies: Iterator[bytes], times: float, seconds: float
) -> dict[str, Any]:
    requests = Requests(url, bodies)
    best, clients = await peak(requests)
    before, most = ram_mib(pids), 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, ram_mib(pids))
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    over = await open_loop(requests, times * best, seconds)
    watching.cancel()
    after, _ = await peak(requests)
    return {
        "peak_per_s": round(best, 1), "peak_clients": clients, "overload": over,
        "goodput": round(over["answers_per_s"] / best, 3), "after_per_s": round(after, 1),
        "ram_mib": {"before": before, "most": most, "after": ram_mib(pids)},
    }  # fmt: skip


def measure(folder: Path, rows: int, times: float, seconds: float) -> dict[str, Any]:
    spec, texts = SyntheticSpec(rows, DIM), glosses(20_000)
    model = Encoder.load(DEFAULT_MODEL).spec
    write_index(folder / "index", spec, SHARDS, model=model, texts=texts)
    vectors = vector_bodies(synthetic_queries(spec, 200))
    said = (f"{texts[n % len(texts)]} {n}" for n in itertools.count())  # none is cached
    kinds = {
        "text": (orjson.dumps({"query": text}) for text in said),
        "vector": itertools.cycle(vectors),
    }
    cores = sorted(os.sched_getaffinity(0))
    own, theirs = cores[: len(cores) // 2], cores[len(cores) // 2 :]
    os.sched_setaffinity(0, theirs)  # its children are born with it
    with served(folder / "index") as (url, pids):
        os.sched_setaffinity(0, own)
        found = {
            name: uvloop.run(measured(url, pids, bodies, times, seconds))
            for name, bodies in kinds.items()
        }
    os.sched_setaffinity(0, cores)  # the result speaks of the whole machine
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--times", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-overload-") as folder:
        found = measure(Path(folder), options.rows, options.times, options.seconds)
    facts = {"rows": options.rows, "dim": DIM, "times": options.times, "seconds": options.seconds}
    print(json.dumps(write_result(RESULT, facts | found), indent=2))


if __name__ == "__main__":
    main()
