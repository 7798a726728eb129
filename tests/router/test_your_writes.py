"""A read with the token of a write sees that write, on any router, whoever is behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from bitsift.errors import InvalidRequest, NotFound, ReplicaBehind, ShardUnavailable, Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.results import Answer
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import Placement, ReplicaAddress, ReplicaTable
from bitsift.router.write.service import WriteService
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardIdentity
from bitsift.write_acks import WriteAcks
from bitsift.write_token import NOTHING, Reached, WriteToken, index_mark, read_token
from tests.fakes import UUID, HashEncoder, make_description
from tests.replicas import FaultyLink, make_replicas

DIMENSION = 64
SHARDS = 2
LIMIT_S = 60.0
NO_VECTORS = np.empty((0, DIMENSION), dtype=np.float32)
ENCODER = HashEncoder(DIMENSION)


class SlowToWrite(FaultyLink):
    """A real shard that gets no writes while ``behind``; all else goes on."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self.up_to_date = asyncio.Event()
        self.up_to_date.set()
        self.late = 0

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        if not self.up_to_date.is_set():
            self.late += 1
        await self.up_to_date.wait()
        return await super().write(operations, epoch, term)


class Cluster:
    """A writer and two routers, each with links of its own to the replicas of all shards."""

    def __init__(
        self, shards: list[list[Shard]], calibration: Calibration, acks: WriteAcks
    ) -> None:
        self.shards, self.calibration, self.acks = shards, calibration, acks
        self.links = [[SlowToWrite(shard) for shard in replicas] for replicas in shards]
        self.writer = self.new_writer(1)
        self.routers = [self.new_router(1), self.new_router(1)]

    def table(self, epoch: int, index: str = "") -> ReplicaTable:
        of_shards = tuple(
            tuple(ReplicaAddress(f"node-{at}", link) for at, link in enumerate(links))
            for links in self.links
        )
        return ReplicaTable(epoch, of_shards, index, len(self.links[0]))

    def placed(self, epoch: int) -> PlacedShards:
        return PlacedShards(self.table(epoch), lambda _, address: address.actor, self.acks)

    def new_router(self, epoch: int) -> SearchService:
        description = make_description(len(self.links), self.calibration)
        return SearchService(description, FanOut(self.placed(epoch).links), ENCODER)

    def new_writer(self, epoch: int) -> WriteService:
        description = make_description(len(self.links), self.calibration)
        return WriteService(description, self.placed(epoch).links, lambda: ENCODER)

    async def add(self, *texts: str) -> str:
        """Documents, each under its text as the id; the token."""
        documents = [{"id": text, "text": text} for text in texts]
        said = orjson.loads(await self.writer.upsert(orjson.dumps({"documents": documents})))
        assert said["created"] == len(texts), said
        return str(said["token"])

    async def fall_behind(self, text: str) -> tuple[SlowToWrite, SlowToWrite, str]:
        """Write what the first of two replicas does not apply yet: both, and the token."""
        late, other = self.links[self.owner(text)]
        late.up_to_date.clear()
        return late, other, await self.add(text)

    async def ask(self, router: int, text: str, token: str | None, **options: Any) -> Answer:
        given: dict[str, Any] = {"top_k": 1, "timeout_ms": 30_000, **options}
        return await self.routers[router].search(
            SearchOptions(text, read_your_writes=token, **given)
        )

    async def finds(self, router: int, text: str, token: str | None, **options: Any) -> bool:
        answer = await self.ask(router, text, token, **options)
        assert not answer.partial, answer.coverage
        return [hit.id for hit in answer.hits] == [text]

    def owner(self, text: str) -> int:
        return Placement(len(self.links)).owners(text)[0]


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def run(
    opened: contextlib.ExitStack,
    folder: Path,
    scenario: Callable[[Cluster], Awaitable[None]],
    replicas: int = 2,
    acks: WriteAcks = WriteAcks.MAJORITY,
    shards: int = SHARDS,
) -> None:
    made = make_replicas(opened, folder, NO_VECTORS, DIMENSION, shards, replicas)
    calibration = Calibration.from_sample(ENCODER.encode_queries(["nothing"]), DIMENSION)

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario(Cluster(made, calibration, acks))

    asyncio.run(limited())


