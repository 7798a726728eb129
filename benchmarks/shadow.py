"""What shadow recall costs the searches that are answered meanwhile.

    python benchmarks/shadow.py [--rows 200000] [--rounds 12] [--turn-s 8]

Servers of equal indexes, two shards each, differ in the share of searches that are asked again:
none (twice, for the noise of the machine), 0.1 % and 1 %, under the default budget. Two clients ask
vector queries over HTTP at a steady pace, which leaves quiet moments, one server after the other in
turns of some seconds, in another order each round. The figure is the median over rounds of a
server's p50 and p99 over those of the server without: at most 1.01 and 1.05 for 0.1 %. The
result goes to benchmarks/results/shadow.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from bitsift.cluster.bench.clients import ask, connect, post, vector_bodies
from bitsift.cluster.bench.index import write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import median, percentiles
from bitsift.cluster.serving.launch import Serving, serve
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.router.shadow.settings import ShadowSettings

RESULT = Path(__file__).with_name("results") / "shadow.json"
DIM, SHARDS, CLIENTS, QUERIES = 384, 2, 2, 500
PACE_S = 0.04
"""From one query of a client to its next."""
OFF, AGAIN = "off", "off again"
SHARES = {OFF: 0.0, AGAIN: 0.0, "0.1 %": 0.001, "1 %": 0.01}
NAMES = {AGAIN: "off_again", "0.1 %": "share_0.1_percent", "1 %": "share_1_percent"}


def paced(url: str, bodies: list[bytes], seconds: float) -> list[float]:
    """Times of queries that ``CLIENTS`` send, each every ``PACE_S``, for so long."""
    found: list[float] = []

    def client(first: int) -> None:
        connection, end_s = connect(url), time.perf_counter() + seconds
        due_s, place = time.perf_counter() + PACE_S * first / CLIENTS, first
        while due_s < end_s:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            started = time.perf_counter()
            answer = json.loads(post(connection, bodies[place % len(bodies)]))
            found.append(time.perf_counter() - started)
            assert answer.get("hits"), answer
            due_s, place = max(due_s + PACE_S, started), place + CLIENTS
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def outcomes(url: str) -> dict[str, int]:
    """What became of the searches that were to be asked again."""
    page = httpx.get(f"{url}/metrics").text
    return {
        sample.labels["outcome"]: int(sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "bitsift_shadow_searches_total"
    }


def measure(folder: Path, rows: int, rounds: int, turn_s: float) -> dict[str, Any]:
    spec = SyntheticSpec(rows, DIM)
    bodies = vector_bodies(synthetic_queries(spec, QUERIES))
    seconds: dict[str, list[list[float]]] = {name: [] for name in SHARES}
    with ray_cluster(None), contextlib.ExitStack() as stack:
        servers: dict[str, Serving] = {}
        for name, share in SHARES.items():
            path = folder / NAMES.get(name, name)
            write_index(path, spec, SHARDS)
            shadow = ShadowSettings(share=share)
            servers[name] = serve(path, "127.0.0.1", 0, query_cache=0, shadow=shadow)
            stack.callback(servers[name].stop)
        for serving in servers.values():
            serving.wait_ready()
            ask(serving.url, bodies, CLIENTS)
        for turn in range(rounds):
            for name in random.Random(turn).sample([*SHARES], len(SHARES)):
                seconds[name].append(paced(servers[name].url, bodies, turn_s))
        became = {name: outcomes(serving.url) for name, serving in servers.items()}
    return {
        "rows": rows,
        "dim": DIM,
        "shards": SHARDS,
        "queries_per_second": CLIENTS / PACE_S,
        "rounds": rounds,
        "turn_s": turn_s,
        "off": percentiles([one for turn in seconds[OFF] for one in turn]),
        **{NAMES[name]: compared(seconds[OFF], seconds[name], became[name]) for name in NAMES},
    }


def compared(
    off: list[list[float]], on: list[list[float]], became: dict[str, int]
) -> dict[str, Any]:
    """Medians of the rounds' ratios, with the middle half of them."""
    found: dict[str, Any] = {**percentiles([one for turn in on for one in turn])}
    for share in (50, 99):
        ratios = [
            float(np.percentile(theirs, share) / np.percentile(own, share))
            for own, theirs in zip(off, on, strict=True)
        ]
        found[f"p{share}_ratio"] = round(median(ratios), 3)
        found[f"p{share}_ratio_quartiles"] = np.percentile(ratios, [25, 75]).round(3).tolist()
    return {**found, "asked_again": became}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--turn-s", type=float, default=8.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitsift-shadow-") as folder:
        found = measure(Path(folder), options.rows, options.rounds, options.turn_s)
    print(json.dumps(write_result(RESULT, found), indent=2))


if __name__ == "__main__":
    main()
