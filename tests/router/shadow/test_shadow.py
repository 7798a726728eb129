"""A sample of the searches is asked again, over real shards, and what they missed is known by brute
force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from bitsift.errors import Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.router.service import SearchService
from bitsift.router.shadow import shadow as module
from bitsift.router.shadow.estimates import Estimate
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shadow.shadow import ASKED_AGAIN, WAITING_MAX, Outcome
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION
from tests.fakes import FrozenLink, make_description, make_service, make_shards
from tests.replicas import make_replicas
from tests.writing import written

DIMENSION, ROWS, LOOK_S = 64, 1_200, 0.002
ALL = ShadowSettings(share=1.0, cpu=1.0)
WITHIN_S = 30.0


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", LOOK_S)


def points(rows: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)
    return normalize(found, DIMENSION)


@contextlib.contextmanager
def opened(
    folder: Path, units: np.ndarray, shards: int = 2
) -> Iterator[tuple[list[Shard], Calibration]]:
    made, calibration = make_shards(folder, units, DIMENSION, shards)
    try:
        yield made, calibration
    finally:
        for shard in made:
            shard.close()


def outcomes(service: SearchService) -> dict[str, int]:
    registry: CollectorRegistry = service.metrics.registry
    name = "bitsift_shadow_searches_total"
    counts = {one: registry.get_sample_value(name, {"outcome": one}) for one in Outcome}
    return {one.value: int(count) for one, count in counts.items() if count}


async def until(count: int, service: SearchService) -> dict[str, int]:
    """The outcomes, once there are ``count``."""
    end_s = time.monotonic() + WITHIN_S
    while sum(outcomes(service).values()) < count:
        assert time.monotonic() < end_s, outcomes(service)
        await asyncio.sleep(LOOK_S)
    return outcomes(service)


def only(service: SearchService) -> Estimate:
    (estimate,) = service.shadow.estimates.all()
    return estimate


def true_scores(calibration: Calibration, units: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Of all documents, decoded one by one."""
    codes = calibration.quantize(units)[0].astype(np.float64)
    decoded = calibration.low + (codes + 128) * calibration.step
    return np.asarray(decoded @ vector.astype(np.float64))


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_what_an_approximate_search_misses_is_what_brute_force_says(
    tmp_path: Path, shards: int
) -> None:
    units, queries = points(ROWS), points(15, seed=1)
    with opened(tmp_path, units, shards) as (made, calibration):
        for shard in made:
            shard.train()
        links = [LocalLink(shard) for shard in made]
        service = make_service(links, calibration, ALL)

        async def missing() -> float:
            hits = 0
            for asked, vector in enumerate(queries, 1):
                options = SearchOptions(vector=vector, mode=Mode.APPROXIMATE, nprobe=1)
                found = {hit.id for hit in (await service.search(options)).hits}
                scores = true_scores(calibration, units, vector)
                hits += len(found & {str(row) for row in np.argsort(-scores)[:10]})
                await until(asked, service)
            return hits / (10 * len(queries))

        recall = asyncio.run(missing())
        assert recall < 0.9, "the index misses too little for a test"
        assert outcomes(service) == {"compared": len(queries)}
        estimate = only(service)
        assert (estimate.mode, estimate.plan) == ("approximate", "unfiltered")
        assert estimate.searches == len(queries)
        assert estimate.recall_at_10.mean == pytest.approx(recall)
        assert estimate.recall_at_10.low < recall < estimate.recall_at_10.high
        assert 0 < estimate.rank_biased_overlap.mean < 1


def test_modes_and_ways_of_filters_have_estimates_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path, points(ROWS)) as (made, calibration):
        service = make_service([LocalLink(shard) for shard in made], calibration, ALL)
        asked: list[dict[str, Any]] = [
            {"mode": Mode.EXHAUSTIVE},
            {},
            {"mode": Mode.EXACT, "filter": '{"number":{"$lt":5}}'},
            {"mode": Mode.EXACT, "filter": '{"number":{"$lt":1150}}'},
        ]

        async def ask_all() -> None:
            for options in asked:
                await service.search(SearchOptions(vector=points(1, 2)[0], **options))
            await until(3, service)

        asyncio.run(ask_all())
        kinds = [(one.mode, one.plan) for one in service.shadow.estimates.all()]
        assert kinds == [("auto", "unfiltered"), ("exact", "direct"), ("exact", "scan")]
        assert all(one.recall_at_10.mean >= 0.5 for one in service.shadow.estimates.all())


