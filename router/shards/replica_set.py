"""Several replicas of one shard, seen as one shard."""

from __future__ import annotations

import asyncio
import dataclasses
import operator
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    RequestOutcome,
    ShardUnavailable,
    Unavailable,
    reason,
)
from bitsift.options import TIMEOUT_MAX_S, Mode
from bitsift.router.shards.background import let_end
from bitsift.router.shards.conditions import write_in_turn
from bitsift.router.shards.hedging import HedgeBudget
from bitsift.router.shards.link import ReplicaLink, ShardLink
from bitsift.router.shards.newest import held_newest, stored_newest
from bitsift.router.shards.race import Attempt, Race, better_of_two
from bitsift.router.shards.replica import Ask, Latest, Replica, ReplicaStatus
from bitsift.router.shards.replica_writes import ReplicaWrites
from bitsift.router.shards.seeing import note_lacks
from bitsift.router.shards.standing import standings
from bitsift.shard_worker.maintenance.backup import ShardCopy
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.types import (
    EVERYTHING,
    FIELDS,
    Candidates,
    Document,
    Found,
    Origin,
    Query,
    Read,
    ShardStatus,
    Wanted,
)
from bitsift.write_acks import WriteAcks
from bitsift.write_token import NOTHING, Reached

ORIGINS_MAX = 64
"""Opened copies of a shard that are remembered: documents are read from the one that answered."""
PROBE_TIMEOUT_S = 5.0
T = TypeVar("T")
_STATES = ("READY", "LOADING", "FAILED", "UNREACHABLE")
"""Best first: a shard is in the state of its best replica."""

_searches: Latest = operator.attrgetter("searches")
_exhaustive: Latest = operator.attrgetter("exhaustive")
_reads: Latest = operator.attrgetter("reads")


@dataclasses.dataclass(frozen=True, slots=True)
class ShardState:
    """The status of a shard's best replica, what is known of each replica, and what each says of
    itself, in the same order.
    """

    status: ShardStatus
    replicas: tuple[ReplicaStatus, ...]
    said: tuple[ShardStatus, ...]


