"""A cluster of simulated shards under the product's router, and what its answers cost."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated_loop import simulated_loop
from benchmarks.simulated_shards import CallCost, SimulatedActor, SimulatedShard, Traffic
from bitsift.cluster.bench.timing import percentiles
from bitsift.options import SearchOptions
from bitsift.router.description import IndexDescription
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.link import ReplicaLink, ShardLink
from bitsift.router.shards.remote import RemoteLink
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.shard_worker.codes import Calibration

MEASURED = Path(__file__).with_name("results") / "shard_latency.json"
DIMENSION, ROWS_PER_SHARD = 1_024, 40
TIMEOUT_MS = 60_000.0
BATCHES = (1, 4, 16, 64)
"""Queries in one call whose times were measured."""
SEED = 13
Samples = Mapping[str, NDArray[np.float64]]
"""Seconds of calls by what was called: ``search_1`` (one query) to ``search_64``, ``documents``."""
Join = Callable[[int, Sequence[ShardLink]], ShardLink]
"""The link of a shard from the links of its replicas."""


def first_replica(shard: int, replicas: Sequence[ShardLink]) -> ShardLink:
    """No hedging: the others are not asked."""
    return replicas[0]


def hedged(shard: int, replicas: Sequence[ShardLink]) -> ShardLink:
    """The product's own: the better of two is asked, and where it is late another."""
    nodes = enumerate(replicas)
    links = [(n, cast(ReplicaLink, link)) for n, link in nodes]  # nothing is written
    return ReplicaSet(shard, [Replica(shard, f"node-{n}", link) for n, link in links])


@dataclass(frozen=True, slots=True)
class MeasuredTimes:
    """Draws from ``samples``, sorted; between sizes of calls that were measured it interpolates.

    Of a loaded machine the times of one query are ``one_query``'s.
    """

    samples: Samples
    generator: np.random.Generator
    one_query: str = "search_1"

    def search_s(self, queries: int) -> float:
        if queries == 1:
            return self._at(self.one_query, self.generator.random())
        share = self.generator.random()
        times = [self._at(f"search_{size}", share) for size in BATCHES]
        return float(np.interp(queries, BATCHES, times))

    def document_s(self) -> float:
        """The documents of two rows were read in a call, and a ping is a call that reads none."""
        of_two, of_none = (float(np.median(self.samples[name])) for name in ("documents", "ping"))
        return max(0.0, (of_two - of_none) / 2)

    def documents_s(self) -> float:
        return self._at("documents", self.generator.random())

    def _at(self, name: str, share: float) -> float:
        """What ``share`` of the calls took at most."""
        samples = self.samples[name]
        return float(samples[int(share * len(samples))])


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a shard, and of calls, by ``python -m benchmarks.shard_latency``.

    ``search_cpu_s`` and ``ray_cpu_s`` are what a call takes of the event loop's thread, a search on
    a connection of its own and any call through Ray, by how many are sent at once.
    """

    samples: Samples
    search_cpu_s: Mapping[int, float]
    ray_cpu_s: Mapping[int, float]

    @classmethod
    def read(cls, path: Path = MEASURED) -> Measured:
        found = json.loads(path.read_text())
        samples = {name: np.array(us) / 1e6 for name, us in found["samples_us"].items()}
        search_s, ray_s = (
            {int(n): cost["event_loop"] / 1e6 for n, cost in found[name].items()}
            for name in ("search_cpu_us", "ray_cpu_us")
        )
        return cls(samples, search_s, ray_s)

    def call_cost(self, shards: int) -> CallCost:
        """Of one of ``shards`` calls that are sent together."""
        return CallCost(_between(self.search_cpu_s, shards), _between(self.ray_cpu_s, shards))


def _between(costs_s: Mapping[int, float], count: int) -> float:
    """What was measured for the nearest counts below and above, in between by the logarithm."""
    sizes = sorted(costs_s)
    logs = np.log([float(size) for size in sizes])
    return float(np.interp(math.log(count), logs, [costs_s[size] for size in sizes]))


@dataclass(frozen=True, slots=True)
class Cluster:
    """``shards`` simulated shards: how they answer, and what a call to one costs its router."""

    shards: int
    samples: Samples
    cost: CallCost
    replicas: int = 1
    join: Join = first_replica
    one_query: str = "search_1"
    seed: int = SEED
    rows: int = ROWS_PER_SHARD
    dimension: int = DIMENSION

    def vectors(self) -> NDArray[np.float32]:
        """float32 (shards, rows, dimension), unit length: what the shards hold."""
        generator = np.random.default_rng(self.seed)
        size = (self.shards, self.rows, self.dimension)
        vectors = generator.standard_normal(size, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        return vectors

    def links(self, traffic: Traffic) -> list[ShardLink]:
        """The product's own, to simulated actors."""
        generator = np.random.default_rng(self.seed + 1)
        ordered = {name: np.sort(seconds) for name, seconds in self.samples.items()}
        times = MeasuredTimes(ordered, generator, self.one_query)
        links: list[ShardLink] = []
        for number, vectors in enumerate(self.vectors()):
            replicas = [
                SimulatedActor(SimulatedShard(number, vectors, n + 1), times, traffic, self.cost)
                for n in range(self.replicas)
            ]
            links.append(self.join(number, [RemoteLink(number, actor) for actor in replicas]))
        return links

    def questions(self, count: int) -> NDArray[np.float32]:
        """float32 (count, dimension)."""
        generator = np.random.default_rng(self.seed + 2)
        return generator.standard_normal((count, self.dimension), dtype=np.float32)


