"""How long the router blocks its event loop under large requests: at p99 at most 5 ms.

    python benchmarks/event_loop.py [--rows 100000] [--seconds 65]

Two shards served by Ray. 32 clients, each with requests of 100 queries of candidates=1000, whose
texts the router has seen before: then nothing but the loop's own work is between it and its
clients. What measures is the product's own probe (GET /v1/cluster, event_loop), which looks at the
last minute. The bar is for block_p99_ms, in which the router's process computed. The lag counts
what the operating system made the loop wait as well: clients, shards and router share the cores.
The result goes to benchmarks/results/event_loop.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import orjson

from bitsift.cluster.bench.clients import connect, post
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import percentiles
from bitsift.cluster.serving.launch import serve
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.location import DEFAULT_MODEL

RESULT = Path(__file__).with_name("results") / "event_loop.json"
CLIENTS, QUERIES, CANDIDATES, SHARDS = 32, 100, 1_000, 2
TEXTS = 2_000


class Clients:
    """They ask over and over until they are ended."""

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        self._url, self._bodies = url, bodies
        self._ending = threading.Event()
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, turn: int) -> None:
        connection = connect(self._url)
        while not self._ending.is_set():
            started = time.perf_counter()
            answer = post(connection, self._bodies[turn % len(self._bodies)])
            self.seconds.append(time.perf_counter() - started)
            if not answer.startswith(b'{"results"'):
                self.failures.append(answer[:200].decode(errors="replace"))
            turn += 1
        connection.close()


def lag(url: str) -> dict[str, Any]:
    facts: dict[str, Any] = httpx.get(f"{url}/v1/cluster", timeout=60).json()["event_loop"]
    return facts


def measure(folder: Path, rows: int, seconds: float) -> dict[str, Any]:
    spec = SyntheticSpec(rows, 384)
    model = Encoder.load(DEFAULT_MODEL).spec
    texts = glosses(TEXTS)
    write_index(folder / "index", spec, SHARDS, model=model, texts=texts)
    options = {"candidates": CANDIDATES, "timeout_ms": 60_000}
    bodies = [
        orjson.dumps({"queries": texts[first : first + QUERIES], **options})
        for first in range(0, TEXTS, QUERIES)
    ]
    with ray_cluster(None):
        serving = serve(folder / "index", "127.0.0.1", 0)
        try:
            serving.wait_ready()
            connection = connect(serving.url)
            for body in bodies:  # now every text has been seen
                post(connection, body)
            time.sleep(5)
            idle = lag(serving.url)
            with Clients(serving.url, bodies) as clients:
                time.sleep(seconds)
                busy = lag(serving.url)
        finally:
            serving.stop()
    return {
        "rows": rows,
        "clients": CLIENTS,
        "queries_per_request": QUERIES,
        "candidates": CANDIDATES,
        "before": idle,
        "under_load": busy,
        "requests": percentiles(clients.seconds),
        "queries_s": round(len(clients.seconds) * QUERIES / seconds),
        "failed": len(clients.failures),
        "failure": clients.failures[0] if clients.failures else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=65.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-event-loop-") as folder:
        found = measure(Path(folder), options.rows, options.seconds)
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
