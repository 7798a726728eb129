"""Two shards of two replicas on a real Ray cluster: one is killed or frozen under 50 queries a
second, and every answer is whole and right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import ray

from bitsift.client import Client
from bitsift.cluster.serving.launch import _start, end_actors, failing_over, stop_shards, wait_open
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.errors import ShardUnavailable
from bitsift.options import SearchOptions
from bitsift.router.actor import RouterActor
from bitsift.router.shards.placement import Placement, ReplicaAddress, ReplicaTable
from bitsift.router.shards.remote import RemoteLink
from bitsift.router.write.writer import WriterActor
from bitsift.shard_worker.actor import ShardActor
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.layout import store_folder
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.types import Candidates, Query, ShardIdentity, ShardSettings
from bitsift.shard_worker.wire.write import pack_writes
from bitsift.write_token import Reached, WriteToken, index_mark, read_token
from tests.commands import COMMAND, wait_until
from tests.damage import flip
from tests.fakes import UUID, make_description
from tests.replicas import copy_replicas

DIMENSION, ROWS = 64, 1_000
SHARDS, REPLICAS = 2, 2
PER_S = 50.0


class Running(NamedTuple):
    folder: Path
    url: str
    router: Any
    writer: Any
    table: ReplicaTable


def units() -> np.ndarray:
    rows = np.random.default_rng(2).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    return normalize(rows, DIMENSION)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("on-ray")
    calibration = copy_replicas(folder, units(), DIMENSION, SHARDS, REPLICAS)
    with ray_cluster(None):
        shards = []
        for number in range(SHARDS):
            identity = ShardIdentity(UUID, number, SHARDS, DIMENSION, calibration.width)
            addresses = []
            for copy in range(REPLICAS):
                path = str(folder / str(copy) / f"shard-{number:05d}")
                node = f"node-{copy}"
                actor = _start(
                    ShardActor, f"{UUID}/shard-{number:05d}/{node}", path, calibration.to_json(),
                    identity, ShardSettings(), 0,
                )  # fmt: skip
                addresses.append(ReplicaAddress(node, actor))
            shards.append(tuple(addresses))
        table = ReplicaTable(1, tuple(shards))
        actors = [address.actor for of_shard in shards for address in of_shard]
        wait_open(actors)
        described = make_description(SHARDS, calibration, has_model=False)
        options = {"max_concurrency": 100, **failing_over()}
        writer = _start(WriterActor, None, described, table, None, **options)
        router = _start(RouterActor, None, described, table, writer, None, **options)
        url, _ = ray.get(router.listen.remote("127.0.0.1", 0))
        try:
            yield Running(folder, url, router, writer, table)
        finally:
            end_actors([router, writer])
            stop_shards(actors)


class Load:
    """Queries at a steady rate, each for a row that is there; ``took_s`` of each."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._rows = units()
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> list[float]:
        tasks = []
        for number in range(int(seconds * PER_S)):
            tasks.append(asyncio.ensure_future(self._ask(number * 7 % ROWS)))
            await asyncio.sleep(1 / PER_S)
        return list(await asyncio.gather(*tasks))

    async def _ask(self, row: int) -> float:
        body = {"vector": self._rows[row].tolist(), "top_k": 1, "include": ["title"]}
        started = time.monotonic()
        answer = await self._client.post("/v1/search", json=body)
        took_s = time.monotonic() - started
        found = answer.json()
        if not answer.is_success or found["partial"] or found["hits"][0]["id"] != str(row):
            self.wrong.append(answer.text[:500])
        return took_s


async def replicas_of(client: httpx.AsyncClient, shard: int) -> list[dict[str, Any]]:
    cluster = (await client.get("/v1/cluster")).json()
    return list(cluster["shards"][shard]["replicas"])


async def until_ready(client: httpx.AsyncClient, load: Load, shard: int) -> list[dict[str, Any]]:
    """The replicas, when each of them is READY and has its breaker closed; under load."""
    end_s = time.monotonic() + 120
    while time.monotonic() < end_s:
        await load.run(0.2)
        found = await replicas_of(client, shard)
        if all(it["state"] == "READY" and it["breaker"] == "closed" for it in found):
            return found
    raise AssertionError(found)


def percentile_ms(seconds: list[float], share: float) -> float:
    return float(np.quantile(seconds, share) * 1e3)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_is_lost_under_load_costs_no_answer(
    running: Running, fault: signal.Signals
) -> None:
    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
            load = Load(client)
            await load.run(2.0)  # warm
            before = await load.run(4.0)
            lost = (await until_ready(client, load, 0))[0]
            os.kill(lost["pid"], fault)
            during = await load.run(4.0)
            if fault is signal.SIGSTOP:
                (frozen, well) = await replicas_of(client, 0)
                assert (frozen["breaker"] == "closed", well["state"]) == (False, "READY"), frozen
                os.kill(lost["pid"], signal.SIGCONT)
            back = (await until_ready(client, load, 0))[0]
            assert (back["pid"] == lost["pid"]) is (fault is signal.SIGSTOP)
            assert load.wrong == []
            print(
                f"{fault.name}: p50/p99 before {percentile_ms(before, 0.5):.1f}/"
                f"{percentile_ms(before, 0.99):.1f} ms, during {percentile_ms(during, 0.5):.1f}/"
                f"{percentile_ms(during, 0.99):.1f} ms, max {max(during) * 1e3:.0f} ms; {back}"
            )

    asyncio.run(scenario())


