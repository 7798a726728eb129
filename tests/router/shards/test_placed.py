"""Tables of replicas change under running queries, and none of these is lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from bitsift.errors import InvalidRequest
from bitsift.options import Mode, SearchOptions
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import ReplicaAddress, ReplicaTable
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.shard import Shard
from tests.fakes import make_service
from tests.replicas import make_replicas

DIMENSION = 64
ROWS = 400
SHARDS, REPLICAS = 2, 3


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[Shard]]]:
    with contextlib.ExitStack() as opened:
        yield make_replicas(
            opened, tmp_path_factory.mktemp("placed"), units(), DIMENSION, SHARDS, REPLICAS
        )


def units() -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    return normalize(rows, DIMENSION)


def calibration() -> Calibration:
    return Calibration.from_sample(units(), DIMENSION)


def table(epoch: int, replicas: list[list[Shard]], places: list[list[int]]) -> ReplicaTable:
    """The replicas at ``places`` of each shard."""
    return ReplicaTable(
        epoch,
        tuple(
            tuple(ReplicaAddress(f"node-{place}", of_shard[place]) for place in chosen)
            for of_shard, chosen in zip(replicas, places, strict=True)
        ),
    )


def local(shard: int, address: ReplicaAddress) -> LocalLink:
    return LocalLink(address.actor)


def test_no_query_is_lost_while_tables_change(replicas: list[list[Shard]]) -> None:
    placed = PlacedShards(table(0, replicas, [[0], [0]]), local)
    service = make_service(placed.links, calibration())
    rows = units()

    async def ask(number: int) -> None:
        answer = await service.search(
            SearchOptions(vector=rows[number], top_k=1, timeout_ms=60_000)
        )
        assert not answer.partial, answer.coverage
        assert answer.hits[0].id == str(number)

    async def scenario() -> None:
        asked = []
        for turn in range(60):
            asked += [asyncio.ensure_future(ask(number)) for number in range(turn, ROWS, 80)]
            here = [turn % REPLICAS, (turn + 1) % REPLICAS]
            placed.place(table(turn + 1, replicas, [here[: 1 + turn % 2], [turn % REPLICAS]]))
            await asyncio.sleep(0.002)
        await asyncio.gather(*asked)

    asyncio.run(scenario())


def test_what_is_known_of_a_replica_stays_while_it_is_in_the_tables(
    replicas: list[list[Shard]],
) -> None:
    made: list[str] = []

    def connect(shard: int, address: ReplicaAddress) -> LocalLink:
        made.append(f"{shard}/{address.node}")
        return LocalLink(address.actor)

    placed = PlacedShards(table(0, replicas, [[0, 1], [0]]), connect)
    placed.place(table(1, replicas, [[1, 2], [0]]))
    placed.place(table(2, replicas, [[0, 1], [0]]))
    assert made == ["0/node-0", "0/node-1", "1/node-0", "0/node-2", "0/node-0"]


def test_an_older_table_is_refused_and_the_same_changes_nothing(
    replicas: list[list[Shard]],
) -> None:
    placed = PlacedShards(table(5, replicas, [[0], [0]]), local)
    with pytest.raises(InvalidRequest, match="epoch 4 is older than that of epoch 5"):
        placed.place(table(4, replicas, [[1], [1]]))
    assert placed.place(table(5, replicas, [[1], [1]])) == 5
    assert placed.place(table(6, replicas, [[1], [1]])) == 6


def test_a_table_of_another_number_of_shards_is_refused(replicas: list[list[Shard]]) -> None:
    placed = PlacedShards(table(0, replicas, [[0], [0]]), local)
    with pytest.raises(InvalidRequest, match="has 1 shards, but the index has 2"):
        placed.place(ReplicaTable(1, table(1, replicas, [[0], [0]]).shards[:1]))


@pytest.fixture(scope="module")
def resharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[Shard]]]:
    """The same documents in three shards, but for their texts."""
    with contextlib.ExitStack() as opened:
        folder = tmp_path_factory.mktemp("resharded")
        texts = [f"new {number}" for number in range(ROWS)]
        yield make_replicas(opened, folder, units(), DIMENSION, 3, 1, texts)


def test_other_shards_take_over_and_no_answer_is_a_mixture(
    replicas: list[list[Shard]], resharded: list[list[Shard]]
) -> None:
    placed = PlacedShards(table(0, replicas, [[0, 1], [0]]), local)
    service, rows = make_service(placed.links, calibration()), units()
    seen = set()

    async def ask(number: int) -> None:
        options = SearchOptions(
            vector=rows[number], top_k=100, mode=Mode.EXHAUSTIVE, timeout_ms=60_000
        )
        answer = await service.search(options)
        assert not answer.partial, answer.coverage
        assert (len(answer.hits), answer.hits[0].id) == (100, str(number))
        (kind,) = {str(hit.text).split()[0] for hit in answer.hits}
        assert {"text": 2, "new": 3}[kind] == answer.coverage.shards
        seen.add(kind)

    async def scenario() -> None:
        asked = [asyncio.ensure_future(ask(number)) for number in range(8)]
        await asyncio.sleep(0.005)
        new = dataclasses.replace(table(1, resharded, [[0], [0], [0]]), index="new index")
        assert placed.place(new) == 1
        service.switch(FanOut(placed.links), placed.index)
        asked += [asyncio.ensure_future(ask(number)) for number in range(8)]
        await asyncio.gather(*asked)

    asyncio.run(scenario())
    assert seen == {"text", "new"}
    assert (service.description.uuid, service.description.shards) == ("new index", 3)
    with pytest.raises(InvalidRequest, match="is older than that of epoch 1"):
        placed.place(table(0, replicas, [[0], [0]]))


def test_a_shard_without_a_replica_is_named_in_the_answers(replicas: list[list[Shard]]) -> None:
    placed = PlacedShards(table(0, replicas, [[0], []]), local)
    service = make_service(placed.links, calibration())
    answer = asyncio.run(service.search(SearchOptions(vector=units()[0], timeout_ms=60_000)))
    (failure,) = answer.coverage.failures
    assert (answer.coverage.answered, failure.shard) == (1, 1)
    assert failure.message == "shard 1 has no replica at the moment"
