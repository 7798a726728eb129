"""Writes reach all replicas alike, and are acknowledged when so many have them as was ordered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import (
    BitsiftError,
    Fenced,
    NotFound,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
)
from bitsift.router import write_gate as gate
from bitsift.router.shards import lane, missed, replica_writes
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import Placement, ReplicaAddress, ReplicaTable
from bitsift.router.write import writer as writer_module
from bitsift.router.write.service import WriteService
from bitsift.router.write.writer import WriterActor
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.operations import Delete, Operation, Outcome, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION
from bitsift.write_acks import WriteAcks
from bitsift.write_status import WriteStatus
from tests.fakes import make_writer
from tests.replicas import FaultyLink, make_replicas

DIMENSION = 64
LIMIT_S = 60.0
NODES = ("node-0", "node-1", "node-2")
NOTHING = np.empty((0, DIMENSION), dtype=np.float32)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[list[Shard]]:
    """Replicas of one shard."""
    with contextlib.ExitStack() as opened:
        yield make_replicas(opened, tmp_path, NOTHING, DIMENSION, 1, len(NODES))[0]


class Written:
    """The links of one shard that is written to through tables; ``place`` names the replicas."""

    def __init__(
        self,
        shards: Sequence[Shard],
        nodes: Sequence[int],
        acks: WriteAcks = WriteAcks.MAJORITY,
        epoch: int = 0,
        links: Sequence[FaultyLink] = (),
    ) -> None:
        """As many replicas are wanted as there are ``nodes``."""
        self.links = list(links) or [FaultyLink(shard) for shard in shards]
        self._wanted = len(nodes)
        table = self._table(epoch, nodes)
        self.placed = PlacedShards(table, lambda _, address: address.actor, acks)
        (self.shard,) = self.placed.links

    def _table(self, epoch: int, nodes: Sequence[int]) -> ReplicaTable:
        addresses = tuple(ReplicaAddress(NODES[node], self.links[node]) for node in nodes)
        return ReplicaTable(epoch, (addresses,), replicas=self._wanted)

    def place(self, epoch: int, nodes: Sequence[int]) -> None:
        self.placed.place(self._table(epoch, nodes))

    async def write(self, *operations: Operation) -> list[Outcome]:
        return list(await self.shard.write(operations))

    async def everywhere(self, *operations: Operation) -> list[Outcome]:
        """``write``, when all replicas that are not behind have it."""
        outcomes = await self.write(*operations)
        await self.shard.flushed()
        return outcomes

    def held(self, node: int, ids: Sequence[str]) -> list[str | None]:
        """The text of each id on a replica."""
        return [text_of(self.links[node].shard, key) for key in ids]


def text_of(shard: Shard, key: str) -> str | None:
    with contextlib.suppress(BitsiftError):
        return shard.document(key).text
    return None


def upsert(*texts: str, key: str = "a") -> Upsert:
    n = len(texts)
    ids = [key if n == 1 else f"{key}{place}" for place in range(n)]
    codes = np.ones((n, DIMENSION), dtype=np.int8)
    return Upsert(ids, [""] * n, list(texts), [""] * n, [LIVE_POSITION] * n, codes)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(limited())


def test_all_replicas_have_a_write_in_one_version(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        assert await written.everywhere(upsert("one"), upsert("two", key="b")) == [
            [WriteStatus.CREATED], [WriteStatus.CREATED],
        ]  # fmt: skip
        assert await written.everywhere(upsert("three")) == [[WriteStatus.UPDATED]]
        assert await written.everywhere(Delete(["b", "c"])) == [
            [WriteStatus.DELETED, WriteStatus.MISSING]
        ]
        for node in range(3):
            assert written.held(node, ["a", "b"]) == ["three", None]
        assert len({shard.newest_version for shard in shards}) == 1

    run(scenario)


def test_versions_are_newer_than_what_a_replica_wrote_by_its_own_clock(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0])
        ahead = shards[0]._clock
        ahead.observe(ahead.newest + (60_000 << 16))  # its machine's clock is a minute ahead
        assert await written.write(upsert("old")) == [[WriteStatus.CREATED]]
        written.place(1, [0, 1])
        assert await written.everywhere(upsert("new")) == [[WriteStatus.UPDATED]]
        assert written.held(0, ["a"]) == written.held(1, ["a"]) == ["new"]

    run(scenario)


def test_a_write_that_begins_after_another_was_acknowledged_wins_whatever_the_clocks_say(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        fast = Written(shards, [0, 1, 2])
        slow = Written(shards, [0, 1, 2], links=fast.links)
        slow.shard.writes._clock = HybridClock(wall_s=lambda: time.time() - 200.0)
        await slow.everywhere(upsert("before", key="b"))
        assert await fast.write(upsert("first")) == [[WriteStatus.CREATED]]
        both = Upsert(
            ["a", "c"], [""] * 2, ["second", "third"], [""] * 2, [LIVE_POSITION] * 2,
            np.ones((2, DIMENSION), dtype=np.int8),
        )  # fmt: skip
        statuses = [WriteStatus.UPDATED, WriteStatus.CREATED]
        assert await slow.everywhere(both) == [statuses]
        await fast.shard.flushed()
        for node in range(3):
            assert fast.held(node, ["a", "c"]) == ["second", "third"]
        assert await fast.write(Delete(["a"])) == [[WriteStatus.DELETED]]
        assert await slow.everywhere(upsert("fourth")) == [[WriteStatus.CREATED]]

    run(scenario)


def test_a_writer_whose_clock_was_far_ahead_writes_again_when_it_is_set_right(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are refused meanwhile; one that may be on a replica is in nobody's way later."""
    monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.5)

    async def scenario() -> None:
        written, ahead_s = Written(shards, [0, 1, 2]), 0.0
        written.shard.writes._clock = HybridClock(wall_s=lambda: time.time() + ahead_s)
        await written.everywhere(upsert("one"))
        ahead_s = 3_600.0
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, BitsiftError)
        assert found.outcome is RequestOutcome.NOT_DONE
        assert "ahead of this machine's clock" in found.message
        written.links[2].error = ShardUnavailable("nobody knows what it did")
        (found,) = await written.write(upsert("three"))
        assert isinstance(found, BitsiftError)
        assert found.outcome is RequestOutcome.UNKNOWN
        written.links[2].error, ahead_s = None, 0.0
        assert await written.everywhere(upsert("four")) == [[WriteStatus.UPDATED]]
        assert [written.held(node, ["a"]) for node in range(3)] == [["four"]] * 3

    run(scenario)