def service_over(fan_out: FanOut, dimension: int) -> SearchService:
    """The product's own, of an index of given vectors."""
    sample = np.random.default_rng(SEED).standard_normal((64, dimension), dtype=np.float32)
    description = IndexDescription(
        "simulated", "simulated", "", len(fan_out), Calibration.from_sample(sample, dimension)
    )
    return SearchService(description, fan_out, None)


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of each answer and of its first round, the candidates; of the router's processor, of
    all; and the traffic.
    """

    answers_s: list[float]
    first_rounds_s: list[float]
    cpu_s: float
    elapsed_s: float
    traffic: Traffic

    def figures(self) -> dict[str, Any]:
        """Of one question, on average where it is not a percentile."""
        count = len(self.answers_s)
        first = percentiles(self.first_rounds_s)
        return percentiles(self.answers_s) | {
            "first_round_p50_ms": first["p50_ms"],
            "first_round_p99_ms": first["p99_ms"],
            "router_cpu_ms": round(self.cpu_s / count * 1e3, 3),
            "queries_s": round(count / self.elapsed_s, 1),
            "shard_calls": round(self.traffic.calls / count, 2),
            "sent_bytes": round(self.traffic.sent_bytes / count),
            "received_bytes": round(self.traffic.received_bytes / count),
        }


async def ask(cluster: Cluster, count: int, clients: int = 1, warm_up: int = 0) -> Run:
    """``count`` questions by ``clients``, each of whom asks when it has its answer.

    The first ``warm_up`` are not counted.
    """
    loop, traffic = simulated_loop(), Traffic()
    random.seed(cluster.seed)  # chooses among replicas
    with loop.elsewhere():
        service = service_over(FanOut(cluster.links(traffic)), cluster.dimension)
        waiting = list(cluster.questions(warm_up + count))
    answers_s: list[float] = []
    first_rounds_s: list[float] = []

    async def client(until: int = 0) -> None:
        while len(waiting) > until:
            options = SearchOptions(vector=waiting.pop(), timeout_ms=TIMEOUT_MS)
            started_s = time.monotonic()
            answer = await service.search(options)
            assert not answer.partial, answer.coverage
            answers_s.append(time.monotonic() - started_s)
            first_rounds_s.append(answer.timings_ms.fan_out / 1e3)

    await client(until=count)
    answers_s.clear()
    first_rounds_s.clear()
    traffic.forget()
    started_s, cpu_s = time.monotonic(), loop.cpu_s
    await asyncio.gather(*[client() for _ in range(clients)])
    elapsed_s, cpu_s = time.monotonic() - started_s, loop.cpu_s - cpu_s
    return Run(answers_s, first_rounds_s, cpu_s, elapsed_s, traffic)
