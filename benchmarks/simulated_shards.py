"""Shards of a simulation: actors that answer real frames after times that were measured.

``RemoteLink``, the product's own, calls them as it calls actors through Ray. What a call costs the
router on its way, on a connection or in Ray, is charged to its clock (``CallCost``); what the shard
computes is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated_loop import simulated_loop
from bitsift.shard_worker.types import Candidates, Document, Origin, Query, Read, spare_hits
from bitsift.shard_worker.wire.search import (
    pack_candidates,
    pack_documents,
    unpack_queries,
    unpack_reads,
)

TEXT = "a morbid fear of spiders, or of what looks like one in the dark; a gloss of usual length"


class Times(Protocol):
    """How long a call takes for its caller, Ray included, in seconds; another draw each time."""

    def search_s(self, queries: int) -> float: ...

    def document_s(self) -> float:
        """What a document adds that is sent along with the candidates."""
        ...

    def documents_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class CallCost:
    """Seconds of the event loop's thread that one call takes outside the code that is run here,
    sending and waking: a search on a connection of its own, any other call through Ray.
    """

    search_s: float = 0.0
    other_s: float = 0.0


@dataclass(slots=True)
class Traffic:
    """What crossed between a router and its shards."""

    calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def forget(self) -> None:
        """Count from here."""
        self.calls = self.sent_bytes = self.received_bytes = 0


class Backend(Protocol):
    """What an actor computes: frames in, frames out."""

    def search(self, queries: Sequence[Query]) -> bytes: ...

    def documents(self, reads: Sequence[Read]) -> bytes: ...


def sent_along(query: Query) -> int:
    """How many documents a shard sends with its candidates."""
    return query.documents_due if query.documents_bytes_max else 0


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedShard:
    """``vectors`` float32 (rows, width) in RAM: its answers are exact, and their sizes usual."""

    number: int
    vectors: NDArray[np.float32]
    replica: int = 1

    def search(self, queries: Sequence[Query]) -> bytes:
        return pack_candidates([self._candidates(query) for query in queries])

    def _candidates(self, query: Query) -> Candidates:
        scores = self.vectors @ query.vector
        count = min(len(scores), spare_hits(query.options.depth))
        rows = np.argsort(-scores, kind="stable")[:count]
        return Candidates(
            shard=self.number,
            origin=Origin(self.replica, 0),
            rows=rows,
            distances=np.zeros(count, np.int32),
            hamming_ranks=np.arange(1, count + 1, dtype=np.int32),
            estimates=scores[rows],
            scores=scores[rows],
            codes=np.empty((count, 0), np.int8),
            documents={row: self._document(row) for row in rows[: sent_along(query)].tolist()},
        )

    def documents(self, reads: Sequence[Read]) -> bytes:
        return pack_documents([[self._document(row) for row in read.rows] for read in reads])

    def _document(self, row: int) -> Document:
        return Document(f"{self.number}-{row}", "arachnophobia", TEXT, {}, size_bytes=len(TEXT))


@dataclass(slots=True, eq=False)
class SimulatedActor:
    """What a ``RemoteLink`` calls: ``search``, ``documents`` and ``cancel``, each ``.remote``."""

    backend: Backend
    times: Times
    traffic: Traffic = field(default_factory=Traffic)
    cost: CallCost = CallCost()

    @property
    def search(self) -> Method:
        return Method(self._search)

    @property
    def documents(self) -> Method:
        return Method(self._documents)

    @property
    def cancel(self) -> Method:
        return Method(lambda *_: simulated_loop().charge(self.cost.other_s))

    def _search(self, _: str, frame: bytes) -> asyncio.Future[bytes]:
        with simulated_loop().elsewhere():
            queries = unpack_queries(frame)
            sent = sum(map(sent_along, queries))
            after_s = self.times.search_s(len(queries)) + sent * self.times.document_s()
            answer = self.backend.search(queries)
        return self._answered(frame, answer, after_s, self.cost.search_s)

    def _documents(self, _: str, frame: bytes) -> asyncio.Future[bytes]:
        with simulated_loop().elsewhere():
            answer = self.backend.documents(unpack_reads(frame))
        return self._answered(frame, answer, self.times.documents_s(), self.cost.other_s)

    def _answered(
        self, frame: bytes, answer: bytes, after_s: float, cost_s: float
    ) -> asyncio.Future[bytes]:
        simulated_loop().charge(cost_s)
        self.traffic.calls += 1
        self.traffic.sent_bytes += len(frame)
        self.traffic.received_bytes += len(answer)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        loop.call_later(max(0.0, after_s - cost_s), _set, future, answer)
        return future


@dataclass(frozen=True, slots=True)
class Method:
    """A method of an actor, as Ray's handles have them."""

    remote: Callable[..., Any]


def _set(future: asyncio.Future[bytes], answer: bytes) -> None:
    if not future.done():  # nobody may wait for it any more
        future.set_result(answer)