def test_a_write_is_tried_in_so_many_versions_at_most(shards: list[Shard]) -> None:
    class Overtaken(FaultyLink):
        async def write(
            self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
        ) -> Sequence[Outcome]:
            self.calls["other"] += 1  # somebody is always faster
            self.shard.write([upsert(f"other {self.calls['other']}")])
            return await super().write(operations, epoch, term)

    async def scenario() -> None:
        links = [Overtaken(shard) for shard in shards]
        written = Written(shards, [0, 1, 2], links=links)
        written.shard.writes._clock = HybridClock(wall_s=lambda: time.time() - 200.0)
        (found,) = await written.write(upsert("mine"))
        assert isinstance(found, ShardUnavailable)
        assert found.outcome is RequestOutcome.UNKNOWN
        assert f"{replica_writes.ATTEMPTS_MAX} times in between" in found.message

    run(scenario)


@pytest.mark.parametrize("acks", list(WriteAcks))
def test_a_slow_replica_delays_only_those_who_want_all_and_gets_it_still(
    shards: list[Shard], acks: WriteAcks
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2], acks)
        await written.everywhere(upsert("one"))
        slow = written.links[1:] if acks is WriteAcks.ONE else written.links[2:]
        for link in slow:
            link.running.clear()
        writing = asyncio.ensure_future(written.write(upsert("two")))
        await asyncio.sleep(0.3)
        assert writing.done() == (acks is not WriteAcks.ALL)
        for link in slow:
            link.running.set()
        assert await writing == [[WriteStatus.UPDATED]]
        await written.shard.flushed()
        for node in range(3):
            assert written.held(node, ["a"]) == ["two"]
        assert not written.placed.behind

    run(scenario)


