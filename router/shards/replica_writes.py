"""Writes to all replicas of a shard, acknowledged when enough of them have them (write_acks).

**Versions.** An operation has one version on all replicas, so that they agree in the end, in
whatever order operations arrive. A replica that holds a newer version says so; then the clock moves
past it, and the operation is tried again in a newer one. So a write that begins after another was
acknowledged wins, whatever the clocks of the machines say: the replicas that acknowledge the one
and the other have a member in common.

**Lanes.** Each replica has a queue of what it is yet to be sent (lane.py). A replica that fails, or
whose queue is too long or more than ``LAGGARD_S`` late, while another has the operation, is
*behind*: it gets no later operations, and must leave the table and catch up before it is in one
again. A write that no replica could do stays in the queues if its outcome is unknown.

**One coordinator.** A coordinator that is new seals the replicas with the epoch of its table, which
ends what an earlier one may do, and makes them equal, before it writes: what was in the earlier
one's queues is lost with it (convergence.py). A replica refuses one with an older table.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterable, Sequence

from bitsift.errors import BitsiftError, Fenced, RequestOutcome, said_by
from bitsift.router.shards.convergence import most_equal
from bitsift.router.shards.lane import Lane, Sending
from bitsift.router.shards.missed import Missed, kept
from bitsift.router.shards.newest import Readers
from bitsift.router.shards.quorums import Quorums
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.verdicts import (
    combined,
    final,
    is_superseded,
    not_done,
    of_several,
    refused,
)
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.operations import Delete, Documents, Operation, Outcome
from bitsift.write_acks import WriteAcks
from bitsift.write_token import NOTHING, Reached

log = logging.getLogger(__name__)

LAGGARD_S = 5.0
"""How much later than the first another replica may have an operation."""
LANE_BYTES_MAX = 64 << 20
"""Of operations that one replica is yet to be sent."""
ATTEMPTS_MAX = 8
"""Versions in which an operation is tried: each time another coordinator may have been faster."""


class ReplicaWrites:
    """The replicas of one shard, to write to. Lives in one event loop; one ``write`` at a time."""

    def __init__(
        self,
        shard: int,
        replicas: Sequence[Replica],
        acks: WriteAcks = WriteAcks.MAJORITY,
    ) -> None:
        self._shard = shard
        self._replicas = tuple(replicas)
        self._wanted = len(replicas)
        self.epoch = 0  # of the table in use
        self._acks = acks
        self._clock = HybridClock()
        self._behind: dict[Replica, str] = {}
        self.missed: dict[str, Missed] = {}
        """Of nodes whose replica is behind, or has left the table."""
        self._progress = asyncio.Event()
        self._lanes = {replica: self._lane(replica) for replica in replicas}
        self._open: Sequence[Sending] = ()  # what a caller waits for
        self._leads = False  # whether the replicas were sealed and made equal
        self._leading = asyncio.Lock()
        self._term = 0  # the epoch with which the replicas were made equal
        self.reached = NOTHING
        """How far a replica must be to have all that was acknowledged."""
        self._timer: asyncio.TimerHandle | None = None

    def _lane(self, replica: Replica, waiting: Iterable[Sending] = ()) -> Lane:
        return Lane(replica, lambda: (self.epoch, self._term), self._look, waiting)

    @property
    def behind(self) -> tuple[str, ...]:
        """The nodes of the replicas that lack an operation and are still in the table."""
        return tuple(replica.node for replica in self._behind)

    @property
    def quorums(self) -> Quorums:
        return Quorums(len(self._replicas), self._wanted, self._acks)

    def readers(self) -> Readers:
        """Whom to ask for what was acknowledged."""
        quorums = self.quorums
        return Readers(self._replicas, quorums.read_from, quorums.agreeing, self.epoch)

    def place(self, replicas: Sequence[Replica], epoch: int = 0, wanted: int = 1) -> None:
        """Write to these from now on, under the table of ``epoch``; ``wanted`` were ordered.

        One that was out of the table in between is trusted again, and so are all where too few
        others are left: the table would take no write, and nobody could join it.
        """
        left = [it.node for it in self._replicas if it not in replicas]
        self._replicas, self.epoch, self._wanted = tuple(replicas), epoch, wanted
        self._behind = {it: why for it, why in self._behind.items() if it in replicas}
        if len(self._ask) < min(self.quorums.least, len(replicas)):
            for replica in self._behind:
                self._lanes.pop(replica).close()
            self._behind, self._leads = {}, False
        behind, current = ({it.node for it in some} for some in (self._behind, self._ask))
        self.missed = kept(self.missed, left, current, behind)
        before, self._lanes = self._lanes, {}
        waiting = {it: None for lane in before.values() for it in lane.waiting}
        waiting |= dict.fromkeys(self._open)
        for replica in replicas:
            if replica in before:
                self._lanes[replica] = before.pop(replica)
            else:  # it may have brought what somebody lacks who did not answer when it joined
                self._lanes[replica], self._leads = self._lane(replica, waiting), False
        for lane in before.values():
            lane.close()
        for lane in self._lanes.values():
            self._leads &= not lane.is_fenced  # another coordinator has written in between
            lane.go_on()
        self._look()

    def close(self) -> None:
        """Send nothing more: other shards have taken over."""
        for lane in self._lanes.values():
            lane.close()
        self._set_timer()

    async def settle(self) -> None:
        """Make the replicas that are not behind equal, so that each has all that was acknowledged,
        by whichever writer. Nothing may be written meanwhile. Raises ShardUnavailable and Fenced.
        """
        if not self.is_alone():
            await self._lead()
            if any(lane.is_fenced for lane in self._lanes.values()):
                raise refused(self._shard)
            await self.flushed()

    async def flushed(self) -> None:
        """Returns when every replica that is not behind has all that was written."""
        while any(lane.head is not None for lane in self._lanes.values()):
            await self._progress.wait()

    async def newest_version(self) -> int:
        """The newest that any replica knows."""
        return max(await asyncio.gather(*(it.link.newest_version() for it in self._current())))

    async def write(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """The outcome of each, on as many replicas as must have it. Raises ShardUnavailable and
        Fenced, not done.
        """
        for missed in self.missed.values():
            missed.documents += sum(map(len, operations))
        if self.is_alone():  # its own clock gives the versions
            return await self._write_alone(self._replicas[0], operations)
        await self._lead()
        self._check_room()
        found: list[Outcome | None] = [None] * len(operations)
        places, last = list(range(len(operations))), dict[int, int]()
        for _ in range(ATTEMPTS_MAX):
            sent = [self._send(operations[place]) for place in places]
            outcomes = await self._outcomes(sent)
            for place, sending, outcome in zip(places, sent, outcomes, strict=True):
                found[place] = combined(found[place], outcome)
                if isinstance(outcome, list):
                    last[place] = sending.operation.version
                    self._acknowledged(sending.operation.version)
            places = [place for place in places if is_superseded(found[place])]
            if not places:
                break
            try:
                await self._get_ahead()
            except BitsiftError as error:  # some of it may have been done
                for place in places:
                    found[place] = error.with_outcome(RequestOutcome.UNKNOWN)
                break
        return [final(one, last.get(place), ATTEMPTS_MAX) for place, one in enumerate(found)]

    async def ready_for(self, ids: frozenset[str]) -> int:
        """The epoch, when enough replicas have all that was written to ``ids``. Raises as write."""
        await self._lead()
        self._check_room()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAGGARD_S):
                while any(self._is_open(lane, ids) for lane in self._lanes.values()):
                    await self._progress.wait()
                return self.epoch
        raise not_done("the last write of the same documents is not done yet; try again")

    def check_still_ready(self, epoch: int) -> None:
        """Raises Fenced, not done, where another coordinator may have written since."""
        if self.epoch != epoch or not self._leads or self.is_alone():
            raise refused(self._shard)

    def _is_open(self, lane: Lane, ids: frozenset[str]) -> bool:
        """Whether something of these documents waits in it that too few replicas have."""
        mine = [it.done for it in lane.waiting if not ids.isdisjoint(it.operation.ids)]
        return any(sum(it in done for it in self._ask) < self.quorums.needed for done in mine)

    async def _write_alone(
        self, only: Replica, operations: Sequence[Operation]
    ) -> Sequence[Outcome]:
        """What is acknowledged under a table of one, that one has: a term of its own says it."""
        epoch, self._leads = self.epoch, False
        outcomes = await only.slow_call(lambda it: it.link.write(operations, epoch, epoch))
        self.reached = max(self.reached, Reached(epoch) if epoch else only.link.reached)
        return outcomes

    def _acknowledged(self, version: int) -> None:
        """Where the replicas are about to be made equal, some may be before they get it: only what
        comes in the new term shows that they have it.
        """
        term = self._term if self._leads else self.epoch
        self.reached = max(self.reached, Reached(term, version))

    def is_alone(self) -> bool:
        """Whether there is one replica, which was sent all that coordinators gave versions to."""
        return (
            len(self._replicas) == self._wanted == 1
            and not self._behind
            and self._lanes[self._replicas[0]].head is None
        )

    def _send(self, operation: Operation) -> Sending:
        if isinstance(operation, Documents | Delete):
            operation = dataclasses.replace(operation, version=self._clock.tick())
        sending = Sending(operation)
        for replica in self._replicas:
            if replica not in self._behind:
                self._lanes[replica].put(sending)
        return sending

    # --- outcomes --------------------------------------------------------------------------

    async def _outcomes(self, sent: Sequence[Sending]) -> list[Outcome]:
        """When all are known. If nobody waits so long, the replicas still get them."""
        self._open, found = sent, list[Outcome]()
        try:
            for sending in sent:
                while (outcome := self._verdict(sending)) is None:
                    await self._progress.wait()
                found.append(outcome)
        finally:
            self._open = ()
        return found

    def _verdict(self, sending: Sending) -> Outcome | None:
        """None while it is not known."""
        done = [it for it in self._replicas if it in sending.done and it not in self._behind]
        if len(done) >= self.quorums.needed:
            columns = [sending.done[replica] for replica in done]
            return [of_several(said) for said in zip(*columns, strict=True)]
        fenced = any(lane.is_fenced for lane in self._lanes.values())
        if not fenced and (sending.done or not all(it in sending.failed for it in self._ask)):
            return None
        if any(lane.is_sending(sending) for lane in self._lanes.values()) or not self._replicas:
            return None
        sure = not sending.done and all(
            error.outcome is RequestOutcome.NOT_DONE for error in sending.failed.values()
        )
        if fenced or sure:
            for lane in self._lanes.values():
                lane.remove(sending)
        error = next(iter(sending.failed.values()), None) or refused(self._shard)
        return error if sure else error.with_outcome(RequestOutcome.UNKNOWN)

    @property
    def _ask(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica not in self._behind]

    def _look(self) -> None:
        """After each answer, and when one is late: who is behind? Whoever waits looks again."""
        for replica, lane in self._lanes.items():
            if len(self._ask) <= self.quorums.least:
                break  # a write needs those that are left: they get it when they answer again
            if replica not in self._behind and (why := lane.why_behind(LAGGARD_S, LANE_BYTES_MAX)):
                self._leave_behind(replica, why)
        self._set_timer()
        self._progress.set()
        self._progress = asyncio.Event()

    def _leave_behind(self, replica: Replica, why: str) -> None:
        log.warning("%s is behind: %s", replica.name, why)
        self._behind[replica] = why
        self._lanes[replica].close()
        self.missed.setdefault(replica.node, Missed()).behind = why

    def _set_timer(self) -> None:
        """One for all lanes: when the first of them would be too late."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        since = [lane.late_since for lane in self._lanes.values()]
        due = min((at for at in since if at is not None), default=None)
        if due is not None:
            wait_s = max(0.05, due + LAGGARD_S - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    # --- before a write --------------------------------------------------------------------

    def _current(self) -> list[Replica]:
        """The replicas that are not behind, as many as a write needs at least."""
        current = self._ask
        if len(current) < self.quorums.least:
            said = "; ".join(f"{it.node}: {why}" for it, why in self._behind.items())
            raise not_done(
                f"{len(current)} of {self._wanted} replicas of shard {self._shard} accept writes, "
                f"{self.quorums.least} must ({said or 'the others do not answer'})"
            )
        return current

    def _check_room(self) -> None:
        """A write that no replica could do yet must not be followed by more and more."""
        lanes = [self._lanes[replica] for replica in self._current()]
        if min(lane.size_bytes for lane in lanes) > LANE_BYTES_MAX // 2:
            raise not_done(f"the last writes to shard {self._shard} are not done yet; try again")
        if any(lane.is_fenced for lane in lanes):
            raise refused(self._shard)

    async def take_over(self) -> None:
        """Make several replicas equal, if it can be done now, though nobody writes yet."""
        if len(self._replicas) > 1 and not self._leading.locked():
            with contextlib.suppress(BitsiftError):
                await self._lead()

    async def _lead(self) -> None:
        """Seal the replicas and make them equal, unless that was done. Raises ShardUnavailable and
        Fenced, not done.
        """
        async with self._leading:
            if self._clock.is_too_far(self._clock.newest):
                self._start_over()
            if not self._leads:
                await self._seal()

    def _start_over(self) -> None:
        """This machine's clock was far ahead, and was set right. Drop what no replica takes."""
        for lane in self._lanes.values():
            for sending in list(lane.waiting):
                if self._clock.is_too_far(sending.operation.version):
                    lane.remove(sending)
        self._clock.start_over()
        self._leads = False

    async def _seal(self) -> None:
        sealed = list[Replica]()
        replicas, epoch = self._current(), self.epoch
        calls = [asyncio.wait_for(it.link.seal(epoch), LAGGARD_S) for it in replicas]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        if self.epoch != epoch:
            raise refused(self._shard)
        failed = dict[Replica, str]()
        for replica, answer in zip(replicas, answers, strict=True):
            if isinstance(answer, Fenced):
                raise answer
            if isinstance(answer, BaseException):
                failed[replica] = said_by(answer)
            else:
                self._clock.observe(answer)
                sealed.append(replica)
        if len(sealed) >= self.quorums.least:
            for replica, why in failed.items():
                self._leave_behind(replica, why)
        if len(sealed) < self.quorums.sealed:
            said = "; ".join(f"{it.node}: {why}" for it, why in failed.items())
            raise not_done(f"too few replicas of shard {self._shard} answer ({said})")
        await self._equal(sealed, epoch)
        self._leads = True

    async def _equal(self, sealed: Sequence[Replica], epoch: int) -> None:
        """A term begins: so many of them that each acknowledged write is on one are equal."""
        reached = max(self.reached, Reached(epoch))
        failed = await most_equal(
            sealed, epoch, max(self.quorums.least, self.quorums.sealed), reached
        )
        if self.epoch != epoch:
            raise refused(self._shard)
        self._term, self.reached = epoch, max(self.reached, reached)
        for replica, why in failed.items():
            self._leave_behind(replica, why.message)

    async def _get_ahead(self) -> None:
        """Move the clock past the newest version of each replica that says it. Raises Unavailable
        where that is far ahead.
        """
        calls = [asyncio.wait_for(it.link.newest_version(), LAGGARD_S) for it in self._current()]
        for version in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(version, int):
                self._clock.observe(version)
