"""What /metrics says: what was counted (metrics.py), and how things are now: queues, the cache of
queries, every replica of every shard.

Replicas are asked when somebody looks, at most once in ``FRESH_S``, and all who look at the same
time get one page. Nobody waits for a replica that does not answer for longer than ``WAIT_S``: what
it said before is shown, and once it has been given up, that it is down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from bitsift.router.indexes import Indexes, Served
from bitsift.router.service import SearchService
from bitsift.router.shadow.estimates import Estimate
from bitsift.router.shards.background import let_end
from bitsift.router.shards.replica import ReplicaStatus
from bitsift.router.shards.replica_set import ShardState
from bitsift.router.shards.standing import Digest
from bitsift.shard_worker.types import ShardStatus

FRESH_S = 5.0
"""What replicas said counts as new for so long."""
WAIT_S = 0.3
"""How long a page waits for what they say."""
ANSWER_TIMEOUT_S = 2.0
"""A replica that says nothing for so long is down."""
LOCAL = "local"
"""The label of the only node of a server without a cluster."""
_REPLICA = ("shard", "node")
_OF_SERVER = ("process_", "bitsift_build", "bitsift_http_", "bitsift_event_loop_")
"""How names begin of what is counted once for all indexes."""


class MetricsPage:
    """The text of /metrics. Lives in the event loop of the ``indexes``.

    Series of the default index have no label ``index``; those of the others have their names.
    """

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes
        self._looks: dict[Served, _Look] = {}
        self._writing: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """In Prometheus' text format. Who asks while a page is being made gets that one."""
        if self._writing is None:
            self._writing = asyncio.create_task(self._text())
            self._writing.add_done_callback(self._written)
        return await asyncio.shield(self._writing)

    def _written(self, _: asyncio.Task[bytes]) -> None:
        self._writing = None

    async def _text(self) -> bytes:
        served = [one for _, one in self._indexes.all() if isinstance(one, Served)]
        self._looks = {one: self._looks.get(one) or _Look(one.service) for one in served}
        await asyncio.gather(*(look.ask() for look in self._looks.values()))
        parts = {
            None if one is self._indexes.default else one.name: look.collectors()
            for one, look in self._looks.items()
        }
        return await asyncio.to_thread(generate_latest, _Merged(parts))


class _Look:
    """At one index."""

    def __init__(self, service: SearchService) -> None:
        self._service = service
        self._states: Sequence[ShardState] = ()
        self._asked_s = -FRESH_S
        self._asking: asyncio.Task[None] | None = None

    def collectors(self) -> tuple[Collector, ...]:
        """What was counted of it, and how it is now."""
        return self._service.metrics.registry, _Now(self._service, self._states)

    async def ask(self) -> None:
        """Have the replicas asked, unless they have just been, and wait for a moment."""
        if self._asking is None and time.monotonic() > self._asked_s + FRESH_S:
            self._asking = asyncio.create_task(self._ask_all())
            let_end(self._asking)
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=WAIT_S)

    async def _ask_all(self) -> None:
        try:
            self._states = await self._service.shards.states(ANSWER_TIMEOUT_S)
            self._asked_s = time.monotonic()
        finally:
            self._asking = None


class _Merged(Collector):
    """Each family once, with the samples of all indexes: the names of the others are labels."""

    def __init__(self, parts: Mapping[str | None, Sequence[Collector]]) -> None:
        """``None`` is the default index."""
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for part in self._parts[None] for family in part.collect()}
        for name, collectors in self._parts.items():
            if name is None:
                continue
            for family in (family for part in collectors for family in part.collect()):
                if not family.name.startswith(_OF_SERVER):
                    families[family.name].samples += [
                        sample._replace(labels={"index": name, **sample.labels})
                        for sample in family.samples
                    ]
        yield from families.values()


class _Now(Collector):
    """How things are at one moment: it is made in the event loop, and read in a thread."""

    def __init__(self, service: SearchService, states: Sequence[ShardState]) -> None:
        self._states = states
        self._syncs = tuple(service.syncs)
        self._waiting = {"encode": service.query_vectors.waiting} | service.shards.waiting()
        self._cache = service.query_vectors.cache_facts()
        self._estimates = service.shadow.estimates.all()

    def collect(self) -> Iterator[Metric]:
        yield from _queues(self._waiting)
        yield from _query_cache(self._cache)
        yield from _shadow(self._estimates)
        yield from _shards(self._states)
        yield from _replicas(self._states)
        yield from _in_step(self._syncs)


def _queues(waiting: Mapping[str, int]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "bitsift_queue_waiting", "Calls that wait in a queue.", labels=["queue"]
    )
    for queue, count in waiting.items():
        family.add_metric([queue], count)
    yield family


def _query_cache(cache: Mapping[str, int]) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "bitsift_query_cache_hits_total", "Queries whose vector was known.", cache["hits"]
    )
    yield CounterMetricFamily(
        "bitsift_query_cache_misses_total", "Queries that had to be encoded.", cache["misses"]
    )
    yield GaugeMetricFamily(
        "bitsift_query_cache_entries", "Vectors of queries that are kept.", cache["entries"]
    )