@pytest.mark.parametrize("fault", ["fails", "freezes", "is too far behind"])
def test_a_replica_that_lacks_a_write_leaves_the_table_before_it_is_written_to_again(
    shards: list[Shard], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2], WriteAcks.ALL)
        await written.everywhere(upsert("one"))
        if fault == "is too far behind":
            monkeypatch.setattr(replica_writes, "LANE_BYTES_MAX", 100)
        else:
            monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.5)
        bad = written.links[1]
        if fault == "fails":
            bad.error = StorageFull("no room")
        else:
            bad.running.clear()
        writing = asyncio.ensure_future(written.write(upsert("two")))
        while not written.placed.behind:
            await asyncio.sleep(0.01)
        assert set(written.placed.behind) == {(0, "node-1")}
        written.place(1, [0, 1])  # for another reason
        await asyncio.sleep(0.1)
        assert not writing.done()  # all must have it
        bad.error = None
        asked = bad.calls["write"]
        written.place(2, [0, 2])
        assert await writing == [[WriteStatus.UPDATED]]
        assert len(written.placed.behind) == 0
        await written.everywhere(upsert("three"))
        assert bad.calls["write"] == asked
        assert written.held(0, ["a"]) == written.held(2, ["a"]) == ["three"]
        bad.running.set()
        written.place(3, [0, 1, 2])  # whoever places it again has seen to it
        assert await written.everywhere(upsert("four")) == [[WriteStatus.UPDATED]]
        assert written.held(1, ["a"]) == ["four"]

    run(scenario)


def test_those_that_a_write_needs_are_never_left_behind(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.1)
        for link in written.links[1:]:
            link.running.clear()
        writing = asyncio.ensure_future(written.write(upsert("two")))
        await asyncio.sleep(0.5)
        assert not writing.done()
        assert len(written.placed.behind) == 1
        for link in written.links[1:]:
            link.running.set()
        assert await writing == [[WriteStatus.UPDATED]]

    run(scenario)


def test_one_that_was_left_behind_is_trusted_where_a_table_has_too_few_others(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1455: the only one left took no write, and none could join."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.1)
        written.links[2].running.clear()
        await written.write(upsert("two"))
        while not written.placed.behind:
            await asyncio.sleep(0.01)
        written.links[2].running.set()
        written.place(1, [1, 2])
        assert not written.placed.behind
        assert await written.everywhere(upsert("three")) == [[WriteStatus.UPDATED]]
        assert written.held(1, ["a"]) == written.held(2, ["a"]) == ["three"]

    run(scenario)


def test_what_no_replica_could_write_is_an_error_and_nobody_leaves(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1])
        for link in written.links:
            link.error = StorageFull("no room")
        with pytest.raises(ShardUnavailable, match="too few replicas of shard 0") as raised:
            await written.write(upsert("one"))  # they could not even be sealed
        assert raised.value.outcome is RequestOutcome.NOT_DONE
        for link in written.links:
            link.error = None
        await written.everywhere(upsert("one"))
        for link in written.links:
            link.error = StorageFull("no room")
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, StorageFull)
        assert found.outcome is RequestOutcome.NOT_DONE
        await written.shard.flushed()  # nobody will be sent it
        for link in written.links:
            link.error = ShardUnavailable("it died")
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, ShardUnavailable)
        assert found.outcome is RequestOutcome.UNKNOWN
        assert not written.placed.behind

    run(scenario)


class Panic(BaseException):
    """What compiled libraries raise: PyO3's PanicException is no Exception either."""


@pytest.mark.parametrize("raised", [Panic("boom"), asyncio.CancelledError(), MemoryError()])
def test_whatever_a_replica_raises_its_writes_are_answered_and_it_is_sent_the_next(
    shards: list[Shard], raised: BaseException
) -> None:
    class Raising(FaultyLink):
        raises: BaseException | None = None

        async def write(
            self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
        ) -> Sequence[Outcome]:
            if self.raises is not None:
                raise self.raises
            return await super().write(operations, epoch, term)

    async def scenario() -> None:
        links = [Raising(shard) for shard in shards[:2]]
        written = Written(shards, [0, 1], WriteAcks.ALL, links=links)
        await written.everywhere(upsert("one"))
        for link in links:
            link.raises = raised
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, ShardUnavailable)
        assert type(raised).__name__ in found.message
        assert found.outcome is RequestOutcome.UNKNOWN
        for link in links:
            link.raises = None
        assert await written.everywhere(upsert("three")) == [[WriteStatus.UPDATED]]
        assert [written.held(node, ["a"]) for node in (0, 1)] == [["three"]] * 2

    run(scenario)