def upsert(shard: Shard, ids: list[str], codes: np.ndarray) -> None:
    texts, count = ["another text"] * len(ids), len(ids)
    written(shard, Upsert(ids, texts, texts, ["{}"] * count, [LIVE_POSITION] * count, codes))


@pytest.mark.parametrize("what", ["new", "deleted", "replaced"])
def test_writes_in_between_are_no_misses(tmp_path: Path, what: str) -> None:
    units, vector = points(200), points(1, 3)[0]
    with opened(tmp_path, units, 1) as ((shard,), calibration):
        service = make_service([LocalLink(shard)], calibration, ALL)
        near = calibration.quantize(np.repeat(vector[None], 5, axis=0))[0]

        async def ask() -> None:
            answer = await service.search(SearchOptions(vector=vector, candidates=200))
            ids = [hit.id for hit in answer.hits[:5]]
            if what == "new":
                upsert(shard, [f"new {n}" for n in range(5)], near)
            elif what == "deleted":
                written(shard, Delete(ids))
            else:
                upsert(shard, ids, near)
            await until(1, service)

        asyncio.run(ask())
        assert outcomes(service) == {"compared": 1}
        assert only(service).recall_at_10.mean == only(service).rank_biased_overlap.mean == 1


@pytest.mark.slow
def test_a_compaction_in_between_is_no_comparison(tmp_path: Path) -> None:
    with opened(tmp_path, points(200), 1) as ((shard,), calibration):
        service = make_service([LocalLink(shard)], calibration, ALL)

        async def ask() -> None:
            await service.search(SearchOptions(vector=points(1, 3)[0]))
            written(shard, Delete(["1"]))
            assert shard.compact()
            await until(1, service)

        asyncio.run(ask())
        assert outcomes(service) == {"changed": 1}
        assert service.shadow.estimates.all() == []


def test_of_several_replicas_the_one_that_answered_is_asked(tmp_path: Path) -> None:
    units = points(300)
    with contextlib.ExitStack() as stack:
        replicas = make_replicas(stack, tmp_path, units, DIMENSION, 2, 3)
        sets = [
            ReplicaSet(
                number, [Replica(number, f"n{n}", LocalLink(one)) for n, one in enumerate(all_)]
            )
            for number, all_ in enumerate(replicas)
        ]
        description = make_description(2, Calibration.from_sample(units, DIMENSION))
        service = SearchService(description, FanOut(sets), None, shadow=ALL)

        async def ask_all() -> None:
            for seed in range(12):
                await service.search(SearchOptions(vector=points(1, seed)[0]))
                await until(seed + 1, service)

        asyncio.run(ask_all())
        assert outcomes(service) == {"compared": 12}


IN_THE_VECTOR = {"query", "like", "unlike", "keep_liked"}
"""And in the ids that are left out."""
OF_GROUPS = {"group_by", "group_size"}
"""A grouped search is not asked again."""
OF_THE_ANSWER = {
    "top_k", "offset", "min_score", "candidates", "mode", "nprobe", "recall",
    "timeout_ms", "include", "explain", "require_complete", "read_your_writes", "facets",
    "facet_limit", "cursor", "sort", "highlight", "text_characters",
}  # fmt: skip


def test_every_option_that_says_what_is_searched_is_asked_again() -> None:
    """A new option has its place in one of these."""
    assert {field.name for field in fields(SearchOptions)} == {
        *ASKED_AGAIN,
        *IN_THE_VECTOR,
        *OF_GROUPS,
        *OF_THE_ANSWER,
    }


