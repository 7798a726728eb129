"""``python -m tests.chaos.random_faults --faults 300 --seed S``: random faults on a cluster of real
processes, under clients that contend for a few documents.

Four Ray nodes with an index of two shards, three replicas of each; writes are acknowledged by a
majority, two routers answer. In the end all is healed, and then: every acknowledged write must be
there, all replicas hold the same, and for each id there must be an order of what clients did that
explains all that they read. Needs root. Results of several seeds are kept in one file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import describe_machine, write_result
from tests.chaos.befalling import Befalling, disks, wrong_clocks
from tests.chaos.fault_plan import Fault, Plan, plan_of
from tests.chaos.nodes import ChaosNodes, chaos_nodes
from tests.chaos.recording import KEYS, Clients, lost
from tests.chaos.replicas_on_disk import differences, replicas
from tests.chaos.rolling import OPEN, PORT, addresses, sees_all
from tests.commands import wait_until
from tests.fleets import Cluster, is_whole, made_cluster

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "random_faults.json"
NAMES = ("a", "b", "c", "d")
SHARDS, COPIES, ROUTERS = 2, 3, 2
GRACE_S = 40.0
"""Shorter than the longest faults: then replicas are copied to the fourth node."""
HEAL_MAX_S = 120.0
"""Under load; a cluster that is not well by then is given as long without writes: where a copy
takes longer than writes can be held, it joins when they pause (docs/cluster.md).
"""
UP_MAX_S = 600.0
"""On a machine that is busy with other things."""
CALM_S, HOUR_S = 3.0, 3600.0
Say = Callable[[str], None]


class RandomFaults:
    """One plan, on one cluster that runs."""

    def __init__(
        self, plan: Plan, befalling: Befalling, nodes: ChaosNodes, clients: Clients, say: Say
    ) -> None:
        self._plan, self._befalling, self._nodes = plan, befalling, nodes
        self._clients, self._say = clients, say
        self._ended = threading.Event()
        self._began_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.heals_s: list[float] = []
        self.starved = 0
        """How often it was well only when nothing was written."""
        self.is_stuck = False

    def run(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            control = pool.submit(self._control)
            for bout in self._plan.bouts:
                self._bout(bout)
                if self.is_stuck:
                    self._ended.set()
                    break
            control.result(HOUR_S)

    def _control(self) -> None:
        for fault in self._plan.control:
            if not self._ended.wait(fault.after_s):
                self._befall(fault)

    def _bout(self, bout: tuple[Fault, ...]) -> None:
        with ThreadPoolExecutor(len(bout)) as pool:
            running = []
            for fault in bout:
                time.sleep(fault.after_s)
                running.append(pool.submit(self._befall, fault))
            for one in running:
                one.result(HOUR_S)
        self.heal(1)

    def _befall(self, fault: Fault) -> None:
        self._say(f"{self._at()} {fault.kind} {','.join(fault.nodes)} for {fault.for_s:.1f} s")
        if self._befalling.befall(fault, self._ended):
            self.counts[fault.kind] += 1

    def heal(self, routers: int) -> None:
        """Until so many routers see all replicas well."""
        began_s = time.monotonic()

        def is_well() -> bool:
            self._befalling.revive()
            return _are_well(self._nodes) >= routers

        if not wait_until(is_well, HEAL_MAX_S):
            self.starved += 1
            self._clients.writes(go_on=False)
            self.is_stuck = not wait_until(is_well, HEAL_MAX_S)
            self._clients.writes(go_on=True)
        self.heals_s.append(round(time.monotonic() - began_s, 1))
        self._say(f"{self._at()} {'STUCK' if self.is_stuck else 'well'} after {self.heals_s[-1]} s")

    def _at(self) -> str:
        return f"{time.monotonic() - self._began_s:7.1f}"


def run(faults: int, seed: int, say: Say, kept: Path | None = None) -> dict[str, Any]:
    """What was found, as JSON."""
    with running(kept) as (cluster, nodes, befalling):
        urls = addresses(nodes)
        clients = Clients(cluster, urls, seed)
        trial = RandomFaults(plan_of(seed, faults, NAMES), befalling, nodes, clients, say)
        load, began_s = os.getloadavg()[0], time.monotonic()
        with clients.going_on():
            time.sleep(CALM_S)
            trial.run()
            if not trial.is_stuck:
                trial.heal(ROUTERS)
            time.sleep(CALM_S)
        took_s = time.monotonic() - began_s
        history = clients.history
        unread = [] if trial.is_stuck else _read_all(clients, cluster)
        differing = _differing(cluster)
        return {
            "seed": seed,
            "commit": describe_machine()["commit"],
            "load_average_before": round(load, 2),
            "seconds": round(took_s),
            "faults": trial.counts.total(),
            "by_kind": dict(sorted(trial.counts.items())),
            "operations": dict(sorted(history.counts.items())),
            "longest_operation_s": round(history.longest_s, 1),
            "acknowledged": sum(
                call.is_write and call.end < float("inf")
                for its in history.calls.values()
                for call in its
            ),
            "heals": len(trial.heals_s),
            "longest_heal_s": max(trial.heals_s),
            "healed_without_writes": trial.starved,
            "is_stuck": trial.is_stuck,
            "unread": unread[:20],
            "lost": [] if trial.is_stuck else lost(history)[:20],
            "differing": differing,
            "non_linearizable": history.broken(),
            "wrong": history.wrong[:20],
        }


@contextlib.contextmanager
def running(kept: Path | None) -> Iterator[tuple[Cluster, ChaosNodes, Befalling]]:
    """The cluster, ended with the block; the disks of its nodes go with it."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(disks(folder / "data", NAMES))
        own = wrong_clocks(folder, NAMES)
        nodes = stack.enter_context(chaos_nodes(NAMES, kept, own))
        cluster = made_cluster(folder, nodes)
        spec = cluster.spec(
            replicas=COPIES, routers=ROUTERS, grace_s=GRACE_S, host="0.0.0.0", port=PORT, more=OPEN
        )
        cluster.run("up", spec, "--no-wait")
        assert wait_until(lambda: _are_well(nodes) >= ROUTERS, UP_MAX_S), cluster.run("status")
        yield cluster, nodes, Befalling(nodes, folder / "data", folder)