def test_too_few_replicas_are_no_majority(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        written.place(1, [0, 1])
        assert await written.write(upsert("two")) == [[WriteStatus.UPDATED]]
        written.place(2, [0])
        with pytest.raises(ShardUnavailable, match="1 of 3 replicas of shard 0 accept writes, 2"):
            await written.write(upsert("three"))

    run(scenario)


def test_one_of_two_takes_writes_once_the_other_has_left_the_table(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1])
        await written.everywhere(upsert("one"))
        written.links[1].error = StorageFull("no room")
        writing = asyncio.ensure_future(written.write(upsert("two")))
        await asyncio.sleep(0.2)
        assert not writing.done()
        written.place(1, [0])
        assert await writing == [[WriteStatus.UPDATED]]
        assert await written.write(upsert("three")) == [[WriteStatus.UPDATED]]

    run(scenario)


def test_unchanged_is_what_all_replicas_say(shards: list[Shard]) -> None:
    """One copy that lags must not answer for the others."""

    async def scenario() -> None:
        written = Written(shards, [0, 1], WriteAcks.ALL)
        await written.everywhere(upsert("two", key="b"))
        shards[0].write([upsert("one")])
        assert await written.everywhere(upsert("one")) == [[WriteStatus.CREATED]]
        assert written.held(1, ["a"]) == ["one"]

    run(scenario)


def test_what_may_be_on_one_replica_comes_to_all_of_them(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1])
        first, second, _ = written.links
        await written.everywhere(Delete(["c"]))
        first.error = ShardUnavailable("it died before")
        second.error_after = ShardUnavailable("it died after")
        (found,) = await written.write(upsert("one"))
        assert isinstance(found, ShardUnavailable)
        assert found.outcome is RequestOutcome.UNKNOWN
        assert (written.held(0, ["a"]), written.held(1, ["a"])) == ([None], ["one"])
        first.error = second.error_after = None
        assert await written.everywhere(upsert("two", key="b")) == [[WriteStatus.CREATED]]
        for node in (0, 1):
            assert written.held(node, ["a", "b"]) == ["one", "two"]
        assert shards[0].newest_version == shards[1].newest_version

    run(scenario)


def test_while_a_write_is_in_doubt_only_so_much_is_taken(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_writes, "LANE_BYTES_MAX", 100)

    async def scenario() -> None:
        written = Written(shards, [0, 1])
        await written.everywhere(upsert("one"))
        for link in written.links:
            link.error = ShardUnavailable("it died")
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, ShardUnavailable)
        with pytest.raises(ShardUnavailable, match="are not done yet") as raised:
            await written.write(upsert("three"))
        assert raised.value.outcome is RequestOutcome.NOT_DONE

    run(scenario)


