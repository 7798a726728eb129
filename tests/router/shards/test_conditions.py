"""A condition is decided for all replicas alike, with no moment in which another write fits."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from bitsift.errors import RequestOutcome, ShardUnavailable
from bitsift.router.shards import replica_writes
from bitsift.shard_worker.operations import (
    ABSENT,
    Condition,
    Delete,
    Operation,
    Outcome,
    Statuses,
    Upsert,
)
from bitsift.shard_worker.shard import Shard
from bitsift.write_status import WriteStatus
from tests.router.write.test_replica_writes import Written, run, shards, upsert

__all__ = ["shards"]  # a fixture
CONFLICT, CREATED, UPDATED = WriteStatus.CONFLICT, WriteStatus.CREATED, WriteStatus.UPDATED


def expecting(operation: Upsert, *expected: Condition) -> Upsert:
    return dataclasses.replace(operation, expected=expected)


async def said(written: Written, operation: Operation) -> Statuses:
    found: Sequence[Outcome] = await written.write(operation)
    (outcome,) = found
    assert isinstance(outcome, Statuses), outcome
    return outcome


def test_all_replicas_do_it_or_none(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        made = await said(written, expecting(upsert("one"), ABSENT))
        assert made == [CREATED]
        both = await said(written, expecting(upsert("x", "y"), ABSENT, made.versions[0]))
        assert both == [CREATED, CONFLICT]
        assert both.versions[1] == 0
        late = await said(written, expecting(upsert("two"), ABSENT))
        assert (late, late.versions) == ([CONFLICT], made.versions)
        done = await said(written, expecting(upsert("three"), made.versions[0]))
        assert done == [UPDATED]
        gone = Delete(["a", "a0"], expected=[made.versions[0], both.versions[0]])
        assert await said(written, gone) == [CONFLICT, WriteStatus.DELETED]
        await written.shard.flushed()
        for node, shard in enumerate(shards):
            assert written.held(node, ["a", "a0", "a1"]) == ["three", None, None]
            assert shard.document("a").version == done.versions[0]

    run(scenario)


def test_of_several_at_once_one_is_done(shards: list[Shard]) -> None:
    """They come as one call too, and each is decided by what those before it did."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        (version,) = (await said(written, upsert("start"))).versions
        wanted = [expecting(upsert(f"text {n}"), version) for n in range(4)]
        outcomes = await written.everywhere(upsert("b", key="b"), *wanted, Delete(["b"]))
        assert outcomes == [[CREATED], [UPDATED], *[[CONFLICT]] * 3, [WriteStatus.DELETED]]
        assert written.held(2, ["a", "b"]) == ["text 0", None]

    run(scenario)


def test_what_one_replica_alone_has_decides_nothing(shards: list[Shard]) -> None:
    async def scenario() -> None:
        shards[0].write([upsert("of nobody")])
        written = Written(shards, [0, 1, 2])
        await written.everywhere(upsert("b", key="b"))  # it makes the replicas equal
        shards[0].write([Delete(["a"])])
        assert await said(written, expecting(upsert("new"), ABSENT)) == [CONFLICT]
        assert written.held(1, ["a"]) == written.held(2, ["a"]) == ["of nobody"]

    run(scenario)


def test_a_write_that_is_not_done_yet_is_waited_for(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome may be unknown: whoever was told so has gone."""

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        (version,) = (await said(written, upsert("one"))).versions
        await written.shard.flushed()
        for link in written.links:
            link.running.clear()
        left = asyncio.ensure_future(written.write(upsert("two")))
        await asyncio.sleep(0.05)
        left.cancel()
        waiting = asyncio.ensure_future(said(written, expecting(upsert("three"), version)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        for link in written.links:
            link.running.set()
        assert await waiting == [CONFLICT]
        await written.shard.flushed()
        assert written.held(0, ["a"]) == ["two"]
        monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.1)
        for link in written.links:
            link.running.clear()
        late = asyncio.ensure_future(written.write(upsert("four")))
        await asyncio.sleep(0.05)
        (outcome,) = await written.write(expecting(upsert("five"), version))
        assert isinstance(outcome, ShardUnavailable)
        assert outcome.outcome is RequestOutcome.NOT_DONE
        for link in written.links:
            link.running.set()
        await late

    run(scenario)


def test_where_too_few_say_what_they_hold_nothing_is_done(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        (version,) = (await said(written, upsert("one"))).versions
        await written.shard.flushed()
        for link in written.links[1:]:
            link.error = ShardUnavailable("it is down")
        (outcome,) = await written.write(expecting(upsert("two"), version))
        assert isinstance(outcome, ShardUnavailable)
        assert outcome.outcome is RequestOutcome.NOT_DONE
        assert written.held(0, ["a"]) == ["one"]

    run(scenario)
