"""A served index asked in several ways: cold and warm, one client and many, and what is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.bench.candidates import WAYS
from bitsift.cluster.bench.clients import Replies, ask, recall, vector_bodies
from bitsift.cluster.bench.disk import read_from_disk_bytes
from bitsift.cluster.bench.timing import percentiles
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries

CLIENTS = 16
TIMEOUT_MS = 60_000
Log = Callable[[str], None]


@dataclass(slots=True)
class _Tally:
    """No query may be lost, whatever it measured."""

    asked: int = 0
    lost: int = 0
    failure: str | None = None

    def count(self, replies: Replies) -> None:
        self.asked += len(replies.seconds)
        self.lost += replies.lost
        self.failure = self.failure or replies.failure


def measure_served(
    url: str, pids: list[int], corpus: SyntheticSpec, queries: int, log: Log
) -> dict[str, Any]:
    """Each of WAYS cold and warm, with 1 and ``CLIENTS`` clients.

    The shards must have been started over forgotten stores: the first questions are the cold ones,
    and each is about other rows than the ones before it.
    """
    cold = max(1, queries // 4)
    vectors = synthetic_queries(corpus, queries + len(WAYS) * cold)
    warm, tally = vectors[:queries], _Tally()
    figures: dict[str, Any] = {}
    for place, way in enumerate(WAYS):
        part = vectors[queries + place * cold :][:cold]
        before = read_from_disk_bytes(pids)
        replies = ask(url, _bodies(part, way))
        read_kib = (read_from_disk_bytes(pids) - before) / 1024 / cold
        figures[f"{way}_cold"] = percentiles(replies.seconds)
        figures[f"{way}_cold"]["read_kib_per_query"] = round(read_kib, 1)
        tally.count(replies)
    log(f"serve: cold: {figures}")
    for way in WAYS:  # asked once, these rows' pages are there
        tally.count(ask(url, _bodies(warm, way), CLIENTS))
    shares: dict[str, float] = {}
    for clients in (1, CLIENTS):
        replies_of = _in_turns(url, warm, clients)
        for way, replies in replies_of.items():
            name = f"{way}_warm" if clients == 1 else f"{way}_warm_{clients}_clients"
            rate = len(replies.seconds) / replies.wall_s
            figures[name] = percentiles(replies.seconds) | {"queries_s": round(rate, 1)}
            tally.count(replies)
            share = recall(replies_of["exact"].hits, replies.hits)
            shares[way] = min(share, shares.get(way, share))
            log(f"serve: {name}: {figures[name]}, {share} of the exact hits")
    if tally.lost:
        log(f"serve: {tally.lost} of {tally.asked} queries lost: {tally.failure}")
    recalls = {"recall_at_10": shares["approximate"], "recall_at_10_by_way": shares}
    return figures | recalls | dataclasses.asdict(tally)


def _bodies(vectors: NDArray[np.float32], way: str) -> list[bytes]:
    return vector_bodies(vectors, timeout_ms=TIMEOUT_MS, **WAYS[way])


def _in_turns(url: str, vectors: NDArray[np.float32], clients: int) -> dict[str, Replies]:
    """All ``vectors`` in each way, in parts that alternate."""
    parts = np.array_split(vectors, max(1, len(vectors) // (4 * clients)))
    replies: dict[str, list[Replies]] = {way: [] for way in WAYS}
    for part in parts:
        for way in WAYS:
            replies[way].append(ask(url, _bodies(part, way), clients))
    return {way: _joined(found) for way, found in replies.items()}


def _joined(parts: list[Replies]) -> Replies:
    return Replies(
        seconds=tuple(second for part in parts for second in part.seconds),
        hits=tuple(hit for part in parts for hit in part.hits),
        lost=sum(part.lost for part in parts),
        wall_s=sum(part.wall_s for part in parts),
        failure=next((part.failure for part in parts if part.failure), None),
    )
