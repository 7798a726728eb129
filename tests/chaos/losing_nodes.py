"""``python -m tests.chaos.losing_nodes``: what queries see while a node is lost, and before.

A node with replicas and without the router is killed, frozen, and cut off, several times each. The
figures, and their medians, go into benchmarks/results/chaos_nodes.json. Needs root.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from bitsift.cluster.bench.machine import write_result
from tests.chaos.asking import Asking, Routers, percentile_ms
from tests.chaos.nodes import ChaosNodes, chaos_nodes
from tests.chaos.rolling import OPEN, PORT, sees_all
from tests.commands import wait_until
from tests.fleets import Cluster, answering, made_cluster, urls

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "chaos_nodes.json"
LOSSES = ("killed", "frozen", "cut off")
HEAL_S = 180
AWAKE_S = 5.0
"""How long queries are asked before anything is counted."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.losing_nodes")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--per-s", type=float, default=50.0, help="queries a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="before, and of each fault")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="losing-") as folder,
        chaos_nodes(["a", "b", "c"]) as nodes,
    ):
        cluster = made_cluster(Path(folder), nodes)
        spec = cluster.spec(routers=1, grace_s=600, host="0.0.0.0", port=PORT, more=OPEN)
        status = cluster.run("up", spec)
        ((router, url),) = urls(status).items()
        victim = next(iter(set().union(*answering(status)) - {router}))
        runs: dict[str, list[dict[str, Any]]] = {fault: [] for fault in LOSSES}
        for number in range(options.runs):
            for fault in LOSSES:
                found = _run(cluster, nodes, url, victim, fault, options)
                print(number, fault, found, flush=True)
                runs[fault].append(found)
                _write(runs, options)
        cluster.run("down")


def _run(
    cluster: Cluster, nodes: ChaosNodes, url: str, victim: str, fault: str, options: Any
) -> dict[str, Any]:
    """One fault: p99 before and during, what became of the queries, and the hedges."""
    asking = Asking(cluster, Routers([url]), options.per_s)
    with asking.going_on():
        time.sleep(AWAKE_S)
        before, load = _hedges(url), os.getloadavg()[0]
        began_s = time.monotonic()
        time.sleep(options.seconds)
        hedged = _hedges(url)
        lost_s = time.monotonic()
        _lose(nodes, victim, fault)
        seen: Counter[str] = Counter()
        while time.monotonic() < lost_s + options.seconds:  # a replica that leaves takes its own
            time.sleep(0.5)
            seen |= _hedges(url) - hedged
        end_s = time.monotonic()
        _find(nodes, victim, fault)
        healed = wait_until(lambda: _is_back(nodes, url, victim), HEAL_S)
        healed_s = round(time.monotonic() - end_s, 1) if healed else None
    calm, stormy = asking.between(began_s, lost_s), asking.between(lost_s, end_s)
    return {
        "load_average_before": round(load, 2),
        "p99_before_ms": percentile_ms(calm, 0.99),
        "p99_during_ms": percentile_ms(stormy, 0.99),
        "p99_ratio": round(percentile_ms(stormy, 0.99) / percentile_ms(calm, 0.99), 2),
        "p50_before_ms": percentile_ms(calm, 0.5),
        "p50_during_ms": percentile_ms(stormy, 0.5),
        "hedges_before": (hedged - before).total(),
        "hedges_during": seen.total(),
        "extra_calls_share": round(seen.total() / (2 * len(stormy)), 4),
        "before": asking.counts(began_s, lost_s),
        "during": asking.counts(lost_s, end_s),
        "until_healed": asking.counts(end_s),
        "healed_s": healed_s,
        "problems": asking.wrong[:5],
    }


def _hedges(url: str) -> Counter[str]:
    """By shard and node, since the router has known the replica."""
    shards = httpx.get(f"{url}/v1/cluster", timeout=20, trust_env=False).json()["shards"]
    return Counter(
        {f"{s['shard']} on {it['node']}": it["hedges"] for s in shards for it in s["replicas"]}
    )


def _lose(nodes: ChaosNodes, victim: str, fault: str) -> None:
    if fault == "cut off":
        nodes.cut_off(victim)
    else:
        nodes.signal(victim, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)


def _find(nodes: ChaosNodes, victim: str, fault: str) -> None:
    if fault == "cut off":
        nodes.join_up(victim)
    elif fault == "frozen":
        nodes.signal(victim, signal.SIGCONT)


def _is_back(nodes: ChaosNodes, url: str, victim: str) -> bool:
    nodes.revive(victim)
    return sees_all(url)


def _write(runs: dict[str, list[dict[str, Any]]], options: Any) -> None:
    names = ("p99_before_ms", "p99_during_ms", "p99_ratio", "extra_calls_share", "healed_s")
    medians = {
        fault: {
            name: statistics.median(one[name] for one in found if one[name] is not None)
            for name in names
        }
        for fault, found in runs.items()
        if found
    }
    asked: Counter[str] = Counter()
    for found in runs.values():
        for one in found:
            asked.update(one["during"])
            asked.update(one["until_healed"])
    spread = {"shards": 2, "replicas": 2, "nodes": 3, "per_s": options.per_s}
    result = {**spread, "medians": medians, "queries_from_the_fault_on": dict(asked), "runs": runs}
    write_result(options.out, result)


if __name__ == "__main__":
    main()
