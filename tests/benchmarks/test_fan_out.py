"""The simulated fan-out: its answers are exact, its times repeat, two levels answer as one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fan_out import middle_times, middles_of
from benchmarks.simulated_cluster import Cluster, Measured, ask, hedged, service_over
from benchmarks.simulated_loop import simulate
from benchmarks.simulated_shards import CallCost, Traffic
from benchmarks.two_levels import MiddleRouter
from bitsift.options import SearchOptions
from bitsift.results import Hit
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.remote import RemoteLink

SAMPLES = {
    "search_1": np.linspace(0.004, 0.012, 50),
    **{f"search_{n}": np.linspace(0.01, 0.02, 50) for n in (4, 16, 64)},
    "documents": np.array([0.001, 0.002]),
    "ping": np.array([0.0005]),
}
FREE = CallCost()


def small(shards: int, seed: int = 1, rows: int = 7) -> Cluster:
    return Cluster(shards, SAMPLES, FREE, seed=seed, rows=rows, dimension=32)


def one_router(cluster: Cluster) -> SearchService:
    return service_over(FanOut(cluster.links(Traffic())), cluster.dimension)


def two_routers(cluster: Cluster, middles: int) -> SearchService:
    """Over middle routers, each of which has a part of the shards of ``cluster``."""
    links = cluster.links(Traffic())
    groups = [range(n, len(links), middles) for n in range(middles)]
    above = [
        RemoteLink(
            n, MiddleRouter(n, FanOut([links[it] for it in group]), group, cluster.dimension)
        )
        for n, group in enumerate(groups)
    ]
    return service_over(FanOut(above), cluster.dimension)


def hits_of(service: SearchService, vector: np.ndarray, top_k: int) -> tuple[Hit, ...]:
    async def main() -> tuple[Hit, ...]:
        options = SearchOptions(vector=vector, top_k=top_k)
        answer = await service.search(options)
        assert not answer.partial, answer.coverage
        return answer.hits

    return simulate(main())


def brute_force(cluster: Cluster, vector: np.ndarray, top_k: int) -> list[tuple[str, float]]:
    unit = vector / np.linalg.norm(vector)
    scores = cluster.vectors() @ unit
    best = np.argsort(-scores, axis=None)[:top_k]
    places = zip(*np.unravel_index(best, scores.shape), strict=True)
    return [(f"{shard}-{row}", float(scores[shard, row])) for shard, row in places]


@settings(max_examples=25, deadline=None)
@given(
    shards=st.integers(1, 40),
    rows=st.integers(1, 60),
    top_k=st.integers(1, 25),
    seed=st.integers(0, 1_000),
    data=st.data(),
)
def test_merged_answers_are_those_of_brute_force_by_one_router_and_by_two(
    shards: int, rows: int, top_k: int, seed: int, data: st.DataObject
) -> None:
    cluster = small(shards, seed, rows)
    (vector,) = cluster.questions(1)
    middles = data.draw(st.integers(1, shards))
    expected = brute_force(cluster, vector, top_k)
    for service in (one_router(cluster), two_routers(cluster, middles)):
        hits = hits_of(service, vector, top_k)
        assert [hit.id for hit in hits] == [name for name, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected])


def test_answers_of_hedged_replicas_are_those_of_brute_force() -> None:
    cluster = dataclasses.replace(small(9), replicas=3, join=hedged)
    service = one_router(cluster)
    for vector in cluster.questions(20):
        hits = hits_of(service, vector, 10)
        assert [hit.id for hit in hits] == [name for name, _ in brute_force(cluster, vector, 10)]


def test_a_hedge_overtakes_a_stall_within_its_budget() -> None:
    shards, count = 20, 150
    stalled = np.repeat(SAMPLES["search_1"], 20)
    stalled[-2:] += 5.0  # one call of five hundred
    one = dataclasses.replace(small(shards), samples=SAMPLES | {"search_1": stalled})
    two = dataclasses.replace(one, replicas=2, join=hedged)
    alone, together = (simulate(ask(it, count, warm_up=60)) for it in (one, two))
    assert np.quantile(alone.answers_s, 0.99) > 5.0
    assert np.quantile(together.answers_s, 0.99) < 0.05
    assert alone.traffic.calls < together.traffic.calls < 1.06 * alone.traffic.calls


def test_the_same_seed_gives_the_same_times_and_another_gives_others() -> None:
    runs = [simulate(ask(small(20, seed), 30)) for seed in (1, 1, 2)]
    assert runs[0].answers_s == runs[1].answers_s
    assert runs[0].answers_s != runs[2].answers_s
    assert runs[0].traffic == runs[1].traffic


def test_an_answer_waits_for_its_slowest_shard_and_then_for_its_documents() -> None:
    run = simulate(ask(small(300), 8))
    slowest_s = float(SAMPLES["search_1"].max())
    assert run.answers_s == pytest.approx([slowest_s + 0.002] * 8, abs=0.0015)
    assert run.traffic.calls >= 8 * 301


def test_a_router_that_takes_time_for_each_call_is_late_by_the_sum_of_them() -> None:
    shards, cost_s = 50, 0.01
    costly = dataclasses.replace(small(shards), cost=CallCost(cost_s))
    run = simulate(ask(costly, 3), counts_cpu=True)
    assert min(run.answers_s) > shards * cost_s
    assert run.cpu_s > 3 * shards * cost_s
    assert max(simulate(ask(costly, 3)).answers_s) < 0.02


def test_questions_that_come_together_share_calls() -> None:
    alone, together = simulate(ask(small(10), 64)), simulate(ask(small(10), 64, clients=32))
    assert together.traffic.calls < alone.traffic.calls / 4
    assert together.elapsed_s < alone.elapsed_s / 4


def test_a_middle_router_takes_what_its_shards_take_and_the_call_to_it() -> None:
    measured = Measured(SAMPLES, {1: 0.0}, {1: 0.0, 1_000: 0.0})
    times, cpu_ms = middle_times(measured, 8, 8)
    assert cpu_ms > 0
    assert float(times["search_1"].min()) > 0.0005 + float(SAMPLES["search_1"].min())
    assert float(np.median(times["search_64"])) > float(np.median(times["search_1"]))
    assert float(times["documents"].min()) > 0.0005 + 0.001


def test_what_was_measured_can_be_read_and_is_whole() -> None:
    measured = Measured.read()
    assert {"search_1", "search_4", "search_16", "search_64", "search_loaded"} <= set(
        measured.samples
    )
    assert all((seconds > 0).all() for seconds in measured.samples.values())
    assert 0 < measured.call_cost(30).search_s < measured.call_cost(30).other_s < 0.01
    assert [middles_of(n) for n in (10, 100, 1_000)] == [3, 10, 32]