def _are_well(nodes: ChaosNodes) -> int:
    """How many routers see all replicas well."""
    return sum(sees_all(url, COPIES) for url in addresses(nodes))


def _read_all(clients: Clients, cluster: Cluster) -> list[str]:
    """Reads all that was written once more, through each router; what could not be read."""
    status = cluster.until(lambda status: is_whole(status) and _has_no_more(status))
    urls = [router["url"] for router in status["routers"]]
    keys = [*KEYS, *(key for key in list(clients.history.calls) if key not in KEYS)]
    return [f"{key} at {url}" for url in urls for key in keys if not clients.read(key, url)]


def _has_no_more(status: dict[str, Any]) -> bool:
    """A replica that another has replaced is removed a while later; it is written to no more."""
    return all(len(shard["replicas"]) == COPIES for shard in status["shards"])


def _differing(cluster: Cluster) -> dict[str, list[str]]:
    """By shard; the cluster is stopped first."""
    cluster.run("down")
    data = cluster.folder / "data"
    found = {
        str(shard): differences(replicas(data, NAMES, shard), COPIES) for shard in range(SHARDS)
    }
    return {shard: said for shard, said in found.items() if said}


def is_good(found: dict[str, Any]) -> bool:
    """Whether nothing was broken."""
    bad = ("is_stuck", "unread", "lost", "differing", "non_linearizable", "wrong")
    return not any(found[name] for name in bad)


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Add a run to those of other seeds, and sum up."""
    earlier = json.loads(path.read_text())["runs"] if path.exists() else []
    runs = [run for run in earlier if run["seed"] != found["seed"]] + [found]
    by_kind: Counter[str] = Counter()
    for run_ in runs:
        by_kind.update(run_["by_kind"])
    result = {
        "nodes": len(NAMES),
        "shards": SHARDS,
        "replicas": COPIES,
        "routers": ROUTERS,
        "faults": by_kind.total(),
        "by_kind": dict(sorted(by_kind.items())),
        "acknowledged": sum(run_["acknowledged"] for run_ in runs),
        "lost": sum(len(run_["lost"]) for run_ in runs),
        "differing": sum(len(run_["differing"]) for run_ in runs),
        "non_linearizable": sum(len(run_["non_linearizable"]) for run_ in runs),
        "longest_heal_s": max(run_["longest_heal_s"] for run_ in runs),
        "healed_without_writes": sum(run_["healed_without_writes"] for run_ in runs),
        "runs": sorted(runs, key=lambda run_: run_["seed"]),
    }
    write_result(path, result)


def main() -> int:
    """The exit code: 1 where something was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.random_faults")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--logs", type=Path, help="a folder where the logs of all processes stay")
    options = parser.parse_args()
    found = run(options.faults, options.seed, lambda line: print(line, flush=True), options.logs)
    print(json.dumps(found, indent=1))
    _keep(options.out, found)
    return 0 if is_good(found) else 1


if __name__ == "__main__":
    sys.exit(main())
