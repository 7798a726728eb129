"""SearchService over real shards, against a brute-force fp32 oracle."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.answer import Answer
from router.fanout import LocalLink
from router.merge import rescore
from router.service import QUERY_CHARACTERS_MAX, Question, SearchService
from shard_worker.codes import normalize
from shard_worker.errors import (
    BitsiftError,
    DeadlineExceeded,
    InvalidRequest,
    ShardUnavailable,
    Unavailable,
)
from shard_worker.shard import Shard
from shard_worker.types import LIVE_POSITION, Candidates, Documents, Mode, Query
from tests.fakes import BrokenLink, FrozenLink, LateTextsLink, make_service, make_shards

DIMENSION = 64


def clustered(rows: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, rows // 20), dimension))
    points = centres[random.integers(0, len(centres), rows)]
    points = points + 0.5 * random.standard_normal((rows, dimension))
    return normalize(points.astype(np.float32), dimension)


@contextlib.contextmanager
def serving(
    folder: Path, units: np.ndarray, shards: int
) -> Iterator[tuple[SearchService, list[Shard]]]:
    opened, calibration = make_shards(folder, units, DIMENSION, shards)
    try:
        links = [LocalLink(shard) for shard in opened]
        yield make_service(links, calibration), opened
    finally:
        for shard in opened:
            shard.close()


def ask(service: SearchService, vector: np.ndarray | None = None, **options) -> Answer:  # type: ignore[no-untyped-def]
    return asyncio.run(service.search(Question(vector=vector, **options)))


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.hits]


@pytest.mark.parametrize(("shards", "floor"), [(1, 0.95), (2, 0.97), (4, 0.98)])
def test_answers_agree_with_brute_force_fp32(tmp_path: Path, shards: int, floor: float) -> None:
    units, queries = clustered(4_000), clustered(60, seed=0)
    queries = normalize(queries + 0.05, DIMENSION)
    with serving(tmp_path, units, shards) as (service, _):
        found = 0
        for query in queries:
            oracle = {str(i) for i in np.argsort(-(units @ query))[:10]}
            found += len(oracle & set(ids(ask(service, query))))
    assert found / (10 * len(queries)) >= floor


def test_exhaustive_answers_are_the_same_for_every_shard_count(tmp_path: Path) -> None:
    units = clustered(500)
    units[100:140] = units[7]  # forty equal documents: ties must not depend on the split
    answers = []
    for shards in (1, 2, 3, 5):
        with serving(tmp_path / str(shards), units, shards) as (service, _):
            asked = [ask(service, units[place], mode=Mode.EXHAUSTIVE) for place in (7, 11, 450)]
            answers.append([[(hit.id, hit.score) for hit in answer.hits] for answer in asked])
    assert all(answer == answers[0] for answer in answers)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 400), st.integers(2, 5), st.integers(0, 10_000))
def test_splitting_an_index_never_lowers_the_score_at_any_rank(
    tmp_path_factory,
    rows: int,
    shards: int,
    seed: int,  # type: ignore[no-untyped-def]
) -> None:
    units = clustered(rows, seed)
    query = clustered(1, seed + 1)[0]
    scores = []
    for count in (1, shards):
        with serving(tmp_path_factory.mktemp("split"), units, count) as (service, _):
            scores.append([hit.score for hit in ask(service, query, top_k=30).hits])
    assert len(scores[0]) == len(scores[1]) == min(rows, 30)
    assert all(split >= whole for whole, split in zip(*scores, strict=True))


def test_the_ranking_does_not_depend_on_the_order_in_which_shards_answer(tmp_path: Path) -> None:
    units = clustered(300)
    with serving(tmp_path, units, 4) as (service, opened):
        query = Query(units[3])
        gathered = [shard.search([query])[0] for shard in opened]
        calibration = service.description.calibration
        first = rescore(calibration, query.vector, gathered)
        for order in itertools.permutations(gathered):
            again = rescore(calibration, query.vector, order)
            np.testing.assert_array_equal(again.rows, first.rows)
            np.testing.assert_array_equal(again.shards, first.shards)
            np.testing.assert_array_equal(again.scores, first.scores)


@pytest.mark.parametrize("rows", [0, 1, 5, 39])
@pytest.mark.parametrize("shards", [1, 3])
def test_top_k_above_the_corpus_returns_the_whole_corpus_once(
    tmp_path: Path, rows: int, shards: int
) -> None:
    units = clustered(rows) if rows else np.empty((0, DIMENSION), np.float32)
    with serving(tmp_path, units, shards) as (service, _):
        answer = ask(service, clustered(1, 5)[0], top_k=100)
    assert sorted(ids(answer), key=int) == [str(i) for i in range(rows)]
    assert answer.coverage.answered == shards
    assert not answer.partial


def test_a_hit_carries_its_document_and_its_way_through_the_funnel(tmp_path: Path) -> None:
    units = clustered(600)
    with serving(tmp_path, units, 2) as (service, _):
        answer = ask(service, units[42], explain=True)
    first = answer.hits[0]
    assert (first.id, first.title, first.text) == ("42", "title 42", "text 42")
    assert first.metadata == {"number": 42}
    assert first.score == pytest.approx(1.0, abs=0.02)
    assert first.explain is not None
    assert first.explain.hamming is not None
    assert first.explain.hamming.rank == 1
    assert [hit.explain.int8.rank for hit in answer.hits if hit.explain] == list(range(1, 11))
    stages = answer.timings_ms
    parts = stages.encode + stages.fan_out + stages.rescore + stages.texts
    assert parts == pytest.approx(stages.total, abs=0.01)


def test_fields_that_are_not_included_are_left_out(tmp_path: Path) -> None:
    with serving(tmp_path, clustered(20), 1) as (service, _):
        hit = ask(service, clustered(1)[0], include=frozenset({"title"})).hits[0]
    assert hit.title is not None
    assert (hit.text, hit.metadata, hit.explain) == (None, None, None)


def test_a_text_gets_the_same_answer_each_time_whoever_asks_beside_it(tmp_path: Path) -> None:
    async def together(service: SearchService) -> list[Answer]:
        texts = [f"question {i % 7}" for i in range(70)]
        return await asyncio.gather(*(service.search(Question(text=t)) for t in texts))

    with serving(tmp_path, clustered(300), 2) as (service, _):
        answers = asyncio.run(together(service))
    for place, answer in enumerate(answers):
        assert ids(answer) == ids(answers[place % 7])


def test_a_broken_shard_is_named_and_the_others_answer(tmp_path: Path) -> None:
    opened, calibration = make_shards(tmp_path, clustered(200), DIMENSION, 2)
    broken = BrokenLink(ShardUnavailable("shard 1 is failed: no disk"))
    service = make_service([LocalLink(opened[0]), broken], calibration)
    answer = ask(service, clustered(1)[0])
    assert broken.calls == 1
    assert answer.partial
    assert (answer.coverage.shards, answer.coverage.answered) == (2, 1)
    (failure,) = answer.coverage.failures
    assert (failure.shard, failure.error) == (1, "ShardUnavailable")
    assert len(answer.hits) == 10
    with pytest.raises(ShardUnavailable, match="1 of 2 shards answered"):
        ask(service, clustered(1)[0], require_complete=True)
    for shard in opened:
        shard.close()


def test_a_frozen_shard_costs_the_deadline_and_is_named(tmp_path: Path) -> None:
    opened, calibration = make_shards(tmp_path, clustered(200), DIMENSION, 2)
    frozen = FrozenLink()
    service = make_service([LocalLink(opened[0]), frozen], calibration)
    answer = ask(service, clustered(1)[0], timeout_s=0.3)
    assert frozen.was_reached
    assert answer.coverage.failures[0].error == "DeadlineExceeded"
    for shard in opened:
        shard.close()


def test_no_shard_at_all_is_an_error_not_an_empty_answer(tmp_path: Path) -> None:
    opened, calibration = make_shards(tmp_path, clustered(20), DIMENSION, 1)
    service = make_service([BrokenLink(ShardUnavailable("gone"))], calibration)
    with pytest.raises(ShardUnavailable, match="0 of 1 shards"):
        ask(service, clustered(1)[0])
    opened[0].close()


def test_unreadable_texts_are_named_not_hidden(tmp_path: Path) -> None:
    opened, calibration = make_shards(tmp_path, clustered(200), DIMENSION, 2)
    links = [LocalLink(opened[0]), LateTextsLink(opened[1])]
    answer = ask(make_service(links, calibration), clustered(1)[0])
    assert answer.partial
    assert {failure.shard for failure in answer.coverage.failures} == {1}
    assert {hit.shard for hit in answer.hits} == {0}
    for shard in opened:
        shard.close()


@pytest.mark.parametrize(("shards", "fetched"), [(1, False), (4, False), (5, True)])
def test_few_shards_send_the_documents_along_and_many_are_asked_for_the_winners(
    tmp_path: Path, shards: int, fetched: bool
) -> None:
    asked: list[int] = []

    class WatchedLink(LocalLink):
        async def documents(self, rows):  # type: ignore[no-untyped-def]
            asked.extend(rows)
            return await super().documents(rows)

    opened, calibration = make_shards(tmp_path, clustered(300), DIMENSION, shards)
    answer = ask(make_service([WatchedLink(s) for s in opened], calibration), clustered(1)[0])
    assert [hit.text for hit in answer.hits] == [f"text {hit.id}" for hit in answer.hits]
    assert len(answer.hits) == 10
    assert bool(asked) == fetched
    for shard in opened:
        shard.close()


class SlowEncoder:
    def encode_queries(self, texts):  # type: ignore[no-untyped-def]
        import time

        time.sleep(0.5)
        return np.ones((len(texts), DIMENSION), dtype=np.float32)


def test_a_query_not_encoded_in_time_is_a_deadline_not_a_hang(tmp_path: Path) -> None:
    with serving(tmp_path, clustered(20), 1) as (service, _):
        service.encoder = SlowEncoder()
        with pytest.raises(DeadlineExceeded, match=r"not encoded in 0\.050 s"):
            ask(service, text="slow", timeout_s=0.05)


def test_a_loading_encoder_says_so_and_vectors_work_meanwhile(tmp_path: Path) -> None:
    with serving(tmp_path, clustered(20), 1) as (service, _):
        service.encoder = None
        with pytest.raises(Unavailable, match="still loading"):
            ask(service, text="words")
        assert ask(service, clustered(1)[0]).hits


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "exactly one"),
        ({"text": "a", "vector": np.ones(DIMENSION)}, "exactly one"),
        ({"text": " \n\t"}, "empty"),
        ({"text": "x" * (QUERY_CHARACTERS_MAX + 1)}, "characters"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"text": "a", "top_k": 0}, "top_k: 0 is not between 1 and 1000"),
        ({"text": "a", "top_k": 1001}, "top_k"),
        ({"text": "a", "candidates": 0}, "candidates"),
        ({"text": "a", "timeout_s": 0.0}, "timeout"),
        ({"text": "a", "timeout_s": 61.0}, "timeout"),
        ({"text": "a", "include": frozenset({"vector"})}, "cannot include"),
    ],
)
def test_a_bad_question_is_refused_with_the_reason(options: dict, reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidRequest, match=reason):
        Question(**options)


@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_vector_without_direction_or_of_another_width_is_refused(
    tmp_path: Path, bad: float
) -> None:
    with serving(tmp_path, clustered(20), 1) as (service, _):
        with pytest.raises(InvalidRequest):
            ask(service, np.full(DIMENSION, bad))
        with pytest.raises(InvalidRequest, match="the index has 64"):
            ask(service, np.ones(DIMENSION + 1))


def test_every_error_survives_pickling() -> None:
    import pickle

    from shard_worker import errors

    kinds = [
        k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BitsiftError)
    ]
    assert len(kinds) >= 13
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what to do")))
        assert (type(again), again.message) == (kind, "what to do")


class BothRowsLink(LocalLink):
    """A real shard that answers with the candidates of its first search too, as if an upsert had
    landed in mid-search. ``was_reached`` proves that it did.
    """

    first: list[Candidates] | None = None
    was_reached = False

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        found = await super().search(queries, timeout_s)
        if self.first is None:
            self.first = found
            return found
        self.was_reached = True
        return [
            dataclasses.replace(
                new,
                **{
                    name: np.concatenate([getattr(old, name), getattr(new, name)])
                    for name in ("rows", "distances", "hamming_ranks", "estimates", "codes")
                },
                documents={},
            )
            for old, new in zip(self.first, found, strict=True)
        ]


def test_of_two_rows_of_one_document_the_newer_one_is_the_hit(tmp_path: Path) -> None:
    units = clustered(3)
    opened, calibration = make_shards(tmp_path, units, DIMENSION, 1)
    link = BothRowsLink(opened[0])
    service = make_service([link], calibration)
    try:
        asyncio.run(service.search(Question(vector=units[0])))
        opened[0].append(
            Documents(
                ids=["0"], titles=[""], texts=["newer"], metadata=[""], positions=[LIVE_POSITION],
                codes=calibration.quantize(units[:1])[0],
            ),
            replace=True,
        )  # fmt: skip
        hits = asyncio.run(service.search(Question(vector=units[0]))).hits
        assert link.was_reached
        assert sorted(hit.id for hit in hits) == ["0", "1", "2"]
        assert hits[0].text == "newer"
    finally:
        opened[0].close()
