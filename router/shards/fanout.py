"""Ask every shard at once, under one deadline. Missing answers are reported in the coverage."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from bitsift.errors import (
    BitsiftError,
    Corrupt,
    DeadlineExceeded,
    RequestOutcome,
    Unavailable,
    reason,
)
from bitsift.options import Mode
from bitsift.results import Coverage, ShardFailure
from bitsift.router import tracing
from bitsift.router.batching import Batcher
from bitsift.router.metrics import Metrics, Observe
from bitsift.router.shards.link import ShardLink
from bitsift.router.shards.missing import of_missing
from bitsift.router.shards.placement import Placement
from bitsift.router.shards.replica_set import ReplicaSet, ShardState
from bitsift.router.shards.seeing import once_applied, seeing
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.types import (
    FIELDS,
    Candidates,
    Document,
    Found,
    Origin,
    Query,
    Read,
    ShardStatus,
    Unread,
    Wanted,
)
from bitsift.write_token import NOTHING, WriteToken

QUERIES_PER_CALL_MAX = 64
EXHAUSTIVE_PER_CALL_MAX = 8
"""They share one pass over all codes; more would make the first of them wait for the rest."""
READS_PER_CALL_MAX = 64
"""Queries whose documents are requested from a shard in one call."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """Documents by (shard, row), those that did not fit, and why others are missing."""

    documents: dict[tuple[int, int], Document] = field(default_factory=dict)
    unread: dict[tuple[int, int], Unread] = field(default_factory=dict)
    failures: list[ShardFailure] = field(default_factory=list)


class FanOut:
    """All shards of one index. Every query and read has its deadline."""

    def __init__(self, links: Sequence[ShardLink], metrics: Metrics | None = None) -> None:
        """A link is one replica of its shard, unless it is a ReplicaSet."""
        self.metrics = metrics or Metrics()
        self._shards = tuple(ReplicaSet.of(shard, link) for shard, link in enumerate(links))
        self._placement = Placement(len(links))
        self._ready: dict[int, ShardStatus] = {}
        """What each shard said last when it was ready."""
        observe = self.metrics.batches("search")
        self._batchers = [_searches(it, QUERIES_PER_CALL_MAX, observe) for it in self._shards]
        observe = self.metrics.batches("exhaustive")
        self._slow = [_searches(it, EXHAUSTIVE_PER_CALL_MAX, observe) for it in self._shards]
        observe = self.metrics.batches("documents")
        self._readers = [
            _reads(it, it.documents, READS_PER_CALL_MAX, observe) for it in self._shards
        ]

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def sets(self) -> Sequence[ReplicaSet]:
        """The replicas of each shard."""
        return self._shards

    @property
    def epoch(self) -> int:
        """Of the replica table in use; 0 where there is none."""
        return max((shard.writes.epoch for shard in self._shards), default=0)

    def waiting(self) -> dict[str, int]:
        """How many calls wait in all queues of a kind."""
        queues: dict[str, Sequence[Batcher[Any, Any]]] = {
            "search": self._batchers,
            "exhaustive": self._slow,
            "documents": self._readers,
        }
        return {name: sum(one.waiting for one in all_) for name, all_ in queues.items()}

    @property
    def is_idle(self) -> bool:
        """Whether no query and no read waits or is under way."""
        queues = *self._batchers, *self._slow, *self._readers
        return all(one.is_idle for one in queues)

    @property
    def has_slow_queries(self) -> bool:
        """Whether ``exhaustive`` queries wait or are under way, ``search_again`` not counted."""
        return not all(one.is_idle for one in self._slow)

    def wait_s(self, mode: Mode) -> float:
        """Expected wait of a query of this mode for the fastest shard."""
        return min((batcher.wait_s() for batcher in self._batchers_for(mode)), default=0.0)

    def _batchers_for(self, mode: Mode) -> list[Batcher[Query, Candidates]]:
        """No ``exhaustive`` query is in one call with others, or before them in a queue."""
        return self._slow if mode is Mode.EXHAUSTIVE else self._batchers

    async def search(
        self, query: Query, written: WriteToken | None = None
    ) -> tuple[list[Candidates], Coverage]:
        """Candidates of the shards that answered, in shard order, and the coverage.

        Calls to shards that have not answered by then are cancelled. Those that were ``written`` to
        answer when they have applied it.
        """
        batchers = self._batchers_for(query.options.mode)
        asks: dict[int, Awaitable[Candidates]] = {}
        for shard, batcher in enumerate(batchers):
            part = None if written is None else written.of(shard)
            asks[shard] = batcher.enqueue(query) if part is None else seeing(batcher, query, part)
        try:
            found, failures = await self._gather(asks, query.deadline.at_s)
        finally:
            query.deadline.cancel()
        for shard, candidates in found.items():
            if candidates.corrupt:
                message = f"{candidates.corrupt} rows were left out because their checksums failed"
                failures.append(ShardFailure(shard, "ChecksumMismatch", message))
            if candidates.plan is not None:
                self.metrics.filtered(candidates.plan.kind.value)
        self.metrics.shards_answered(found, failures)
        return [found[shard] for shard in sorted(found)], Coverage(
            len(self), len(found), tuple(sorted(failures, key=lambda f: f.shard))
        )

    async def search_again(
        self, query: Query, origins: Mapping[int, Origin]
    ) -> dict[int, Candidates]:
        """What the replicas of ``origins``, by shard, find for an ``exhaustive`` query: past the
        queues, and nothing is concluded from how long they take. Raises the first error,
        TimeoutError.
        """
        asks = (self._shards[shard].search_again(query, it) for shard, it in origins.items())
        found = await asyncio.gather(*asks)
        return dict(zip(origins, found, strict=True))

    async def documents(self, reads: Mapping[int, Read]) -> Fetched:
        """What ``reads`` of each shard find; what is missing is a failure. One deadline for all."""
        if not reads:
            return Fetched()
        asks = {shard: self._readers[shard].enqueue(read) for shard, read in reads.items()}
        deadline = next(iter(reads.values())).deadline
        try:
            answers, failures = await self._gather(asks, deadline.at_s)
        finally:
            deadline.cancel()
        fetched = Fetched(failures=failures)
        for shard, found in answers.items():
            for row, item in zip(reads[shard].rows, found, strict=True):
                if isinstance(item, Document):
                    fetched.documents[shard, row] = item
                elif isinstance(item, Unread):
                    fetched.unread[shard, row] = item
                else:
                    failures.append(_failure(shard, item))
        return fetched

    def owners(self, ids: Sequence[str]) -> dict[str, int]:
        """For each id, in order, a shard that owns it."""
        shards = {
            place: shard
            for shard, places in self._placement.by_owner(ids).items()
            for place in places.tolist()
        }
        return {name: shards[place] for place, name in enumerate(ids)}

    async def document(
        self,
        document_id: str,
        timeout_s: float,
        written: WriteToken | None = None,
        fields: frozenset[str] = FIELDS,
    ) -> tuple[int, Document]:
        """A shard that owns the id, and ``fields`` of the document, as it is after what was
        ``written``; raises what the shard does, NotFound…
        """
        shard = self._placement.owners(document_id)[0]
        least = NOTHING if written is None else written.reached.get(shard, NOTHING)
        deadline_s = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                link = self._shards[shard]
                ask = functools.partial(link.document, document_id, least, fields)
                return shard, await once_applied(ask, deadline_s)
        except TimeoutError as error:
            late = self._late(shard, timeout_s)
            raise late.with_outcome(RequestOutcome.NOT_DONE) from error

    async def stored(
        self,
        ids: Mapping[int, Sequence[str]],
        wanted: Wanted,
        deadline_s: float,
        written: WriteToken | None = None,
    ) -> dict[int, Sequence[Found]]:
        """Of each shard what is wanted of documents of its own, by their ids; NotFound in the place
        of one that there is not. Raises unless every shard answers.
        """
        reached = {} if written is None else written.reached
        asks: dict[int, Awaitable[Sequence[Found]]] = {}
        for shard, mine in ids.items():
            least = reached.get(shard, NOTHING)
            ask = functools.partial(self._shards[shard].stored, mine, least, wanted)
            asks[shard] = once_applied(ask, deadline_s)
        found, failures = await self._gather(asks, deadline_s)
        if failures:
            raise of_missing(Coverage(len(asks), len(found), tuple(failures)))
        return found

    async def listed(
        self, listing: Listing, written: WriteToken | None = None
    ) -> tuple[list[Listed], list[ShardFailure]]:
        """What each shard lists, of those that did, and why the others did not."""
        reached = {} if written is None else written.reached
        asks: dict[int, Awaitable[Listed]] = {}
        for number, shard in enumerate(self._shards):
            part = replace(listing, least=reached.get(number, NOTHING))
            ask = functools.partial(shard.listed, part)
            asks[number] = once_applied(ask, listing.deadline.at_s)
        try:
            found, failures = await self._gather(asks, listing.deadline.at_s)
        finally:
            listing.deadline.cancel()
        return list(found.values()), failures

    async def of_each(self, call: Callable[[ShardLink], Awaitable[T]]) -> list[T]:
        """What ``call`` gives for every shard, without a deadline.

        Raises the first error, when all have ended.
        """
        found = await asyncio.gather(*map(call, self._shards), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return [result for result in found if not isinstance(result, BaseException)]

    async def statuses(self, timeout_s: float) -> list[ShardStatus]:
        """The state of every shard; one that does not say is UNREACHABLE."""
        return [state.status for state in await self.states(timeout_s)]

    async def last_known(self, timeout_s: float) -> list[ShardStatus]:
        """The same with the numbers that a shard said last, where it is not ready to say any."""
        return [self._with_numbers(status) for status in await self.statuses(timeout_s)]

    def _with_numbers(self, status: ShardStatus) -> ShardStatus:
        if status.state == "READY":
            self._ready[status.shard] = status
            return status
        last = self._ready.get(status.shard)
        if last is None or status.documents:
            return status
        return dataclasses.replace(last, state=status.state, reason=status.reason)

    async def states(self, timeout_s: float) -> list[ShardState]:
        """The same, with what is known of every replica."""
        return list(await asyncio.gather(*(shard.state(timeout_s) for shard in self._shards)))

    async def _gather(
        self, asks: Mapping[int, Awaitable[T]], deadline_s: float
    ) -> tuple[dict[int, T], list[ShardFailure]]:
        """Await all at once until ``deadline_s`` (monotonic); any other exception is a failure."""
        tasks = {shard: asyncio.ensure_future(ask) for shard, ask in asks.items()}
        for shard, task in tasks.items():
            tracing.follow("shard", task, shard=shard)
        if not tasks:
            return {}, []
        budget_s = max(0.0, deadline_s - time.monotonic())
        late: dict[int, BitsiftError] = {}
        try:
            await asyncio.wait(tasks.values(), timeout=budget_s)
        finally:
            for shard, task in tasks.items():
                if not task.done():
                    late[shard] = self._late(shard, budget_s)
                    task.cancel()
        found: dict[int, T] = {}
        failures = []
        for shard, task in tasks.items():
            error = late.get(shard) or (None if task.cancelled() else task.exception())
            if isinstance(error, TimeoutError):
                error = self._late(shard, budget_s)
            elif error is None and task.cancelled():
                error = Unavailable(f"the call to shard {shard} was cancelled")
            if error is None:
                found[shard] = task.result()
            else:
                failures.append(_failure(shard, error))
        return found, failures

    def _late(self, shard: int, waited_s: float) -> DeadlineExceeded:
        silent = self._shards[shard].silent()
        return DeadlineExceeded(f"shard {shard} did not answer in {waited_s:.3f} s{silent}")


def _reads(
    shard: ReplicaSet, run: Callable[[list[Any]], Any], limit: int, observe: Observe
) -> Batcher[Any, Any]:
    """Reads change nothing, so a call that nobody waits for can be left behind."""
    return Batcher(run, limit, ends_when_left=True, lanes=lambda: shard.lanes, observe=observe)


def _searches(shard: ReplicaSet, limit: int, observe: Observe) -> Batcher[Query, Candidates]:
    async def search(queries: list[Query]) -> Sequence[Candidates | BitsiftError]:
        timeout_s = max(query.deadline.remaining_s() for query in queries)
        return await shard.search(queries, timeout_s)

    return _reads(shard, search, limit, observe)


def _failure(shard: int, error: BaseException) -> ShardFailure:
    """Never raises, whatever the error is: one shard's failure must not affect the others."""
    if isinstance(error, BitsiftError) and error.args:
        return ShardFailure(shard, type(error).__name__, error.message)
    message = f"shard {shard} failed unexpectedly: {reason(error)}"
    return ShardFailure(shard, Corrupt.__name__, message)