def test_what_a_search_leaves_out_is_no_miss(tmp_path: Path) -> None:
    with opened(tmp_path, points(200)) as (made, calibration):
        service = make_service([LocalLink(shard) for shard in made], calibration, ALL)
        vector = points(1, 3)[0]

        async def ask_twice() -> None:
            first = await service.search(SearchOptions(vector=vector, candidates=200))
            left_out = tuple(hit.id for hit in first.hits[:5])
            await service.search(SearchOptions(vector=vector, candidates=200, exclude=left_out))
            await until(2, service)

        asyncio.run(ask_twice())
        assert outcomes(service) == {"compared": 2}
        assert only(service).recall_at_10.mean == 1


# --- how much, and when -------------------------------------------------------------------------


class SlowLink(LocalLink):
    """A shard whose exhaustive searches wait for ``go``, others for ``ordinary``; notes how many of
    the former are there at once.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self.go, self.ordinary = asyncio.Event(), asyncio.Event()
        self.ordinary.set()
        self.there = self.most = self.asked = 0

    async def search(self, queries: Any, timeout_s: float) -> Any:
        if queries[0].options.mode is not Mode.EXHAUSTIVE:
            await self.ordinary.wait()
            return await super().search(queries, timeout_s)
        self.asked += 1
        self.there += 1
        self.most = max(self.most, self.there)
        try:
            await self.go.wait()
            return await super().search(queries, timeout_s)
        finally:
            self.there -= 1


def with_slow_link(
    folder: Path,
    do: Callable[[SearchService, SlowLink], Awaitable[None]],
    settings: ShadowSettings = ALL,
) -> SearchService:
    with opened(folder, points(200), 1) as ((shard,), calibration):
        link = SlowLink(shard)
        service = make_service([link], calibration, settings)
        asyncio.run(asyncio.wait_for(do(service, link), WITHIN_S))
        return service


async def ask(service: SearchService, **options: Any) -> None:
    await service.search(SearchOptions(vector=points(1, 4)[0], **options))


async def reached(link: SlowLink, count: int = 1) -> None:
    while link.asked < count:
        await asyncio.sleep(LOOK_S)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_so_large_a_share_is_sampled(
    tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", random.Random(5).random)
    searches = 150

    async def ask_all(service: SearchService, link: SlowLink) -> None:
        link.go.set()
        for _ in range(searches):
            await ask(service)
        while service.shadow.is_at_work:
            await asyncio.sleep(LOOK_S)

    settings = ShadowSettings(share=share, cpu=1.0)
    sampled = sum(outcomes(with_slow_link(tmp_path, ask_all, settings)).values())
    deviation = (searches * share * (1 - share)) ** 0.5
    assert abs(sampled - searches * share) <= 3 * deviation


def test_one_is_asked_at_a_time_and_beyond_eight_the_oldest_goes(tmp_path: Path) -> None:
    async def ask_many(service: SearchService, link: SlowLink) -> None:
        await ask(service)
        await reached(link)
        for _ in range(WAITING_MAX + 3):
            await ask(service)
        assert outcomes(service) == {"dropped": 3}
        assert link.asked == 1
        link.go.set()
        await until(3 + 1 + WAITING_MAX, service)
        assert link.most == 1

    found = outcomes(with_slow_link(tmp_path, ask_many))
    assert found == {"dropped": 3, "compared": 1 + WAITING_MAX}


def test_the_rest_after_each_keeps_to_the_budget(tmp_path: Path) -> None:
    took_s, cpu = 0.05, 0.2
    started: list[float] = []

    async def ask_many(service: SearchService, link: SlowLink) -> None:
        began_s = time.monotonic()
        for turn in range(1, 5):
            await ask(service)
            await reached(link, turn)
            started.append(time.monotonic())
            await asyncio.sleep(took_s)
            link.go.set()
            await until(turn, service)
            link.go.clear()
        spent_s = service.metrics.registry.get_sample_value("bitsift_shadow_seconds_total") or 0
        assert spent_s >= 4 * took_s
        before_last_s = 3 * took_s
        assert before_last_s <= cpu * (started[-1] - began_s)

    with_slow_link(tmp_path, ask_many, ShadowSettings(share=1.0, cpu=cpu))
    assert np.diff(started).min() >= took_s / cpu - LOOK_S


def test_a_busy_router_is_waited_for_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)

    async def ask_one(service: SearchService, link: SlowLink) -> None:
        own = asyncio.create_task(ask(service, mode=Mode.EXHAUSTIVE))
        await reached(link)
        await ask(service)
        assert await until(1, service) == {"busy": 1}
        assert link.asked == 1  # the caller's own
        link.go.set()
        await own

    assert with_slow_link(tmp_path, ask_one).shadow.estimates.all() == []


def test_it_ends_at_once_where_a_caller_wants_that_thread(tmp_path: Path) -> None:
    async def ask_one(service: SearchService, link: SlowLink) -> None:
        await ask(service)
        await reached(link)
        own = asyncio.create_task(ask(service, mode=Mode.EXHAUSTIVE))
        assert await until(1, service) == {"busy": 1}
        link.go.set()
        await own

    with_slow_link(tmp_path, ask_one)


def test_it_ends_where_others_have_to_wait(tmp_path: Path) -> None:
    async def ask_one(service: SearchService, link: SlowLink) -> None:
        await ask(service)
        await reached(link)
        link.ordinary.clear()
        asks = [asyncio.create_task(ask(service))]
        await asyncio.sleep(5 * LOOK_S)  # it is under way, so that the next one waits
        assert link.there == 1
        asks.append(asyncio.create_task(ask(service)))
        assert await until(1, service) == {"busy": 1}
        link.ordinary.set()
        link.go.set()
        await asyncio.gather(*asks)

    with_slow_link(tmp_path, ask_one)


def test_one_that_takes_too_long_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)

    async def ask_one(service: SearchService, link: SlowLink) -> None:
        await ask(service)
        assert await until(1, service) == {"late": 1}
        assert link.there == 0
        (replica,) = service.shards.sets[0].replicas
        assert replica.breaker.state == "closed"
        assert replica.is_well
        assert replica.outstanding == 0
        assert replica.exhaustive.quantile(0.5) is None

    with caplog.at_level(logging.DEBUG):
        service = with_slow_link(tmp_path, ask_one)
    assert service.shadow.estimates.all() == []
    failed = service.metrics.registry.get_sample_value(
        "bitsift_searches_total", {"mode": "exhaustive", "outcome": "DeadlineExceeded"}
    )
    assert failed is None


def test_a_shard_that_fails_then_is_no_miss(tmp_path: Path) -> None:
    async def ask_one(service: SearchService, link: SlowLink) -> None:
        async def fail(*_: Any) -> None:
            raise Unavailable("gone")

        await ask(service)
        link.search = fail  # type: ignore[method-assign, assignment]
        assert await until(1, service) == {"failed": 1}

    with_slow_link(tmp_path, ask_one)


def test_grouped_answers_are_not_asked_again(tmp_path: Path) -> None:
    async def ask_one(service: SearchService, link: SlowLink) -> None:
        await ask(service, group_by="number")
        assert not service.shadow.is_at_work

    with_slow_link(tmp_path, ask_one)


def test_partial_answers_are_not_asked_again(tmp_path: Path) -> None:
    with opened(tmp_path, points(200), 2) as ((one, _), calibration):
        service = make_service([LocalLink(one), FrozenLink()], calibration, ALL)

        async def ask_one() -> None:
            await ask(service, timeout_ms=200)
            assert not service.shadow.is_at_work

        asyncio.run(ask_one())


def test_texts_and_vectors_are_neither_logged_nor_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "a text that nobody else may read"

    async def ask_one(service: SearchService, link: SlowLink) -> None:
        await service.search(SearchOptions(secret))
        (waiting,) = service.shadow._waiting
        assert secret not in repr(waiting)
        del waiting
        link.go.set()
        await until(1, service)
        while service.shadow.is_at_work:
            await asyncio.sleep(LOOK_S)
        assert not service.shadow._waiting
        assert secret not in str(service.shadow.facts())

    with caplog.at_level(logging.DEBUG):
        with_slow_link(tmp_path, ask_one)
    assert secret not in caplog.text