def test_what_a_replica_was_not_sent_is_counted_until_it_is_back(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        written.links[1].error = StorageFull("no room")
        await written.write(upsert("two"), upsert("two", "more", key="b"))
        while not written.placed.behind:
            await asyncio.sleep(0.01)
        counted = written.shard.writes.missed
        assert [(node, it.behind) for node, it in counted.items()] == [("node-1", "no room")]
        await written.write(upsert("three", "more", key="c"))
        written.place(1, [0, 2])
        await written.write(Delete(["a"]))
        found = written.shard.writes.missed["node-1"]
        assert (found.documents, found.behind) == (3, None)
        assert abs(time.time() - found.since_s) < LIMIT_S
        written.place(2, [0, 1, 2])
        assert written.shard.writes.missed == {}

    run(scenario)


def test_so_many_nodes_that_left_are_remembered(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed, "MISSED_MAX", 1)

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        written.place(1, [0, 1])
        assert [*written.shard.writes.missed] == ["node-2"]
        written.place(2, [0])
        assert [*written.shard.writes.missed] == ["node-1"]

    run(scenario)


def test_a_new_coordinator_leaves_behind_one_that_cannot_be_made_equal(
    shards: list[Shard],
) -> None:
    """A majority has all that was acknowledged without it."""

    async def scenario() -> None:
        shards[0].write([upsert("one")])
        written = Written(shards, [0, 1, 2], epoch=5)
        written.links[2].write_error = StorageFull("no room")
        await written.shard.writes.settle()
        assert written.placed.behind == ((0, "node-2"),)
        assert await written.write(upsert("two", key="b")) == [[WriteStatus.CREATED]]
        assert [written.held(node, ["a", "b"]) for node in range(3)] == [
            ["one", "two"], ["one", "two"], [None, None],
        ]  # fmt: skip
        alone = Written(shards, [0, 1, 2], epoch=6)
        for link in alone.links[1:]:
            link.write_error = StorageFull("no room")
        shards[0].write([upsert("three", key="c")])
        with pytest.raises(StorageFull) as refused:
            await alone.write(upsert("four"))
        assert refused.value.outcome is RequestOutcome.NOT_DONE

    run(scenario)


def test_a_new_coordinator_makes_the_replicas_equal_and_ends_the_earlier_one(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        earlier = Written(shards, [0, 1, 2], epoch=4)
        await earlier.everywhere(upsert("one"))
        earlier.links[2].running.clear()
        await earlier.write(upsert("two"))
        await earlier.write(Delete(["b"]))
        links = [*earlier.links[:2], FaultyLink(shards[2])]
        later = Written(shards, [0, 1, 2], epoch=5, links=links)
        assert await later.everywhere(upsert("three", key="c")) == [[WriteStatus.CREATED]]
        for node in range(3):
            assert later.held(node, ["a", "b", "c"]) == ["two", None, "three"]
        (found,) = await earlier.write(upsert("four"))
        assert isinstance(found, Fenced)
        assert found.outcome is RequestOutcome.NOT_DONE
        with pytest.raises(Fenced):
            await earlier.write(upsert("five"))
        assert later.held(0, ["a"]) == ["two"]
        earlier.links[2].running.set()
        earlier.place(6, [0, 1, 2])
        assert await earlier.write(upsert("six")) == [[WriteStatus.UPDATED]]

    run(scenario)


def test_what_was_on_its_way_to_a_replica_that_left_the_table_may_have_been_done(
    shards: list[Shard],
) -> None:
    """Found by the simulation: the others had refused it, so it was said to be not done."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2], epoch=2)
        await written.everywhere(upsert("one"))
        written.links[2].running.clear()
        for link in written.links[:2]:
            link.error = Fenced("a newer table is in force")
        asked = [link.calls["write"] for link in written.links]
        writing = asyncio.ensure_future(written.write(upsert("two")))
        while [link.calls["write"] for link in written.links] != [one + 1 for one in asked]:
            await asyncio.sleep(0.01)
        written.place(4, [0, 1])
        (found,) = await writing
        assert isinstance(found, BitsiftError)
        assert found.outcome is RequestOutcome.UNKNOWN

    run(scenario)


def test_a_document_is_read_from_a_replica_that_has_what_was_acknowledged(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        written.links[2].running.clear()
        await written.write(upsert("two"))
        fast = [FaultyLink(shard) for shard in shards]
        fast[0].delay_s = 0.05  # the one that lags is quicker than one of the others
        reader = Written(shards, [0, 1, 2], links=fast)
        for _ in range(20):
            assert (await reader.shard.document("a")).text == "two"
        fast[0].error = fast[1].error = ShardUnavailable("it is down")
        with pytest.raises(ShardUnavailable, match="2 of 3 replicas must say"):
            await reader.shard.document("a")
        written.links[2].running.set()
        await written.everywhere(Delete(["a"]))
        fast[0].error = fast[1].error = None
        with pytest.raises(NotFound):
            await reader.shard.document("a")

    run(scenario)


def test_what_only_one_replica_has_is_read_when_enough_have_it(shards: list[Shard]) -> None:
    """A later read may ask the others alone: then what one has shown would be gone again."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        for link in written.links[1:]:
            link.running.clear()
        writing = asyncio.ensure_future(written.write(upsert("two")))
        while written.held(0, ["a"]) != ["two"]:
            await asyncio.sleep(0.01)
        reader = Written(shards, [0, 1, 2])
        for _ in range(5):
            assert (await reader.shard.document("a")).text == "one"
        written.links[1].running.set()
        await writing
        for _ in range(5):
            assert (await reader.shard.document("a")).text == "two"
        for link in written.links:
            link.running.set()
        await written.shard.flushed()

    run(scenario)


@pytest.mark.parametrize("acks", list(WriteAcks))
def test_so_many_are_asked_and_agree_as_have_what_was_acknowledged(
    shards: list[Shard], acks: WriteAcks
) -> None:
    writes = Written(shards, [0, 1, 2], acks).shard.writes
    assert (writes.quorums.needed, writes.quorums.read_from, writes.quorums.agreeing) == {
        WriteAcks.ONE: (1, 3, 1), WriteAcks.MAJORITY: (2, 2, 2), WriteAcks.ALL: (3, 2, 1),
    }[acks]  # fmt: skip


def test_a_table_that_has_lost_most_replicas_is_not_read_by_id(shards: list[Shard]) -> None:
    """What is left may lack what the others have acknowledged."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("one"))
        written.links[2].running.clear()
        await written.write(upsert("two"))
        reader = Written(shards, [0, 1, 2])
        reader.place(2, [2])
        with pytest.raises(ShardUnavailable, match="2 of 1 replicas must say"):
            await reader.shard.document("a")
        written.links[2].running.set()
        await written.shard.flushed()

    run(scenario)


EACH_FAILS = st.lists(st.sampled_from(["", "", "before", "after"]), min_size=3, max_size=3)


@settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "1", "2"]), EACH_FAILS), max_size=12
    )
)
def test_whatever_fails_the_replicas_of_the_table_hold_what_was_acknowledged(
    shards: list[Shard], steps: list[tuple[str, str, list[str]]]
) -> None:
    """An empty text deletes. A replica fails an operation before or after it has done it."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        for key in "abc":
            await written.everywhere(Delete([key]))
        possible: dict[str, set[str | None]] = {key: {None} for key in "abc"}
        for key, text, faults in steps:
            died = ShardUnavailable("it died")
            for link, fault in zip(written.links, faults, strict=True):
                link.error = died if fault == "before" else None
                link.error_after = died if fault == "after" else None
            operation: Operation = upsert(text, key=key) if text else Delete([key])
            writing = asyncio.ensure_future(written.write(operation))
            await asyncio.wait([writing], timeout=0.02)
            for link in written.links:
                link.error = link.error_after = None
            (outcome,) = await writing
            if isinstance(outcome, list):
                possible[key] = {text or None}
                texts = [written.held(node, [key])[0] for node in range(3)]
                assert sum(text in possible[key] for text in texts) >= 2
            elif outcome.outcome is RequestOutcome.UNKNOWN:
                possible[key] = possible[key] | {text or None}
        await written.shard.flushed()
        assert not written.placed.behind
        agreed = [written.held(node, list(possible)) for node in range(3)]
        assert agreed == agreed[:1] * 3
        for one, held in zip(possible, agreed[0], strict=True):
            assert held in possible[one]

    with mock.patch.object(lane, "RETRY_S", 0.01):
        run(scenario)


def make_service(written: Written) -> WriteService:
    calibration = Calibration.from_sample(np.eye(DIMENSION, dtype=np.float32), DIMENSION)
    return make_writer(written.placed.links, calibration)


def test_replicas_settle_on_all_that_any_writer_has_acknowledged(shards: list[Shard]) -> None:
    """The first writer ends before one replica has what two of them have."""

    async def scenario() -> None:
        first = Written(shards, [0, 1, 2], epoch=1)
        await first.everywhere(upsert("zero"))
        first.links[2].running.clear()
        assert await first.write(upsert("one")) == [[WriteStatus.UPDATED]]
        first.shard.writes.close()
        second = Written(shards, [0, 1, 2], epoch=2)
        assert second.held(2, ["a"]) == ["zero"]
        await second.shard.writes.settle()
        assert second.placed.behind == ()
        assert [second.held(node, ["a"]) for node in range(3)] == [["one"]] * 3

    run(scenario)


def test_a_replica_that_does_not_settle_is_named(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.2)

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2], epoch=1)
        written.links[1].error = ShardUnavailable("it died")
        await written.shard.writes.settle()
        assert written.placed.behind == ((0, "node-1"),)
        written.links[2].error = ShardUnavailable("it died")
        other = Written(shards, [0, 1, 2], epoch=2, links=written.links)
        with pytest.raises(ShardUnavailable, match="too few replicas"):
            await other.shard.writes.settle()

    run(scenario)


