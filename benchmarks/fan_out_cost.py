"""What a query costs the router's processor, of two checkouts in turns: the simulation of fan_out.

    python -m benchmarks.fan_out_cost OTHER-CHECKOUT [--rounds 5]

Each checkout's own router asks 8, 100 and 1,000 simulated shards, of one and of two replicas, in a
process of its own (A B A B …). Ray's share of a call is left out: it is the same. Results go to
benchmarks/results/fan_out_cost.json: medians of the milliseconds of a query, and what crosses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import write_result

RESULT = Path(__file__).with_name("results") / "fan_out_cost.json"
HERE = Path(__file__).parents[1]
SIZES, REPLICAS, ROUNDS = (8, 100, 1_000), (1, 2), 5
CALLS, QUERIES_MIN, WARM_UP = 16_000, 10, 12
CHILD = """
import json, sys
from benchmarks.simulated_cluster import Cluster, Measured, ask, first_replica, hedged
from benchmarks.simulated_loop import simulate
from benchmarks.simulated_shards import CallCost
from bitsift.router.collector import settle
shards, replicas, count, warm_up = map(int, sys.argv[1:])
settle()
join = first_replica if replicas == 1 else hedged
cluster = Cluster(shards, Measured.read().samples, CallCost(), replicas, join)
print(json.dumps(simulate(ask(cluster, count, warm_up=warm_up), counts_cpu=True).figures()))
"""


def figures(checkout: Path, shards: int, replicas: int) -> dict[str, Any]:
    count = max(QUERIES_MIN, CALLS // shards)
    arguments = map(str, (shards, replicas, count, WARM_UP))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], cwd=checkout, check=True, text=True,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(checkout)},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compared(other: Path, shards: int, replicas: int, rounds: int) -> dict[str, Any]:
    sides: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    for _ in range(rounds):
        sides["before"].append(figures(other, shards, replicas))
        sides["after"].append(figures(HERE, shards, replicas))
    kept = ("router_cpu_ms", "shard_calls", "sent_bytes", "received_bytes")
    found: dict[str, Any] = {
        name: {key: statistics.median(run[key] for run in runs) for key in kept}
        for name, runs in sides.items()
    }
    ratios = [
        after["router_cpu_ms"] / before["router_cpu_ms"]
        for before, after in zip(*sides.values(), strict=True)
    ]
    return {"shards": shards, "replicas": replicas, **found} | {
        "cpu_ratio": round(statistics.median(ratios), 3),
        "cpu_ratio_of_rounds": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    runs = [
        compared(options.before.absolute(), shards, replicas, options.rounds)
        for shards in SIZES
        for replicas in REPLICAS
    ]
    print(json.dumps(write_result(RESULT, {"runs": runs}), indent=2))


if __name__ == "__main__":
    main()
