"""What ``exhaustive`` searches without end cost those who ask ordinary queries.

    python benchmarks/exhaustive_neighbours.py [--rows 300000] [--rounds 12]

Two shards served by Ray, four clients with vector queries over HTTP: alone, and while two more ask
exhaustive queries over and over, in turns. Their p99 over p99 alone is the figure, at most 1.5.
The result goes to benchmarks/results/exhaustive_neighbours.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.clients import ask, connect, post, vector_bodies
from bitsift.cluster.bench.index import write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.serving import served
from bitsift.cluster.bench.timing import percentiles
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries

RESULT = Path(__file__).with_name("results") / "exhaustive_neighbours.json"
DIM, SHARDS, CLIENTS, SLOW_CLIENTS, QUERIES = 384, 2, 4, 2, 250


class Endless:
    """Clients that ask exhaustive queries, each the next as soon as it is answered."""

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        self._url, self._bodies = url, bodies
        self._ending = threading.Event()
        self.answered = self.failed = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(SLOW_CLIENTS)]

    def __enter__(self) -> Endless:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection, turn = connect(self._url), 0
        while not self._ending.is_set():
            answer = json.loads(post(connection, self._bodies[turn % len(self._bodies)]))
            good = bool(answer.get("hits")) and not answer["partial"]
            self.answered += good
            self.failed += not good
            turn += 1
        connection.close()


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    spec = SyntheticSpec(rows, DIM)
    write_index(folder / "index", spec, SHARDS)
    vectors = synthetic_queries(spec, QUERIES)
    bodies = vector_bodies(vectors)
    slow = vector_bodies(vectors, mode="exhaustive", timeout_ms=60_000)
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    lost = answered = failed = 0
    with ray_cluster(None), served(folder / "index") as serving:
        ask(serving.url, bodies * 2, CLIENTS)
        for _ in range(rounds):
            alone = ask(serving.url, bodies, CLIENTS)
            with Endless(serving.url, slow) as endless:
                beside = ask(serving.url, bodies, CLIENTS)
            seconds["alone"] += alone.seconds
            seconds["beside"] += beside.seconds
            lost += alone.lost + beside.lost
            answered, failed = answered + endless.answered, failed + endless.failed
    found = {name: percentiles(values) for name, values in seconds.items()}
    return {
        "rows": rows,
        "dim": DIM,
        "shards": SHARDS,
        **found,
        "p99_ratio": round(found["beside"]["p99_ms"] / found["alone"]["p99_ms"], 2),
        "p50_ratio": round(found["beside"]["p50_ms"] / found["alone"]["p50_ms"], 2),
        "queries_lost": lost,
        "exhaustive_answered": answered,
        "exhaustive_failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-exhaustive-") as folder:
        found = measure(Path(folder), options.rows, options.rounds)
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