class ReplicaSet:
    """All replicas of one shard as one link. Lives in one event loop.

    One of them answers a search (race.py), and its documents are read from that one, since row
    numbers are its own. Writes go to all of them (replica_writes.py).
    """

    def __init__(
        self, shard: int, replicas: Sequence[Replica], acks: WriteAcks = WriteAcks.MAJORITY
    ) -> None:
        self._shard = shard
        self._replicas = tuple(replicas)
        self._budget, self._slow_budget = HedgeBudget(), HedgeBudget()
        self._origins: OrderedDict[int, Replica] = OrderedDict()
        self.writes = ReplicaWrites(shard, self._replicas, acks)

    @classmethod
    def of(cls, shard: int, link: ShardLink) -> ReplicaSet:
        """The shard of a single link as a set of one replica; a ReplicaSet is returned as it is."""
        if isinstance(link, ReplicaSet):
            return link
        only = cast(ReplicaLink, link)  # a single one is never compared with others
        return cls(shard, [Replica(shard, "", only)])

    @property
    def replicas(self) -> Sequence[Replica]:
        """Those of the table in use."""
        return self._replicas

    @property
    def lanes(self) -> int:
        """How many concurrent calls are useful: one for each replica."""
        return max(1, len(self._replicas))

    def place(self, replicas: Sequence[Replica], epoch: int = 0, wanted: int = 1) -> None:
        """Use these from now on, by the table of ``epoch``, where ``wanted`` are ordered; calls in
        flight finish where they are.
        """
        self._replicas = tuple(replicas)
        self.writes.place(self._replicas, epoch, wanted)

    # --- reads -----------------------------------------------------------------------------

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        """Raises TimeoutError, or if no replica answers, the error that they had. ReplicaBehind is
        that of queries which must see a write that those that were asked have not applied.
        """
        least = max(query.least(self._shard) for query in queries)
        if len(self._replicas) == 1:
            (only,) = self._replicas
            ask = _searching(queries, timeout_s)
            if queries[0].options.mode is Mode.EXHAUSTIVE:
                return await only.slow_call(ask, timeout_s)
            return await only.call(ask, timeout_s, _searches)
        slow = queries[0].options.mode is Mode.EXHAUSTIVE
        return await self._race(
            lambda: self._learning(queries, timeout_s),
            timeout_s,
            _exhaustive if slow else _searches,
            self._slow_budget if slow else self._budget,
            slow=slow,
            least=least,
        )

    def _learning(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Attempt[Sequence[Candidates | BitsiftError]]:
        """One attempt, which can be cancelled alone; it records whose rows they are."""
        deadlines = [query.deadline.branch() for query in queries]
        branched = [
            dataclasses.replace(query, deadline=deadline)
            for query, deadline in zip(queries, deadlines, strict=True)
        ]

        async def ask(replica: Replica) -> Sequence[Candidates | BitsiftError]:
            answers = await replica.link.search(branched, timeout_s)
            note_lacks(self._shard, replica, queries, answers)
            for answer in answers:
                if isinstance(answer, Candidates):
                    self._origins[answer.origin.replica] = replica
                    self._origins.move_to_end(answer.origin.replica)
            while len(self._origins) > ORIGINS_MAX:
                self._origins.popitem(last=False)
            return answers

        def cancel() -> None:
            for deadline in deadlines:
                deadline.cancel()

        return Attempt(ask, cancel)

    async def search_again(self, query: Query, origin: Origin) -> Candidates:
        """What the replica of ``origin`` finds for an ``exhaustive`` query; it is measured and
        judged by nothing that befalls this call. Raises Unavailable where it is not known any more,
        the errors of the call, TimeoutError.
        """
        replica = self._origins.get(origin.replica)
        if len(self._replicas) == 1:
            (replica,) = self._replicas
        if replica is None:
            raise Unavailable(f"shard {self._shard}: the replica that answered is not known")
        timeout_s = query.deadline.remaining_s()
        ask = _searching([query], timeout_s)
        found: Candidates | BitsiftError
        (found,) = await replica.slow_call(ask, timeout_s)
        if isinstance(found, BitsiftError):
            raise found
        return found

    async def documents(self, reads: Sequence[Read]) -> Sequence[list[Found] | BitsiftError]:
        """Unavailable for rows of a replica that is no longer known: search again."""
        timeout_s = max(read.deadline.remaining_s() for read in reads)
        if len(self._replicas) == 1:
            (only,) = self._replicas
            return await only.call(lambda it: it.link.documents(reads), timeout_s, _reads)
        places: dict[Replica | None, list[int]] = {}
        for place, read in enumerate(reads):
            places.setdefault(self._origins.get(read.origin.replica), []).append(place)
        asks = [
            self._documents(replica, [reads[place] for place in mine], timeout_s)
            for replica, mine in places.items()
        ]
        found: dict[int, list[Found] | BitsiftError] = {}
        for mine, answers in zip(places.values(), await asyncio.gather(*asks), strict=True):
            found |= zip(mine, answers, strict=True)
        return [found[place] for place in range(len(reads))]

    async def _documents(
        self, replica: Replica | None, reads: Sequence[Read], timeout_s: float
    ) -> Sequence[list[Found] | BitsiftError]:
        """From one replica. Its error is returned for each read, since others may succeed."""
        if replica is None:
            said = f"shard {self._shard}: the replica that answered is not known: search again"
            return [Unavailable(said)] * len(reads)
        others = [other for other in self._replicas if other is not replica]
        try:
            return await replica.call(
                lambda it: it.link.documents(reads), timeout_s, _reads, others
            )
        except TimeoutError:
            late = DeadlineExceeded(f"{replica.name} did not answer in {timeout_s:.3f} s")
            return [late.with_outcome(RequestOutcome.NOT_DONE)] * len(reads)
        except BitsiftError as error:
            return [error] * len(reads)

    async def document(
        self, document_id: str, least: Reached = NOTHING, fields: frozenset[str] = FIELDS
    ) -> Document:
        """``stored`` of one. Raises NotFound, ChecksumMismatch too."""
        (found,) = await self.stored([document_id], least, Wanted(fields))
        if isinstance(found, BitsiftError):
            raise found
        assert isinstance(found, Document), found  # everything fits where all bytes may be used
        return found

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        """Raises, if too few replicas answer, the error that they had; NotFound and
        ChecksumMismatch are in the places of documents. Where not all replicas have what was
        acknowledged, so many are asked that one has it, and the write that ``least`` is of with it
        (newest.py).
        """
        if self.writes.quorums.read_from == 1:
            attempt: Attempt[Sequence[Found]] = Attempt(
                lambda it: it.link.stored(ids, least, wanted)
            )
            return await self._race(lambda: attempt, TIMEOUT_MAX_S, _reads, self._budget)
        return await stored_newest(
            self.writes.readers,
            ids,
            lambda it, some: it.call(
                lambda one: one.link.stored(some, NOTHING, wanted), TIMEOUT_MAX_S, _reads
            ),
        )

    async def held(self, ids: Sequence[str]) -> Sequence[int]:
        """For each id the version of its document, 0 or less where there is none. Raises as
        ``stored``.
        """
        if self.writes.quorums.read_from > 1:
            return await held_newest(self.writes.readers, ids)
        attempt = Attempt(lambda it: it.link.held(ids, self.writes.epoch))
        return await self._race(lambda: attempt, TIMEOUT_MAX_S, _reads, self._budget)

    async def listed(self, listing: Listing) -> Listed:
        """From one replica, which may take any time: see search/listing.py."""
        timeout_s = listing.deadline.remaining_s()
        if len(self._replicas) == 1:
            (only,) = self._replicas
            return await only.slow_call(lambda it: it.link.listed(listing), timeout_s)

        def attempt() -> Attempt[Listed]:
            branch = dataclasses.replace(listing, deadline=listing.deadline.branch())
            return Attempt(lambda it: it.link.listed(branch), branch.deadline.cancel)

        least = listing.least
        return await self._race(attempt, timeout_s, _exhaustive, None, slow=True, least=least)

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        attempt: Attempt[Sequence[Outcome]] = Attempt(lambda it: it.link.foresee(operations))
        return await self._race(lambda: attempt, TIMEOUT_MAX_S, _reads, None)

    async def _race(
        self,
        attempt: Callable[[], Attempt[T]],
        timeout_s: float,
        latest: Latest,
        budget: HedgeBudget | None,
        *,
        slow: bool = False,
        least: Reached = NOTHING,
    ) -> T:
        self._check_any()
        for replica in self._replicas:
            if replica.breaker.is_due and any(other.is_well for other in self._replicas):
                _probe(replica)
        race = Race(self._replicas, attempt, latest, budget, slow=slow, least=least)
        return await race.run(timeout_s)

    async def _of_one(self, ask: Ask[T]) -> T:
        """The answer of one replica, however long it takes; if it is unreachable, of another.

        Raises the error of the last one.
        """
        self._check_any()
        untried = list(self._replicas)
        while True:
            replica = better_of_two(untried, _searches)
            untried.remove(replica)
            try:
                return await replica.slow_call(ask)
            except Unavailable as error:
                if not untried or isinstance(error, DeadlineExceeded):
                    raise

    def _check_any(self) -> None:
        if not self._replicas:
            said = f"shard {self._shard} has no replica at the moment"
            raise ShardUnavailable(said).with_outcome(RequestOutcome.NOT_DONE)

    # --- writes, maintenance, state -----------------------------------------------------------

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        """The epoch is that of the table, the term that of this coordinator."""
        self._check_any()
        return await write_in_turn(self.writes, operations)

    async def flushed(self) -> None:
        """Returns when every replica that is not behind has all that was written."""
        await self.writes.flushed()

    @property
    def reached(self) -> Reached:
        return self.writes.reached

    async def newest_version(self) -> int:
        """The newest version of all replicas that can be asked."""
        self._check_any()
        return await self.writes.newest_version()

    async def backup(self, dest: str) -> ShardCopy:
        return await self._of_one(lambda it: it.link.backup(dest))

    async def compact(self) -> bool:
        """Compacts one replica at a time, so that others answer; then raises the first error."""
        self._check_any()
        found, errors = False, list[BitsiftError]()
        for replica in self._replicas:
            try:
                found |= await replica.slow_call(lambda it: it.link.compact())
            except BitsiftError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return found

    async def status(self) -> ShardStatus:
        return (await self.state(TIMEOUT_MAX_S)).status

    async def state(self, timeout_s: float) -> ShardState:
        """The statuses that replicas give within ``timeout_s``. Never raises."""
        replicas = self._replicas
        found = await asyncio.gather(
            *(it.status(timeout_s) for it in replicas), return_exceptions=True
        )
        statuses = [
            self._unreachable(said, timeout_s) if isinstance(said, BaseException) else said
            for said in found
        ]
        nobody = ShardStatus(self._shard, "UNREACHABLE", "it has no replica at the moment")
        best = min(statuses, key=lambda status: _STATES.index(status.state), default=nobody)
        compared = zip(replicas, statuses, standings(statuses), strict=True)
        facts = tuple(it.facts(said, standing) for it, said, standing in compared)
        return ShardState(best, facts, tuple(statuses))

    def _unreachable(self, error: BaseException, timeout_s: float) -> ShardStatus:
        said = f"shard {self._shard} failed unexpectedly: {reason(error)}"
        if isinstance(error, TimeoutError):
            said = f"shard {self._shard} did not answer in {timeout_s:.3f} s"
        elif isinstance(error, BitsiftError):
            said = error.message
        return ShardStatus(self._shard, "UNREACHABLE", said)

    def silent(self) -> str:
        """How long each of several replicas has been silent, for messages about a late shard."""
        if len(self._replicas) <= 1:
            return ""
        said = [f"{it.node}: no answer for {it.silent_s:.1f} s" for it in self._replicas]
        return f" ({'; '.join(said)})"


def _searching(queries: Sequence[Query], timeout_s: float) -> Ask[Any]:
    return lambda it: it.link.search(queries, timeout_s)


def _probe(replica: Replica) -> None:
    """Checks whether a replica whose breaker is open answers again; no query waits for it."""
    let_end(asyncio.ensure_future(replica.status(PROBE_TIMEOUT_S)))