@pytest.mark.parametrize("mode", [Mode.EXACT, Mode.EXHAUSTIVE])
def test_a_replica_that_is_behind_does_not_answer_a_search_with_the_token(
    tmp_path: Path, opened: contextlib.ExitStack, mode: Mode
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.add("first")
        late, _, token = await cluster.fall_behind("second")
        assert late.late
        answers = [await cluster.finds(0, "second", None, mode=mode) for _ in range(30)]
        assert set(answers) == {True, False}  # so the one that is behind is asked
        for turn in range(60):
            assert await cluster.finds(turn % 2, "second", token, mode=mode)
        late.up_to_date.set()

    run(opened, tmp_path, scenario, acks=WriteAcks.ONE)


def test_a_search_waits_for_the_write_within_its_time(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        late, other, token = await cluster.fall_behind("second")
        other.error = Unavailable("its process died")
        asked = asyncio.ensure_future(cluster.ask(1, "second", token))
        while late.calls["search"] < 3:  # it is asked again and again
            await asyncio.sleep(0.01)
        assert not asked.done()
        late.up_to_date.set()
        answer = await asked
        assert not answer.partial
        assert answer.hits[0].id == "second"

    run(opened, tmp_path, scenario, acks=WriteAcks.ONE)


def test_an_answer_without_the_write_says_so(tmp_path: Path, opened: contextlib.ExitStack) -> None:
    async def scenario(cluster: Cluster) -> None:
        late, other, token = await cluster.fall_behind("second")
        shard = cluster.owner("second")
        other.error = Unavailable("its process died")
        answer = await cluster.ask(0, "second", token, timeout_ms=300)
        assert answer.partial
        (failure,) = answer.coverage.failures
        assert (failure.shard, failure.error) == (shard, "ReplicaBehind")
        assert "has not applied the write that read_your_writes is of" in failure.message
        assert "its process died" in failure.message
        with pytest.raises(ShardUnavailable, match="has not applied"):
            await cluster.ask(0, "second", token, timeout_ms=300, require_complete=True)
        late.up_to_date.set()

    run(opened, tmp_path, scenario, acks=WriteAcks.ONE)


def test_queries_without_a_token_do_not_wait_with_those_that_have_one(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.add("first")
        late, other, token = await cluster.fall_behind("second")
        other.error = Unavailable("its process died")
        waiting = [asyncio.ensure_future(cluster.ask(0, "second", token)) for _ in range(20)]
        for _ in range(20):
            assert await cluster.finds(0, "first", None)
        assert not any(task.done() for task in waiting)
        late.up_to_date.set()
        assert [(await task).hits[0].id for task in waiting] == ["second"] * 20

    run(opened, tmp_path, scenario, acks=WriteAcks.ONE)


def test_a_frozen_replica_costs_a_search_with_a_token_no_answer(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        token = await cluster.add("one", "two", "three")
        for links in cluster.links:
            links[1].running.clear()
        for text in ("one", "two", "three") * 3:
            assert await cluster.finds(0, text, token)

    run(opened, tmp_path, scenario)


def test_a_get_with_the_token_waits_for_the_write_too(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    """With ``write_acks`` all, any replica is asked: one that restarts may have an older state."""

    async def scenario(cluster: Cluster) -> None:
        (only,) = cluster.links[0]
        token = await cluster.add("first")
        assert read_token(token).reached == {0: Reached(1)}
        later = WriteToken(index_mark(UUID), {0: Reached(2)}).text()
        with pytest.raises(ReplicaBehind, match="has not applied"):
            await cluster.routers[0].document("first", 0.5, later)
        assert only.calls["stored"] > 2
        document = await cluster.routers[0].document("first", 5.0, token)
        assert document.text == "first"
        asked = asyncio.ensure_future(cluster.routers[1].document("none", 20.0, later))
        await asyncio.sleep(0.1)
        assert not asked.done()
        cluster.writer = cluster.new_writer(2)
        await cluster.add("second", "third")
        with pytest.raises(NotFound):
            await asked

    run(opened, tmp_path, scenario, replicas=1, shards=1)


def test_of_several_replicas_a_get_sees_the_write(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        late = cluster.links[cluster.owner("second")][2]
        late.up_to_date.clear()
        token = await cluster.add("second")
        for turn in range(20):
            document = await cluster.routers[turn % 2].document("second", 5.0, token)
            assert document.text == "second"
        late.up_to_date.set()

    run(opened, tmp_path, scenario, replicas=3)


def test_a_token_holds_after_restarts_of_router_and_writer_and_under_another_table(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        token = await cluster.add("one", "two", "three")
        cluster.writer = cluster.new_writer(2)
        again = await cluster.add("four")
        cluster.routers = [cluster.new_router(3), cluster.new_router(1)]  # one knows the old table
        for router in (0, 1):
            for text in ("one", "two", "three"):
                assert await cluster.finds(router, text, token)
            assert await cluster.finds(router, "four", again)
        held, later = read_token(token), read_token(again)
        (shard,) = later.reached
        assert later.reached[shard] > held.reached.get(shard, NOTHING)
        assert (held.term, later.term) == (1, 2)

    run(opened, tmp_path, scenario)


def test_what_was_there_already_has_a_token_that_sees_it(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    """An ``unchanged`` document may be missing on a replica that is behind."""

    async def scenario(cluster: Cluster) -> None:
        late = cluster.links[cluster.owner("second")][0]
        late.up_to_date.clear()
        await cluster.add("second")
        body = orjson.dumps({"documents": [{"id": "second", "text": "second"}]})
        said = orjson.loads(await cluster.writer.upsert(body))
        assert said["unchanged"] == 1, said
        for turn in range(30):
            assert await cluster.finds(turn % 2, "second", said["token"])
        gone = orjson.loads(await cluster.writer.delete(orjson.dumps({"ids": ["second"]})))
        for turn in range(30):
            answer = await cluster.ask(turn % 2, "second", gone["token"])
            assert (answer.hits, answer.partial) == ((), False)
        late.up_to_date.set()

    run(opened, tmp_path, scenario, acks=WriteAcks.ONE)


def test_after_a_reshard_a_token_from_before_sees_all_and_a_later_one_waits_for_the_table(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.add("one", "two")
        before = WriteToken(index_mark("the index before"), {0: Reached(0, 1 << 63)}).text()
        with pytest.raises(InvalidRequest, match="another index"):
            await cluster.ask(0, "one", before)
        router = cluster.routers[0]
        router.switch(FanOut(cluster.placed(9).links), UUID)
        before = WriteToken(index_mark("the index before"), {7: Reached(8, 1 << 50)}).text()
        assert await cluster.finds(0, "one", before)
        after = WriteToken(index_mark("the index after"), {0: Reached(10, 1)}).text()
        with pytest.raises(Unavailable, match="epoch 10; this router still has that of epoch 9"):
            await cluster.ask(0, "one", after, timeout_ms=100)
        asked = asyncio.ensure_future(cluster.ask(0, "one", after))
        await asyncio.sleep(0.1)
        assert not asked.done()
        for link in itertools.chain(*cluster.links):
            await link.mended(Reached(10, 1))
        router.switch(FanOut(cluster.placed(10).links), "the index after")
        assert (await asked).hits[0].id == "one"

    run(opened, tmp_path, scenario)


def test_tokens_that_no_writer_gave_are_errors_of_the_caller(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.add("one")
        to_come = (int(time.time() * 1e3) + 400_000) << 16
        forged = {
            "names shard 7, but there are 2": {7: Reached(1, 1)},
            "of a write 4.. s from now": {0: Reached(1, to_come)},
        }
        for said, reached in forged.items():
            token = WriteToken(index_mark(UUID), reached).text()
            with pytest.raises(InvalidRequest, match=said):
                await cluster.ask(0, "one", token)
            with pytest.raises(InvalidRequest, match=said):
                await cluster.routers[0].document("one", 1.0, token)

    run(opened, tmp_path, scenario)


def test_a_token_is_true_where_there_is_one_copy_and_after_it_was_opened_again(
    tmp_path: Path, opened: contextlib.ExitStack
) -> None:
    async def scenario(cluster: Cluster) -> None:
        token = await cluster.add("one", "two", "three")
        for text in ("one", "two", "three"):
            assert await cluster.finds(0, text, token)
        for number, links in enumerate(cluster.links):
            (shard,) = cluster.shards[number]
            shard.close()
            identity = ShardIdentity(UUID, number, SHARDS, DIMENSION, cluster.calibration.width)
            again = Shard(shard.folder, cluster.calibration, identity)
            opened.callback(again.close)
            links[0] = SlowToWrite(again)
        cluster.routers[0] = cluster.new_router(2)
        for text in ("one", "two", "three"):
            assert await cluster.finds(0, text, token)

    run(opened, tmp_path, scenario, replicas=1)
