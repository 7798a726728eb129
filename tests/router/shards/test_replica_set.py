"""Replicas answer for one another: real shards, and faults between them and their callers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.errors import NotFound, ShardUnavailable, Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.results import Answer
from bitsift.router.service import SearchService
from bitsift.router.shards import replica as replica_module
from bitsift.router.shards import replica_set
from bitsift.router.shards.hedging import BURST_MAX, SHARE_MAX
from bitsift.router.shards.latencies import MEASURED_MIN
from bitsift.router.shards.race import ASKED_MAX
from bitsift.router.shards.replica import PING_S, SILENCE_MIN_S, Replica
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Candidates, Origin, Query, ShardStatus
from tests.fakes import make_service
from tests.replicas import FaultyLink, make_replicas

DIMENSION = 64
ROWS = 300
SHARDS, REPLICAS = 2, 2
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[Shard]]]:
    with contextlib.ExitStack() as opened:
        folder = tmp_path_factory.mktemp("replicas")
        yield make_replicas(opened, folder, units(), DIMENSION, SHARDS, REPLICAS)


def units() -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    return normalize(rows, DIMENSION)


class Cluster:
    """A service over replicas: ``links[shard][replica]``."""

    def __init__(self, shards: list[list[Shard]]) -> None:
        self.links = [[FaultyLink(shard) for shard in replicas] for replicas in shards]
        self.replicas = [
            [Replica(shard, f"node-{place}", link) for place, link in enumerate(links)]
            for shard, links in enumerate(self.links)
        ]
        self.sets = [ReplicaSet(shard, members) for shard, members in enumerate(self.replicas)]
        self.service: SearchService = make_service(
            self.sets, Calibration.from_sample(units(), DIMENSION)
        )

    async def ask(self, row: int, **options: Any) -> Answer:
        given: dict[str, Any] = {"top_k": 1, "timeout_ms": 60_000, **options}
        return await self.service.search(SearchOptions(vector=units()[row], **given))

    async def ask_whole(self, row: int, **options: Any) -> None:
        answer = await self.ask(row, **options)
        assert not answer.partial, answer.coverage
        assert answer.hits[0].id == str(row)

    async def under_load(self, seconds: float, per_s: float = 50.0) -> int:
        """Ask at this rate, whatever the answers take; all must be whole. Returns how many."""
        asked = []
        for number in range(int(seconds * per_s)):
            asked.append(asyncio.ensure_future(self.ask_whole(number % ROWS)))
            await asyncio.sleep(1 / per_s)
        await asyncio.gather(*asked)
        return len(asked)

    @property
    def hedges(self) -> int:
        return sum(replica.hedges for members in self.replicas for replica in members)


def run(shards: list[list[Shard]], scenario: Callable[[Cluster], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario(Cluster(shards))

    asyncio.run(limited())


def test_both_replicas_work(shards: list[list[Shard]]) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.under_load(1.0)
        for links in cluster.links:
            assert all(link.calls["search"] > 5 for link in links), [it.calls for it in links]

    run(shards, scenario)


def test_a_replica_that_freezes_costs_no_answer_and_is_back_when_it_goes_on(
    shards: list[list[Shard]],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        frozen, breaker = cluster.links[0][0], cluster.replicas[0][0].breaker
        calls = await cluster.under_load(1.0)
        frozen.running.clear()
        calls += await cluster.under_load(3.0)
        assert breaker.state != "closed"
        state = (await cluster.service.shards.states(0.1))[0]
        assert state.status.state == "READY"
        assert [it.state for it in state.replicas] == ["UNREACHABLE", "READY"]
        asked = frozen.calls["search"]
        calls += await cluster.under_load(0.5)
        assert frozen.calls["search"] == asked
        frozen.running.set()
        while breaker.is_open:
            calls += await cluster.under_load(0.2)
        calls += await cluster.under_load(1.0)
        assert frozen.calls["search"] > asked
        assert cluster.hedges <= SHARDS * (BURST_MAX + SHARE_MAX * calls)

    run(shards, scenario)


def test_a_replica_that_dies_costs_no_answer_and_is_tried_again(
    shards: list[list[Shard]],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        dead, other = cluster.links[1]
        await cluster.under_load(0.5)
        dead.error = ShardUnavailable("shard 1 on node-0 cannot be reached (it died)")
        before = dead.calls["search"]
        calls = await cluster.under_load(2.0)
        tried = dead.calls["search"] - before
        assert 1 <= tried <= calls / 10  # about once a second, not by every query
        assert cluster.replicas[1][1].retries
        dead.error = None
        while dead.calls["search"] < before + tried + 10:
            await cluster.under_load(0.2)
        assert other.calls["search"]

    run(shards, scenario)


def test_a_slow_replica_is_hedged_within_the_budget_and_then_left_in_peace(
    shards: list[list[Shard]],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        slow = cluster.links[0][0]
        await cluster.under_load(1.0)
        slow.delay_s = 0.3
        before = slow.calls["search"]
        calls = await cluster.under_load(2.0)
        assert cluster.hedges
        assert cluster.hedges <= SHARDS * (BURST_MAX + SHARE_MAX * (calls + 50))
        assert slow.calls["search"] - before < calls / 5
        assert slow.cancelled  # whoever came second was told that nobody waits

    run(shards, scenario)


def test_a_search_that_is_much_too_late_is_answered_by_another_before_it_fails(
    shards: list[list[Shard]],
) -> None:
    """Without any token left a silent replica is given up when its breaker opens."""

    async def scenario(cluster: Cluster) -> None:
        for members in cluster.sets:
            while members._budget.spend(much_too_late=True):
                pass
        for links in cluster.links:
            links[0].running.clear()
        await asyncio.gather(*(cluster.ask_whole(row) for row in range(20)))
        assert cluster.hedges == 0

    run(shards, scenario)


def test_exhaustive_goes_to_another_where_one_cannot_be_reached(
    shards: list[list[Shard]],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for links in cluster.links:
            links[0].error = ShardUnavailable("gone")
        for row in range(8):
            await cluster.ask_whole(row, mode=Mode.EXHAUSTIVE)

    run(shards, scenario)


def test_exhaustive_is_hedged_within_its_own_budget_and_slowness_opens_no_breaker(
    shards: list[list[Shard]],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for links, members in zip(cluster.links, cluster.replicas, strict=True):
            links[0].delay_s = 2 * (SILENCE_MIN_S + PING_S)
            links[0].slow_only = True
            for _ in range(MEASURED_MIN):
                members[1].exhaustive.add(0.005)
        for row in range(40):
            await cluster.ask_whole(row, mode=Mode.EXHAUSTIVE)
        assert 0 < cluster.hedges <= SHARDS * (BURST_MAX + SHARE_MAX * 40)
        await asyncio.sleep(2 * (SILENCE_MIN_S + PING_S))
        assert all(links[0].calls["status"] for links in cluster.links)  # pings
        breakers = {it.breaker.state for members in cluster.replicas for it in members}
        assert breakers == {"closed"}

    run(shards, scenario)


def test_exhaustive_queries_that_a_frozen_replica_has_are_answered_by_another(
    shards: list[list[Shard]],
) -> None:
    """Nothing else is asked, and no hedge is left: the replica is pinged, and answers nothing."""

    async def scenario(cluster: Cluster) -> None:
        for replicas in cluster.sets:
            while replicas._slow_budget.spend(much_too_late=True):
                pass
        for links in cluster.links:
            links[0].running.clear()
        asks = [
            cluster.ask_whole(row, mode=Mode.EXHAUSTIVE, timeout_ms=10_000) for row in range(20)
        ]
        await asyncio.gather(*asks)
        for links, members in zip(cluster.links, cluster.replicas, strict=True):
            assert members[0].breaker.is_open or not links[0].calls["search"]
            links[0].running.set()
            while members[0].breaker.is_open:
                await cluster.ask_whole(0, mode=Mode.EXHAUSTIVE)
                await asyncio.sleep(0.2)
        assert any(links[0].calls["search"] for links in cluster.links)
        assert cluster.hedges == 0

    run(shards, scenario)


def test_an_exhaustive_query_is_hedged_after_a_share_of_its_time(
    shards: list[list[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first ping is given up: with little time, that would be too late."""
    monkeypatch.setattr(replica_module, "PING_S", 60.0)  # on a busy machine both would be late

    async def scenario(cluster: Cluster) -> None:
        for links in cluster.links:
            links[0].running.clear()
        while not cluster.hedges:  # eight share a call of each shard, to a replica by chance
            asks = [
                cluster.ask_whole(row, mode=Mode.EXHAUSTIVE, timeout_ms=4_000) for row in range(8)
            ]
            await asyncio.gather(*asks)

    run(shards, scenario)


