"""Bugs that the simulation must find: each is put into the code while a plan is run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

from bitsift.cluster.fleet.joining import Compared
from bitsift.errors import BitsiftError
from bitsift.results import Coverage
from bitsift.router.shards import conditions, replica_writes, verdicts
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.lane import Lane, Sending
from bitsift.router.shards.newest import Readers
from bitsift.router.shards.quorums import Quorums
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.applied import Applied
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.fencing import TableFence
from bitsift.shard_worker.store import admission
from bitsift.shard_worker.types import Query
from bitsift.write_status import WriteStatus
from bitsift.write_token import NOTHING, Reached, read_token
from tests.simulation import controller
from tests.simulation.replica import SimulatedReplica
from tests.simulation.rows import Rows

Bug = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def no_majority() -> Iterator[None]:
    """One replica is enough to acknowledge."""
    two = property(lambda _: 2)
    with (
        mock.patch.object(Quorums, "needed", property(lambda _: 1)),
        mock.patch.object(Quorums, "read_from", two),
    ):
        yield


def tombstones_dropped() -> Any:
    """Of a deleted document nothing is remembered."""

    def delete(self: SimulatedReplica, ids: Sequence[str], version: int) -> None:
        for document_id in ids:
            self.rows.pop(document_id, None)

    return mock.patch.object(SimulatedReplica, "delete", delete)


def no_fencing() -> Any:
    """A replica takes writes under any table."""
    return mock.patch.object(TableFence, "admit", return_value=None)


@contextlib.contextmanager
def clock_not_advanced() -> Iterator[None]:
    """A newer version on a replica is taken for a success, and teaches nothing."""
    before = verdicts.of_several

    def of_one(said: Iterable[WriteStatus]) -> WriteStatus:
        found = before(said)
        return WriteStatus.UPDATED if found is WriteStatus.SUPERSEDED else found

    with (
        mock.patch.object(replica_writes, "of_several", of_one),
        mock.patch.object(HybridClock, "observe", return_value=None),
    ):
        yield


def acknowledged_before_sync() -> Any:
    """The disk has it a moment after the client was told."""
    sync = SimulatedReplica.sync

    async def later(self: SimulatedReplica, rows: Rows) -> None:
        async def late(life: int) -> None:
            await asyncio.sleep(1.0)
            if life == self.life:
                await sync(self, rows)

        self.late = asyncio.ensure_future(late(self.life))  # type: ignore[attr-defined]

    return mock.patch.object(SimulatedReplica, "sync", later)


def served_too_early() -> Any:
    """A replica joins the table before it has caught up."""

    async def nothing(*_: Any, **__: Any) -> dict[Replica, BitsiftError]:
        return {}

    return mock.patch.multiple(controller, equalize=nothing, made_equal=_as_if_equal)


async def _as_if_equal(
    members: Sequence[Replica], new: Sequence[Replica], leaving: Sequence[Replica], _: int
) -> Compared:
    every = {(it.shard, it.node) for it in (*members, *new, *leaving)}
    return Compared(every, every)


def hint_lost() -> Any:
    """What a replica fails is not sent to it again, and it is not behind."""
    send = Lane._send

    async def once(self: Lane, some: list[Sending]) -> None:
        await send(self, some)
        for sending in some:
            if isinstance(sending.failed.get(self.replica), BitsiftError):
                self.remove(sending)

    return mock.patch.object(Lane, "_send", once)


def duplicate_applied() -> Any:
    """An operation that comes again, or late, is done again."""
    return mock.patch.object(admission._Admission, "late", return_value=None)


def epoch_ignored() -> Any:
    """A table is replaced though those under it may go on."""
    return mock.patch.multiple(controller, is_ended=lambda *_: True, ended=lambda *_: {0})


def stale_read() -> Any:
    """Any replica of the table may answer."""
    return mock.patch.object(Quorums, "read_from", property(lambda _: 1))


def token_ignored() -> Any:
    """A search that must see a write is answered by a replica that has not applied it."""
    return mock.patch.object(Applied, "answers", lambda _, queries, search: search(queries))


@contextlib.contextmanager
def term_ignored() -> Iterator[None]:
    """A replica is as far as its newest version, by whichever coordinator. It was so."""

    def least(query: Query, shard: int) -> Reached:
        token = query.options.read_your_writes
        return NOTHING if token is None else Reached(0, read_token(token).reached[shard].version)

    newest = property(lambda self: Reached(0, self.newest))
    with mock.patch.object(Query, "least", least), mock.patch.object(Applied, "reached", newest):
        yield


def forgotten_unsaid() -> Any:
    """A compaction forgets deletions, and does not say up to which."""
    forget = Rows.without_deletions

    def silently(self: Rows, before_s: float) -> Rows:
        return Rows(forget(self, before_s), self.forgotten)

    return mock.patch.object(Rows, "without_deletions", silently)


def shard_missing_untold() -> Any:
    """Nothing was found, and the answer says that all was searched."""
    search = FanOut.search

    async def whole(self: FanOut, *given: Any) -> Any:
        found, coverage = await search(self, *given)
        return found, Coverage(coverage.shards, coverage.shards)

    return mock.patch.object(FanOut, "search", whole)


def old_table_read() -> Any:
    """With more replicas than were ordered, those of an old table that are not sealed suffice. It
    was so.
    """

    def fewer(self: Quorums) -> int:
        return min(self.placed, (self.wanted + 1) // 2)

    return mock.patch.object(Quorums, "_majority", property(fewer))


def condition_ignored() -> Any:
    """A write is done whatever is there."""
    return mock.patch.object(conditions, "is_met", return_value=True)


def decided_by_one() -> Any:
    """A condition is compared with what the first replica holds."""

    async def held(table: Callable[[], Readers], ids: Sequence[str]) -> Sequence[int]:
        readers = table()
        return await readers.replicas[0].link.held(ids, readers.epoch)

    return mock.patch.object(conditions, "held_newest", held)


BUGS: tuple[Bug, ...] = (
    no_majority,
    tombstones_dropped,
    no_fencing,
    clock_not_advanced,
    acknowledged_before_sync,
    served_too_early,
    hint_lost,
    duplicate_applied,
    epoch_ignored,
    stale_read,
    token_ignored,
    term_ignored,
    forgotten_unsaid,
    shard_missing_untold,
    condition_ignored,
    decided_by_one,
    old_table_read,
)