def test_vectors_and_documents_to_be_like_come_from_the_replicas(running: Running) -> None:
    with Client(running.url) as client:
        stored = client.get("7", include=["vector"])
        assert stored.vector is not None
        np.testing.assert_allclose(np.array(stored.vector), units()[7], atol=0.01)
        found = client.search(like=["7"], keep_liked=True, include=["vector"])
        assert found.hits[0].id == "7"
        assert found.hits[0].vector == stored.vector
        others = client.search(like=["7"], exclude=[found.hits[1].id], group_by="number", top_k=8)
        assert [hit.id for hit in others.hits] == [hit.id for hit in found.hits[2:]]


def test_filters_reach_the_shards_and_what_passes_is_counted_and_listed(running: Running) -> None:
    with Client(running.url) as client:
        found = client.search(vector=units()[7], filter="number < 100", top_k=1_000, explain=True)
        assert {hit.id for hit in found.hits} <= {str(number) for number in range(100)}
        assert found.hits[0].id == "7"
        assert sum(stage.matching for stage in found.filter or ()) == 100
        assert client.count({"number": {"$gte": 990}}) == 10
        listed = [document.id for document in client.documents("number < 100")]
    assert sorted(listed, key=int) == [str(number) for number in range(100)]


def test_tables_change_under_load_and_no_answer_is_lost(running: Running) -> None:
    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
            load = Load(client)
            loading = asyncio.ensure_future(load.run(4.0))
            for turn in range(2, 20):
                one = turn % 2
                shards = tuple(of_shard[one : one + 1] for of_shard in running.table.shards)
                whole = running.table.shards if turn % 3 else shards
                assert await running.router.place.remote(ReplicaTable(turn, whole)) == turn
                await asyncio.sleep(0.15)
            await running.router.place.remote(ReplicaTable(20, running.table.shards))
            await loading
            assert load.wrong == []

    asyncio.run(scenario())


def test_searches_leave_ray_aside_and_find_a_process_that_was_started_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = RemoteLink(0, running.table.shards[0][0].actor, "node-0")
    ask, through_ray = link._ask, list[str]()

    async def counted(method: str, *arguments: Any) -> Any:
        through_ray.append(method)
        return await ask(method, *arguments)

    monkeypatch.setattr(link, "_ask", counted)

    async def search() -> list[int]:
        options = SearchOptions(vector=units()[7], top_k=3)
        (found,) = await link.search([Query(options, 0, Deadline.after(60))], 60)
        assert isinstance(found, Candidates)
        return list(found.rows)

    async def leaving_ray_aside() -> list[int]:
        """What is found as soon as Ray has no part in it."""
        async with asyncio.timeout(120):
            while True:
                through_ray.clear()
                with contextlib.suppress(ShardUnavailable):
                    found = await search()
                    if not through_ray:
                        return found
                await asyncio.sleep(0.05)

    async def scenario() -> None:
        first = await search()
        assert "search" in through_ray
        assert await leaving_ray_aside() == first
        for _ in range(2):
            os.kill((await link.status()).pid, signal.SIGKILL)
            assert await leaving_ray_aside() == first

    asyncio.run(scenario())


def test_the_command_line_shows_the_replicas(running: Running) -> None:
    command = [*COMMAND, "status", "--url", running.url]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    rows = [line.split() for line in said.splitlines() if "node-" in line]
    assert [[cell for cell in row if cell not in "│┃"][:4] for row in rows] == [
        [str(shard), f"node-{copy}", "READY", "closed"]
        for shard in range(SHARDS)
        for copy in range(REPLICAS)
    ], said


def test_the_gateway_compares_the_replicas(running: Running) -> None:
    """Digests are made by the maintenance, so this takes some seconds."""

    async def standings() -> set[tuple[int, str]]:
        async with httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
            found = [await replicas_of(client, shard) for shard in range(SHARDS)]
        return {(it["lag_ms"], it["digest"]) for of_shard in found for it in of_shard}

    assert wait_until(lambda: asyncio.run(standings()) == {(0, "equal")}, 60)


async def write(client: httpx.AsyncClient, number: int) -> set[str]:
    """The statuses of eight new documents."""
    ids = [{"id": f"{number}-{key}", "text": "x", "vector": [1.0] * DIMENSION} for key in range(8)]
    answer = await client.post("/v1/documents", json={"documents": ids})
    answer.raise_for_status()
    return {it["status"] for it in answer.json()["results"]}


