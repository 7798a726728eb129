"""All shards of an index are examined, some at a time, whatever becomes of one of them."""

from __future__ import annotations

import asyncio

import pytest

from bitsift.errors import DeadlineExceeded, Unavailable
from bitsift.router import examination
from bitsift.router.examination import SHARDS_AT_ONCE, Examination
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.shard_worker.maintenance.own_rows import RowCheck
from tests.fakes import BrokenLink


class Endless(BrokenLink):
    """A replica that has always more rows to check, and answers each time."""

    async def check_rows(self, first: int) -> RowCheck:
        await asyncio.sleep(0.01)
        return RowCheck(0, first + 7, first + 8, ())


class Counted(BrokenLink):
    """A replica that counts how many are checked with it."""

    now = most = 0

    async def check_rows(self, first: int) -> RowCheck:
        Counted.now += 1
        Counted.most = max(Counted.most, Counted.now)
        await asyncio.sleep(0.01)
        Counted.now -= 1
        return RowCheck(0, 7, 7, ())


def shards_of(count: int, kind: type[BrokenLink] = Counted) -> FanOut:
    def link() -> BrokenLink:
        return kind(Unavailable("nothing else is asked"))

    replicas = [[Replica(shard, "a", link())] for shard in range(count)]  # type: ignore[arg-type]
    return FanOut([ReplicaSet(shard, it) for shard, it in enumerate(replicas)])


def test_so_many_shards_are_examined_at_once() -> None:
    job = Examination(shards_of(2 * SHARDS_AT_ONCE + 1))
    report = asyncio.run(job.verify())
    assert (report.is_sound, report.shards, report.rows) == (True, 17, 7 * 17)
    assert Counted.most == SHARDS_AT_ONCE
    assert job.progress() == (7 * 17, 7 * 17)


def test_a_shard_without_a_replica_is_not_sound() -> None:
    report = asyncio.run(Examination(FanOut([ReplicaSet(0, [])])).verify())
    assert not report.is_sound
    assert "no replica at the moment" in str(report.replicas[0].reason)


def test_what_nobody_foresaw_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> list[object]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(examination, "verify_replicas", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(Examination(shards_of(1)).verify())


@pytest.mark.parametrize("method", ["verify", "repair"])
def test_a_check_and_a_repair_have_an_end_however_slow_the_replicas_are(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "TIMEOUT_S", 0.1)
    job = Examination(shards_of(2, Endless))

    async def scenario() -> None:
        async with asyncio.timeout(30):
            await getattr(job, method)()

    with pytest.raises(DeadlineExceeded, match="known rows checked: look for a slow") as caught:
        asyncio.run(scenario())
    assert ("mended stays mended" in caught.value.message) == (method == "repair")
