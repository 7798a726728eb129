"""Every process of a cluster restarted, one after the other, while it is asked and written to."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.asking import Asking, Routers, Writes
from tests.chaos.nodes import ChaosNodes, chaos_nodes
from tests.commands import wait_until
from tests.fleets import Cluster, is_whole, made_cluster, urls

PORT = 8_000
OPEN = "[access]\ninsecure = true\n"
ACTORS = {
    "agent": "AgentActor",
    "controller": "ControllerActor",
    "writer": "WriterActor",
    "router": "RouterActor",
    "replica": "ShardActor",
}
NAMES = ("a", "b", "c")
HEAL_S = 120
STILL_S = 2.0
"""Between one restart and the next, for callers to see that all is well."""
AWAY_S = 3.0
"""From the end of a node to its next start."""


@dataclass(frozen=True, slots=True)
class Restart:
    """One process, or one node, that was restarted. ``healed_s`` None: not in ``HEAL_S``."""

    what: str
    node: str
    healed_s: float | None
    queries: dict[str, int]
    acknowledged: int
    refused: int


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Cluster, ChaosNodes]]:
    """A cluster of three nodes with two routers, on one port; ended with the block."""
    with chaos_nodes(NAMES) as nodes:
        cluster = made_cluster(folder, nodes)
        spec = cluster.spec(routers=2, grace_s=300, host="0.0.0.0", port=PORT, more=OPEN)
        cluster.run("up", spec)
        yield cluster, nodes
        cluster.run("down")


def addresses(nodes: ChaosNodes) -> list[str]:
    """Where a router of each node answers, if there is one."""
    return [f"http://{node.address}:{PORT}" for node in nodes.nodes.values()]


class Rolling:
    """The restarts of one cluster, in order, under ``per_s`` queries a second and writes."""

    def __init__(self, cluster: Cluster, nodes: ChaosNodes, per_s: float) -> None:
        self._cluster, self._nodes = cluster, nodes
        self.asking = Asking(cluster, Routers(addresses(nodes)), per_s)
        self.writes = Writes(cluster, Routers(addresses(nodes)))
        self.restarts: list[Restart] = []

    def run(self, signal_number: signal.Signals, say: Callable[[str], None]) -> dict[str, Any]:
        """Actors are sent ``signal_number``; with SIGKILL the nodes lose their power too.

        What was seen, as JSON.
        """
        steps = self._of_actors(signal_number)
        if signal_number is signal.SIGKILL:
            steps = itertools.chain(steps, self._of_nodes())
        status = self._cluster.run("status")
        self._routers = len(status["routers"])
        with self.asking.going_on(), self.writes.going_on():
            time.sleep(STILL_S)
            for what, node, restart in steps:
                self._observe(what, node, restart)
                say(str(self.restarts[-1]))
        status = self._cluster.until(is_whole)
        return {
            "signal": signal_number.name,
            "per_s": self.asking.per_s,
            "queries": self.asking.counts(),
            "acknowledged": len(self.writes.acknowledged),
            "refused_writes": len(self.writes.refused),
            "lost_writes": {url: len(self.writes.lost(url)) for url in urls(status).values()},
            "versions": [
                sorted({r["version"] for r in shard["replicas"]}) for shard in status["shards"]
            ],
            "problems": self.asking.wrong[:20],
            "restarts": [asdict(restart) for restart in self.restarts],
        }

    def _of_actors(
        self, number: signal.Signals
    ) -> Iterator[tuple[str, str, Callable[[], Callable[[], bool]]]]:
        """Each actor that runs when its turn comes."""
        for what, kind in ACTORS.items():
            for node in self._nodes.nodes:
                for pid in self._nodes.actors(node, kind):
                    yield what, node, functools.partial(self._end, kind, pid, number)

    def _end(self, kind: str, pid: int, number: signal.Signals) -> Callable[[], bool]:
        """End an actor; returns whether another is in its place."""
        before = self._all(kind)
        with contextlib.suppress(ProcessLookupError):  # the controller has just replaced it
            os.kill(pid, number)
        return lambda: pid not in self._all(kind) and len(self._all(kind)) >= len(before)

    def _all(self, kind: str) -> list[int]:
        return [pid for node in self._nodes.nodes for pid in self._nodes.actors(node, kind)]

    def _of_nodes(self) -> Iterator[tuple[str, str, Callable[[], Callable[[], bool]]]]:
        for node in self._nodes.nodes:
            yield "node", node, functools.partial(self._lose, node)

    def _lose(self, node: str) -> Callable[[], bool]:
        replicas = len(self._nodes.actors(node, ACTORS["replica"]))
        self._nodes.signal(node, signal.SIGKILL)
        time.sleep(AWAY_S)
        self._nodes.start(node)
        return lambda: len(self._nodes.actors(node, ACTORS["replica"])) >= replicas

    def _observe(self, what: str, node: str, restart: Callable[[], Callable[[], bool]]) -> None:
        began_s, acknowledged = time.monotonic(), len(self.writes.acknowledged)
        refused = len(self.writes.refused)
        is_replaced = restart()
        healed = wait_until(lambda: is_replaced() and self._is_well(), HEAL_S)
        healed_s = round(time.monotonic() - began_s, 1) if healed else None
        time.sleep(STILL_S)
        self.restarts.append(
            Restart(
                what,
                node,
                healed_s,
                self.asking.counts(began_s, time.monotonic()),
                len(self.writes.acknowledged) - acknowledged,
                len(self.writes.refused) - refused,
            )
        )

    def _is_well(self) -> bool:
        """As many routers as before see both copies of each shard READY, and no breaker open."""
        return sum(map(sees_all, addresses(self._nodes))) >= self._routers


def sees_all(url: str, copies: int = 2) -> bool:
    """Whether a router answers there, and has so many copies of each shard that are well."""
    with contextlib.suppress(httpx.TransportError):
        response = httpx.get(f"{url}/v1/cluster", timeout=5, trust_env=False)
        if response.status_code != 200:
            return False
        shards = response.json()["shards"]
        found = [(it["state"], it["breaker"]) for shard in shards for it in shard["replicas"]]
        return len(found) == copies * len(shards) and set(found) == {("READY", "closed")}
    return False