def test_documents_are_asked_of_the_replica_that_answered(shards: list[list[Shard]]) -> None:
    async def scenario(cluster: Cluster) -> None:
        for row in range(40):  # an offset: no documents come along with the candidates
            answer = await cluster.ask(row, offset=1, top_k=5)
            assert not answer.partial, answer.coverage
            assert len(answer.hits) == 5
        for links in cluster.links:
            assert all(link.calls["documents"] for link in links)

    run(shards, scenario)


@pytest.mark.parametrize("fault", ["dies", "freezes", "leaves"])
def test_a_replica_that_goes_between_candidates_and_documents_costs_no_answer(
    shards: list[list[Shard]], fault: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        lost = cluster.links[0][0]
        searched = lost.search

        async def search(*arguments: Any) -> Any:
            found = await searched(*arguments)
            if fault == "dies":
                lost.error = Unavailable("it died")
            elif fault == "freezes":
                lost.running.clear()
            else:
                cluster.sets[0].place(cluster.replicas[0][1:])
            return found

        lost.search = search  # type: ignore[method-assign, assignment]
        for row in range(20):
            answer = await cluster.ask(row, offset=1, top_k=5)
            assert not answer.partial, answer.coverage
        assert lost.error or not lost.running.is_set() or fault == "leaves"
        assert lost.calls["search"], "the fault never came"

    run(shards, scenario)


def test_a_partial_answer_names_the_replicas_that_failed_and_why(
    shards: list[list[Shard]],
) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.links[1][0].error = ShardUnavailable("its disk is gone")
        cluster.links[1][1].error = ShardUnavailable("its process died")
        answer = await cluster.ask(0)
        (failure,) = answer.coverage.failures
        assert (answer.coverage.answered, failure.shard) == (1, 1)
        assert failure.error == "ShardUnavailable"
        assert failure.message.startswith("no replica of shard 1 answered (node-")
        assert "node-0: its disk is gone" in failure.message
        assert "node-1: its process died" in failure.message

        for link in cluster.links[0]:
            link.running.clear()
        with pytest.raises(ShardUnavailable, match=r"node-0: no answer for .* node-1: no answer"):
            await cluster.ask(0, timeout_ms=300)

    run(shards, scenario)


def test_a_document_is_read_from_whoever_can_be_reached(shards: list[list[Shard]]) -> None:
    async def scenario(cluster: Cluster) -> None:
        for links in cluster.links:
            links[0].error = ShardUnavailable("gone")
        for row in range(20):
            _, document = await cluster.service.shards.document(str(row), 60.0)
            assert document.id == str(row)
        with pytest.raises(NotFound):
            await cluster.service.shards.document("none", 60.0)

    run(shards, scenario)


def test_what_kills_a_replica_is_not_sent_to_all_of_them() -> None:
    async def scenario() -> None:
        links = [ScriptedLink(number, ["fail"]) for number in range(5)]
        members = [Replica(0, f"node-{link.number}", link) for link in links]  # type: ignore[arg-type]
        with pytest.raises(ShardUnavailable, match="no replica of shard 0 answered"):
            await ReplicaSet(0, members).search([query()], 30.0)
        assert sum(link.asked for link in links) == ASKED_MAX

    asyncio.run(scenario())


def test_rows_of_a_copy_that_is_forgotten_are_searched_again(
    shards: list[list[Shard]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_set, "ORIGINS_MAX", 0)

    async def scenario(cluster: Cluster) -> None:
        answer = await cluster.ask(0, offset=1, top_k=5)
        said = {failure.message for failure in answer.coverage.failures}
        assert said == {
            f"shard {shard}: the replica that answered is not known: search again"
            for shard in (0, 1)
        }
        assert sum(link.calls["search"] for links in cluster.links for link in links) == 2 * SHARDS

    run(shards, scenario)


def query() -> Query:
    options = SearchOptions(vector=np.ones(8, np.float32))
    return Query(options, deadline=Deadline.after(30.0))


class ScriptedLink:
    """A replica whose searches do, one after the other, what ``script`` says; then they answer."""

    def __init__(self, number: int, script: list[str]) -> None:
        self.number = number
        self.script = list(script)
        self.asked = 0

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        self.asked += 1
        step = self.script.pop(0) if self.script else "answer"
        if step == "hang":
            await asyncio.Event().wait()
        await asyncio.sleep(0.02 if step == "late" else 0)
        if step == "fail":
            raise ShardUnavailable(f"node-{self.number} is gone")
        none = np.empty(0, np.int32)
        scores, rows = none.astype(np.float32), none.astype(np.int64)
        codes, origin = np.empty((0, 8), np.int8), Origin(self.number + 1, 0)
        return [
            Candidates(0, origin, rows, none, none, scores, scores, codes, corrupt=1 + place)
            for place in range(len(queries))
        ]

    async def status(self) -> ShardStatus:
        return ShardStatus(0, "READY")


STEPS = st.lists(st.sampled_from(["answer", "late", "fail", "hang"]), max_size=6)


@settings(max_examples=40)
@given(scripts=st.lists(STEPS, min_size=2, max_size=4), calls=st.integers(1, 12), data=st.data())
def test_every_call_has_one_answer_while_one_replica_answers_whatever_the_others_do(
    scripts: list[list[str]], calls: int, data: st.DataObject
) -> None:
    good = ScriptedLink(0, [])
    others = [ScriptedLink(1 + number, script) for number, script in enumerate(scripts[:2])]
    members = [Replica(0, f"node-{link.number}", link) for link in (good, *others)]  # type: ignore[arg-type]
    shard = ReplicaSet(0, members)
    tables = data.draw(st.lists(st.sets(st.sampled_from([1, 2])), max_size=calls))

    async def call(size: int) -> None:
        queries = [query() for _ in range(size)]
        found = await shard.search(queries, 30.0)
        assert [it.corrupt for it in found if isinstance(it, Candidates)] == list(
            range(1, size + 1)
        )

    async def scenario() -> None:
        async with asyncio.timeout(LIMIT_S):
            asked = []
            for number in range(calls):
                asked.append(asyncio.ensure_future(call(1 + number % 3)))
                await asyncio.sleep(0.001)
                if number < len(tables):
                    shard.place([members[0], *(members[at] for at in sorted(tables[number]))])
            await asyncio.gather(*asked)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replica_module, "SILENCE_MIN_S", 0.05)
        asyncio.run(scenario())
    made = sum(link.asked for link in (good, *others))
    hedges, retries = (sum(getattr(it, kind) for it in members) for kind in ("hedges", "retries"))
    assert hedges <= BURST_MAX + SHARE_MAX * calls
    assert made <= calls + hedges + retries  # no call is made for another reason