def _shadow(estimates: Sequence[Estimate]) -> Iterator[Metric]:
    compared = GaugeMetricFamily(
        "bitsift_shadow_sample_searches",
        "Searches that the estimates of recall and overlap are made of, the latest.",
        labels=["mode", "plan"],
    )
    recall = GaugeMetricFamily(
        "bitsift_shadow_recall_ratio",
        "Share of the ten best hits of exhaustive searches that ordinary ones find.",
        labels=["mode", "plan", "bound"],
    )
    overlap = GaugeMetricFamily(
        "bitsift_shadow_overlap_ratio",
        "Rank-biased overlap of the answers of ordinary and exhaustive searches.",
        labels=["mode", "plan", "bound"],
    )
    for one in estimates:
        compared.add_metric([one.mode, one.plan], one.searches)
        for bound in ("mean", "low", "high"):
            key = [one.mode, one.plan, bound]
            recall.add_metric(key, getattr(one.recall_at_10, bound))
            overlap.add_metric(key, getattr(one.rank_biased_overlap, bound))
    yield from (compared, recall, overlap)


def _shards(states: Sequence[ShardState]) -> Iterator[Metric]:
    documents = GaugeMetricFamily(
        "bitsift_shard_documents", "Documents of a shard that can be found.", labels=["shard"]
    )
    rows = GaugeMetricFamily(
        "bitsift_shard_rows", "Rows of a shard, deleted ones included.", labels=["shard"]
    )
    for state in states:
        if state.status.state == "READY":
            documents.add_metric([str(state.status.shard)], state.status.documents)
            rows.add_metric([str(state.status.shard)], state.status.rows)
    yield documents
    yield rows


def _replicas(states: Sequence[ShardState]) -> Iterator[Metric]:
    """What each says of itself, and what this router knows of each."""
    known = [
        ([str(state.status.shard), _node(facts, said)], facts, said)
        for state in states
        for facts, said in zip(state.replicas, state.said, strict=True)
    ]
    up = _gauge("up", "Whether a replica of a shard answers and is open.")
    for place, facts, _ in known:
        up.add_metric(place, facts.state == "READY")
    yield up
    for name, documentation, value in _SAID:
        family = _gauge(name, documentation)
        for place, facts, said in known:
            if facts.state == "READY":
                family.add_metric(place, value(said))
        yield family
    for name, documentation, fact in _KNOWN:
        family = _gauge(name, documentation)
        for place, facts, _ in known:
            found = fact(facts)
            if found is not None:
                family.add_metric(place, found)
        yield family
    for name, documentation in _COUNTED:
        counter = CounterMetricFamily(f"bitsift_replica_{name}", documentation, labels=_REPLICA)
        for place, facts, _ in known:
            counter.add_metric(place, getattr(facts, name))
        yield counter


def _node(facts: ReplicaStatus, said: ShardStatus) -> str:
    """The name of its node; a server on one machine has none but Ray's, another at each start."""
    return LOCAL if facts.node == said.node else facts.node


def _in_step(syncs: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Of a cluster, as its controller says it: also of replicas that do not answer."""
    in_step = _gauge("in_step", "Whether a replica has all that was acknowledged.")
    missed = _gauge("missed_documents", "Writes that a replica was not sent yet, where known.")
    for sync in syncs:
        place = [str(sync["shard"]), str(sync["node"])]
        in_step.add_metric(place, sync["state"] == "in step")
        if sync["missed"] is not None:
            missed.add_metric(place, sync["missed"])
    yield in_step
    yield missed


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bitsift_replica_{name}", documentation, labels=_REPLICA)


def _said(name: str) -> Any:
    return lambda status: getattr(status, name)


def _writes_stopped(status: ShardStatus) -> bool:
    return status.writes_stopped is not None


def _lag_s(facts: Any) -> float | None:
    return None if facts.lag_ms is None else facts.lag_ms / 1e3


_SAID: tuple[tuple[str, str, Any], ...] = (
    ("index_bytes", "RAM of its bits and lists.", _said("bits_bytes")),
    ("resident_bytes", "RAM of its process but for mapped files.", _said("resident_bytes")),
    ("disk_bytes", "What its files occupy.", _said("disk_bytes")),
    ("volume_bytes", "Size of the file system of its files.", _said("volume_bytes")),
    ("volume_free_bytes", "What can still be written there.", _said("volume_free_bytes")),
    ("damaged_rows", "Rows whose checksum failed when they were read.", _said("corrupt_rows_seen")),
    ("writes_stopped", "Whether it takes no writes, because its disk failed.", _writes_stopped),
)
"""Name, documentation, and the value by a ShardStatus."""
_KNOWN: tuple[tuple[str, str, Any], ...] = (
    ("outstanding_calls", "Calls to it that are under way.", lambda facts: facts.outstanding),
    ("breaker_open", "Whether it is not asked because it was silent.",
     lambda facts: facts.breaker != "closed"),
    ("lag_seconds", "How much older its newest write is than that of its shard.", _lag_s),
    ("differs", "Whether its documents differ from those of the others.",
     lambda facts: facts.digest is Digest.DIFFERS),
)  # fmt: skip
"""Name, documentation, and the value by a ReplicaStatus; None where it is not known."""
_COUNTED = (
    ("hedges", "Calls sent to it because another replica was late."),
    ("retries", "Calls sent to it because another replica failed."),
)