def test_a_replica_that_is_frozen_leaves_before_a_write_is_acknowledged(running: Running) -> None:
    """The table without it is placed here as a controller does."""

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
            load = Load(client)
            lost = (await until_ready(client, load, 0))[0]
            assert await write(client, 2) == {"created"}
            os.kill(lost["pid"], signal.SIGSTOP)
            try:
                writing = asyncio.ensure_future(write(client, 3))
                behind: list[tuple[int, str]] = []
                while not behind:
                    missed = (await running.writer.report.remote()).missed
                    behind = [place for place, it in missed.items() if it.behind is not None]
                    assert not writing.done()
                    await asyncio.sleep(0.02)
                assert behind == [(0, lost["node"])]
                first, second = running.table.shards
                less = tuple(it for it in first if it.node != lost["node"])
                for actor in (running.router, running.writer):
                    await actor.place.remote(ReplicaTable(21, (less, second)))
                assert await writing == {"created"}
                assert await write(client, 4) == {"created"}
                (left,) = (await running.writer.report.remote()).missed.values()
                assert left.behind is None
                assert left.documents > 0
            finally:
                os.kill(lost["pid"], signal.SIGCONT)

    asyncio.run(scenario())


def test_a_search_with_a_token_sees_the_write_whichever_replica_is_frozen_or_behind(
    running: Running,
) -> None:
    """One is frozen; then a write reaches one alone, and the other, which is well, lacks it."""

    async def seen(client: httpx.AsyncClient, token: str | None, **options: Any) -> dict[str, Any]:
        body = {"vector": [-1.0] * DIMENSION, "top_k": 1, "read_your_writes": token, **options}
        answer = await client.post("/v1/search", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def found(client: httpx.AsyncClient, token: str | None) -> set[str]:
        answers = [await seen(client, token) for _ in range(40)]
        assert not (partial := [it["coverage"] for it in answers if it["partial"]]), partial[:2]
        return {answer["hits"][0]["id"] for answer in answers}

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False) as client:
            table = ReplicaTable(40, running.table.shards)
            for actor in (running.router, running.writer):
                await actor.place.remote(table)
            documents = [{"id": "seen", "text": "x", "vector": [-1.0] * DIMENSION}]
            said = (await client.post("/v1/documents", json={"documents": documents})).json()
            (shard,) = read_token(said["token"]).reached
            for place in range(REPLICAS):
                replica = (await until_ready(client, Load(client), shard))[place]
                os.kill(replica["pid"], signal.SIGSTOP)
                try:
                    assert await found(client, said["token"]) == {"seen"}
                finally:
                    os.kill(replica["pid"], signal.SIGCONT)
            await until_ready(client, Load(client), shard)
            term, version = read_token(said["token"]).reached[shard]
            version += 1
            newer, behind = (address.actor for address in table.shards[shard])
            deletion = pack_writes([Delete(["seen"], version)])
            await newer.write.remote(deletion, 40, term)
            token = WriteToken(index_mark(UUID), {shard: Reached(term, version)}).text()
            assert "seen" in await found(client, None)
            assert "seen" not in await found(client, token)
            to_come = WriteToken(index_mark(UUID), {shard: Reached(term, version + 1)}).text()
            answer = await seen(client, to_come, timeout_ms=300)
            (failure,) = answer["coverage"]["failures"]
            assert (failure["shard"], failure["error"]) == (shard, "ReplicaBehind")
            asked = await client.get("/v1/documents/0", params={"read_your_writes": token[:-2]})
            assert asked.status_code == 422
            await behind.write.remote(deletion, 40, term)
            assert "seen" not in await found(client, None)

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_damaged_replica_is_found_and_mended_while_it_is_served(running: Running) -> None:
    """Bits of its data file are flipped under its process, and rows are taken from another."""

    def command(name: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [*COMMAND, name, "--url", running.url, "--json"],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout or done.stderr)

    def verified() -> dict[str, Any]:
        with Client(running.url, timeout_s=240) as client:
            return client.verify()

    def wrong(report: dict[str, Any]) -> dict[tuple[int, str], tuple[int, int]]:
        return {
            (it["shard"], it["node"]): (it["damaged"], it["lacking"])
            for it in report["replicas"]
            if it["damaged"] or it["lacking"]
        }

    for actor in (running.router, running.writer):
        ray.get(actor.place.remote(ReplicaTable(50, running.table.shards)))
    assert command("repair")[0] == 0  # of what the tests before have left different
    assert wrong(verified()) == {}
    calibration = Calibration.from_sample(units(), DIMENSION)
    mine = Placement(SHARDS).by_owner([str(row) for row in range(ROWS)])[1].tolist()[:5]
    file = store_folder(running.folder / "1" / "shard-00001") / DATA_FILE
    for code in calibration.quantize(units())[0][mine]:
        flip(file, code.tobytes())
    taken = running.table.shards[0][0].actor
    assert ray.get(taken.bury.remote(0, [3, 4, 5, 6], 50)) == 4
    status, report = command("verify")
    assert status == 1
    assert wrong(report) == {(0, "node-0"): (0, 4), (1, "node-1"): (5, 0)}
    status, report = command("repair")
    assert (status, wrong(report)) == (0, {}), report
    assert {it["node"]: it["mended"] for it in report["replicas"] if it["mended"]} == {
        "node-0": 4, "node-1": 5,
    }  # fmt: skip
    assert verified()["is_sound"]