def test_a_writer_whose_table_was_replaced_does_not_settle(shards: list[Shard]) -> None:
    async def scenario() -> None:
        old = Written(shards, [0, 1, 2], epoch=1)
        await old.everywhere(upsert("one"))
        await Written(shards, [0, 1, 2], epoch=2, links=old.links).shard.writes.settle()
        (said,) = await old.write(upsert("two"))
        assert isinstance(said, Fenced)
        with pytest.raises(Fenced):
            await old.shard.writes.settle()

    run(scenario)


def test_writes_that_are_held_wait_and_go_on_with_the_next_table_or_by_themselves(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0])
        service = make_service(written)
        slow = written.links[0]
        slow.running.clear()

        def write(text: str) -> asyncio.Future[bytes]:
            body = orjson.dumps({"documents": [{"id": "a", "text": text}]})
            return asyncio.ensure_future(service.upsert(body))

        slow.delay_s = 0.05
        slow.running.set()
        first = write("one")
        while not slow.calls["write"]:
            await asyncio.sleep(0.001)
        await service.gate.hold(30.0)
        assert written.held(0, ["a"]) == ["one"]  # what was under way has ended
        calls = slow.calls["write"]
        second = write("two")
        await asyncio.sleep(0.3)
        assert slow.calls["write"] == calls
        service.gate.release()
        await asyncio.gather(first, second)
        await service.gate.hold(0.05)
        await write("three")
        assert written.held(0, ["a"]) == ["three"]

    run(scenario)


