"""Writes reach all replicas alike, and nothing is acknowledged that one in the table may lack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import BitsiftError, RequestOutcome, ShardUnavailable, StorageFull
from bitsift.router.shards import replica_writes
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import Placement, ReplicaAddress, ReplicaTable
from bitsift.router.write import gate
from bitsift.router.write.service import WriteService
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.operations import Delete, Operation, Outcome, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION
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

    def __init__(self, shards: Sequence[Shard], nodes: Sequence[int]) -> None:
        self.links = [FaultyLink(shard) for shard in shards]
        self.placed = PlacedShards(self._table(0, nodes), lambda _, address: address.actor)
        (self.shard,) = self.placed.links

    def _table(self, epoch: int, nodes: Sequence[int]) -> ReplicaTable:
        addresses = tuple(ReplicaAddress(NODES[node], self.links[node]) for node in nodes)
        return ReplicaTable(epoch, (addresses,))

    def place(self, epoch: int, nodes: Sequence[int]) -> None:
        self.placed.place(self._table(epoch, nodes))

    async def write(self, *operations: Operation) -> list[Outcome]:
        return list(await self.shard.write(operations))

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
        assert await written.write(upsert("one"), upsert("two", key="b")) == [
            [WriteStatus.CREATED], [WriteStatus.CREATED],
        ]  # fmt: skip
        assert await written.write(upsert("three")) == [[WriteStatus.UPDATED]]
        assert await written.write(Delete(["b", "c"])) == [
            [WriteStatus.DELETED, WriteStatus.MISSING]
        ]
        for node in range(3):
            assert written.held(node, ["a", "b"]) == ["three", None]
        assert len({shard.newest_version for shard in shards}) == 1

    run(scenario)


def test_versions_are_newer_than_what_a_replica_wrote_by_its_own_clock(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0])
        ahead = shards[0]._clock
        ahead.observe(ahead.newest + (60_000 << 16))  # its machine's clock is a minute ahead
        assert await written.write(upsert("old")) == [[WriteStatus.CREATED]]
        written.place(1, [0, 1])
        assert await written.write(upsert("new")) == [[WriteStatus.UPDATED]]
        assert written.held(0, ["a"]) == written.held(1, ["a"]) == ["new"]

    run(scenario)


@pytest.mark.parametrize("fault", ["fails", "freezes"])
def test_a_replica_that_fails_a_write_leaves_before_it_is_acknowledged(
    shards: list[Shard], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_writes, "LAGGARD_S", 0.2)

    async def scenario() -> None:
        written = Written(shards, [0, 1, 2])
        await written.write(upsert("one"))
        bad = written.links[1]
        if fault == "fails":
            bad.error = StorageFull("no room")
        else:
            bad.running.clear()
        writing = asyncio.ensure_future(written.write(upsert("two")))
        while not written.placed.behind:
            await asyncio.sleep(0.01)
        assert set(written.placed.behind) == {(0, "node-1")}
        await asyncio.sleep(0.3)
        assert not writing.done()  # it could be asked of node-1 still
        written.place(1, [0, 1])  # for another reason
        await asyncio.sleep(0.1)
        assert not writing.done()
        bad.error = None
        asked = bad.calls["write"]
        written.place(2, [0, 2])
        assert await writing == [[WriteStatus.UPDATED]]
        assert len(written.placed.behind) == 0
        await written.write(upsert("three"))
        assert bad.calls["write"] == asked
        assert written.held(0, ["a"]) == written.held(2, ["a"]) == ["three"]
        written.place(3, [0, 1, 2])  # whoever places it again has seen to it
        bad.running.set()
        assert await written.write(upsert("four")) == [[WriteStatus.UPDATED]]
        assert written.held(1, ["a"]) == ["four"]

    run(scenario)


def test_what_no_replica_could_write_is_an_error_and_nobody_leaves(shards: list[Shard]) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1])
        for link in written.links:
            link.error = StorageFull("no room")
        with pytest.raises(ShardUnavailable, match="no replica of shard 0 accepts writes"):
            await written.write(upsert("one"))  # not even the newest version was to be had
        for link in written.links:
            link.error = None
        written.place(1, [2])
        written.place(2, [0, 1])
        await written.write(upsert("one"))
        for link in written.links:
            link.error = StorageFull("no room")
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, StorageFull)
        assert found.outcome is RequestOutcome.NOT_DONE
        for link in written.links:
            link.error = ShardUnavailable("it died")
        (found,) = await written.write(upsert("two"))
        assert isinstance(found, ShardUnavailable)
        assert found.outcome is RequestOutcome.UNKNOWN
        assert not written.placed.behind

    run(scenario)


def test_unchanged_is_what_all_replicas_say(shards: list[Shard]) -> None:
    """One copy that lags must not answer for the others."""

    async def scenario() -> None:
        shards[0].write([upsert("one")])
        written = Written(shards, [0, 1])
        assert await written.write(upsert("one")) == [[WriteStatus.CREATED]]
        assert written.held(1, ["a"]) == ["one"]

    run(scenario)


def test_what_may_be_on_one_replica_is_on_all_before_anything_else_is_written(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        written = Written(shards, [0, 1])
        first, second, _ = written.links
        await written.write(Delete(["c"]))
        first.error = ShardUnavailable("it died before")
        second.error_after = ShardUnavailable("it died after")
        (found,) = await written.write(upsert("one"))
        assert isinstance(found, ShardUnavailable)
        assert found.outcome is RequestOutcome.UNKNOWN
        assert (written.held(0, ["a"]), written.held(1, ["a"])) == ([None], ["one"])
        with pytest.raises(ShardUnavailable, match="the outcome of the last write") as raised:
            await written.write(upsert("two", key="b"))
        assert raised.value.outcome is RequestOutcome.NOT_DONE
        first.error = second.error_after = None
        assert await written.write(upsert("two", key="b")) == [[WriteStatus.CREATED]]
        for node in (0, 1):
            assert written.held(node, ["a", "b"]) == ["one", "two"]
        assert shards[0].newest_version == shards[1].newest_version

    run(scenario)


EACH_FAILS = st.lists(st.sampled_from(["", "", "before", "after"]), min_size=3, max_size=3)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
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
        written, epoch, here = Written(shards, [0, 1, 2]), 0, [0, 1, 2]
        for key in "abc":
            await written.write(Delete([key]))
        possible: dict[str, set[str | None]] = {key: {None} for key in "abc"}
        for key, text, faults in steps:
            died = ShardUnavailable("it died")
            for link, fault in zip(written.links, faults, strict=True):
                link.error = died if fault == "before" else None
                link.error_after = died if fault == "after" else None
            operation: Operation = upsert(text, key=key) if text else Delete([key])
            writing = asyncio.ensure_future(written.write(operation))
            while not writing.done():
                await asyncio.sleep(0)
                behind = [node for _, node in written.placed.behind]
                if behind:
                    here = [node for node in here if NODES[node] not in behind]
                    epoch += 1
                    written.place(epoch, here)
            error = writing.exception()
            assert error is None or isinstance(error, BitsiftError), error
            outcome: Outcome = error or (await writing)[0]
            if isinstance(outcome, list):
                possible[key] = {text or None}
                agreed = [written.held(node, list(possible)) for node in here]
                assert agreed == agreed[:1] * len(here)
            elif outcome.outcome is RequestOutcome.UNKNOWN:
                possible[key] = possible[key] | {text or None}
            for node in here:
                for one, held in zip(possible, written.held(node, list(possible)), strict=True):
                    assert held in possible[one]

    run(scenario)


def make_service(written: Written) -> WriteService:
    calibration = Calibration.from_sample(np.eye(DIMENSION, dtype=np.float32), DIMENSION)
    return make_writer(written.placed.links, calibration)


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
        service.switch([LocalLink(shard) for shard in new])
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