def test_a_write_is_held_for_so_long_at_most(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HOLD_MAX_S", 0.05)

    async def scenario() -> None:
        written = Written(shards, [0])
        service = make_service(written)
        await service.gate.hold(1e6)
        await service.upsert(orjson.dumps({"documents": [{"id": "a", "text": "one"}]}))
        assert written.held(0, ["a"]) == ["one"]

    run(scenario)


def test_a_replica_is_sent_so_many_operations_at_once(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        slow = written.links[2]
        await written.everywhere(upsert("the first"))
        sent, write = list[int](), slow.write

        async def counted(
            operations: Sequence[Operation], epoch: int = 0, term: int = 0
        ) -> Sequence[Outcome]:
            sent.append(len(operations))
            return await write(operations, epoch, term)

        monkeypatch.setattr(slow, "write", counted)
        slow.running.clear()
        for place in range(lane.OPERATIONS_PER_CALL_MAX + 2):
            await written.write(upsert("x", key=f"k{place}"))
        slow.running.set()
        await written.shard.flushed()
        assert sent == [1, lane.OPERATIONS_PER_CALL_MAX, 1]

    run(scenario)


def test_a_hold_waits_so_long_for_replicas_that_do_not_answer(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "FLUSHED_S", 0.05)
    actor_class = WriterActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]

    async def scenario() -> None:
        written = Written(shards, [0])
        asked = list[bool]()

        async def flushed() -> None:
            asked.append(True)
            await asyncio.Event().wait()

        writer = actor_class.__new__(actor_class)
        writer._service = make_service(written)
        monkeypatch.setattr(writer._service.shards, "flushed", flushed)
        await writer.hold(1.0)
        assert asked == [True]

    run(scenario)


def test_what_waits_while_writes_are_held_goes_to_the_shards_that_took_over(
    tmp_path: Path,
) -> None:
    """To each its own: the number of shards is another one then."""

    async def scenario(old: list[Shard], new: list[Shard]) -> None:
        service = make_writer(
            [LocalLink(shard) for shard in old], old[0]._calibration, has_model=True
        )
        ids = [f"id {number}" for number in range(20)]
        body = orjson.dumps({"documents": [{"id": key, "text": "one"} for key in ids]})
        await service.upsert(body)
        await service.gate.hold(30.0)
        delete = asyncio.ensure_future(service.delete(orjson.dumps({"ids": ids[:5]})))
        again = asyncio.ensure_future(service.upsert(body.replace(b"one", b"two")))
        await asyncio.sleep(0.3)
        assert not (delete.done() or again.done())
        service.switch([LocalLink(shard) for shard in new], "another")
        service.gate.release()
        counts = [orjson.loads(said) for said in await asyncio.gather(delete, again)]
        assert counts[1]["failed"] == counts[1]["rejected"] == 0
        for key in ids:
            (owner,) = Placement(3).owners(key)
            assert text_of(new[owner], key) in ("two", None if key in ids[:5] else "two")
            assert [text_of(shard, key) for at, shard in enumerate(new) if at != owner] == [
                None
            ] * 2
            assert text_of(old[Placement(2).owners(key)[0]], key) == "one"

    with contextlib.ExitStack() as opened:
        old, new = (
            [one for (one,) in make_replicas(opened, tmp_path / str(n), NOTHING, DIMENSION, n, 1)]
            for n in (2, 3)
        )
        run(lambda: scenario(old, new))
