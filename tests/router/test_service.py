"""SearchService over real shards, against a brute-force fp32 oracle."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.checked import checked_search
from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    InvalidRequest,
    ShardUnavailable,
    Unavailable,
)
from bitsift.options import QUERY_CHARACTERS_MAX, Mode, SearchOptions
from bitsift.results import Answer
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.hits import FETCHING_SHARE, likely_hits
from bitsift.router.merge import as_cosine, merge
from bitsift.router.service import SENDING_SHARDS_MAX, SearchService
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION, Candidates, Query
from tests.fakes import BrokenLink, FrozenLink, LateTextsLink, make_service, make_shards
from tests.writing import written

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
    return asyncio.run(service.search(SearchOptions(vector=vector, **options)))


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
    assert [len(hits) for hits in answers[0]] == [10, 10, 10]
    assert all(answer == answers[0] for answer in answers)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 400), st.integers(2, 5), st.integers(0, 10_000))
def test_splitting_an_index_never_lowers_the_score_at_any_rank(
    tmp_path_factory: pytest.TempPathFactory, rows: int, shards: int, seed: int
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
    with serving(tmp_path, units, 4) as (_, opened):
        query = Query(SearchOptions(vector=units[3]))
        gathered = [shard.search([query])[0] for shard in opened]
        first = merge(gathered, DIMENSION)
        assert len(first.rows) >= 40
        assert {*first.shards.tolist()} == {0, 1, 2, 3}
        for order in itertools.permutations(gathered):
            again = merge(order, DIMENSION)
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
        hit = ask(service, clustered(1)[0], include=["title"]).hits[0]
    assert hit.title is not None
    assert (hit.text, hit.metadata, hit.explain) == (None, None, None)


def test_a_text_gets_the_same_answer_each_time_whoever_asks_beside_it(tmp_path: Path) -> None:
    async def together(service: SearchService) -> list[Answer]:
        texts = [f"question {i % 7}" for i in range(70)]
        return await asyncio.gather(*(service.search(SearchOptions(query=t)) for t in texts))

    with serving(tmp_path, clustered(300), 2) as (service, _):
        answers = asyncio.run(together(service))
    for place, answer in enumerate(answers):
        assert len(answer.hits) == 10
        assert ids(answer) == ids(answers[place % 7])
    assert len({tuple(ids(answer)) for answer in answers}) == 7


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
    answer = ask(service, clustered(1)[0], timeout_ms=300)
    assert frozen.was_reached
    assert answer.coverage.failures[0].error == "DeadlineExceeded"
    assert {hit.shard for hit in answer.hits} == {0}
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


@pytest.mark.parametrize(("shards", "fetched"), [(1, 0), (2, 2), (8, 2), (32, 2), (33, 40)])
def test_few_shards_send_their_likely_hits_along_and_many_are_asked_for_the_winners(
    tmp_path: Path, shards: int, fetched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class WatchedLink(LocalLink):
        async def documents(self, reads):  # type: ignore[no-untyped-def]
            asked.extend(row for read in reads for row in read.rows)
            return await super().documents(reads)

    opened, calibration = make_shards(tmp_path, clustered(300), DIMENSION, shards)
    service, again = make_service([WatchedLink(s) for s in opened], calibration), 0
    questions = clustered(40, seed=1)
    answers = []
    for vector in questions:
        asked.clear()
        answers.append(ask(service, vector).hits)
        again += bool(asked)
    assert again == 40 if shards > SENDING_SHARDS_MAX else again <= fetched
    monkeypatch.setattr("bitsift.router.service.SENDING_SHARDS_MAX", 0)
    assert answers == [ask(service, vector).hits for vector in questions]
    assert all(hit.text == f"text {hit.id}" for hits in answers for hit in hits)
    assert {len(hits) for hits in answers} == {10}
    for shard in opened:
        shard.close()


@pytest.mark.parametrize("shards", [1, 2, 3, 8, 32, 300])
@pytest.mark.parametrize("depth", [1, 10, 137, 1_000])
def test_in_most_answers_no_shard_has_more_than_its_likely_hits(depth: int, shards: int) -> None:
    likely = likely_hits(depth, shards)
    draws = np.random.default_rng(0).multinomial(depth, [1 / shards] * shards, 20_000)
    most = draws.max(axis=1)
    assert np.mean(most > likely) <= 1.3 * FETCHING_SHARE
    assert likely == 1 or np.mean(most > likely - 1) > 0.7 * FETCHING_SHARE  # and no more


class SlowEncoder:
    def encode_queries(self, texts):  # type: ignore[no-untyped-def]
        import time

        time.sleep(0.5)
        return np.ones((len(texts), DIMENSION), dtype=np.float32)

    encode_documents = encode_queries


def test_a_query_not_encoded_in_time_is_a_deadline_not_a_hang(tmp_path: Path) -> None:
    with serving(tmp_path, clustered(20), 1) as (service, _):
        service.encoder = SlowEncoder()
        with pytest.raises(DeadlineExceeded, match=r"not encoded in 0\.050 s"):
            ask(service, query="slow", timeout_ms=50)


def test_a_loading_encoder_says_so_and_vectors_work_meanwhile(tmp_path: Path) -> None:
    with serving(tmp_path, clustered(20), 1) as (service, _):
        service.encoder = None
        with pytest.raises(Unavailable, match="still loading"):
            ask(service, query="words")
        assert ask(service, clustered(1)[0]).hits


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "exactly one"),
        ({"query": "a", "vector": [1.0]}, "exactly one"),
        ({"query": " \n\t"}, "empty"),
        ({"query": "x" * (QUERY_CHARACTERS_MAX + 1)}, "8192 characters"),
        ({"query": "\ud800"}, "surrogates not allowed"),
        ({"query": "a", "top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"query": "a", "top_k": 1001}, "top_k"),
        ({"query": "a", "candidates": 0}, "candidates"),
        ({"query": "a", "timeout_ms": 0.0}, "timeout"),
        ({"query": "a", "timeout_ms": 60_001.0}, "timeout"),
        ({"query": "a", "include": ["code"]}, "include.0: Input should be 'title'"),
    ],
)
def test_a_bad_question_is_refused_with_the_reason(options: dict, reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidRequest, match=reason):
        checked_search(options)


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

    from bitsift import errors

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
        answered = await super().search(queries, timeout_s)
        found = [one for one in answered if isinstance(one, Candidates)]
        assert len(found) == len(answered)
        if self.first is None:
            self.first = found
            return found
        self.was_reached = True
        return [both(old, new) for old, new in zip(self.first, found, strict=True)]


def both(old: Candidates, new: Candidates) -> Candidates:
    columns = ("rows", "distances", "hamming_ranks", "estimates", "scores", "codes")
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(old, name), getattr(new, name)]) for name in columns
    }
    return dataclasses.replace(new, **joined, documents={})


def test_of_two_rows_of_one_document_the_newer_one_is_the_hit(tmp_path: Path) -> None:
    units = clustered(3)
    opened, calibration = make_shards(tmp_path, units, DIMENSION, 1)
    link = BothRowsLink(opened[0])
    service = make_service([link], calibration)
    try:
        asyncio.run(service.search(SearchOptions(vector=units[0])))
        codes = calibration.quantize(units[:1])[0]
        written(opened[0], Upsert(["0"], [""], ["newer"], [""], [LIVE_POSITION], codes))
        hits = asyncio.run(service.search(SearchOptions(vector=units[0]))).hits
        assert link.was_reached
        assert sorted(hit.id for hit in hits) == ["0", "1", "2"]
        assert hits[0].text == "newer"
    finally:
        opened[0].close()


@pytest.mark.parametrize("shards", [1, 3, 5])
def test_pages_are_the_slices_of_one_ranking(tmp_path: Path, shards: int) -> None:
    units = clustered(300)
    units[100:140] = units[7]  # forty equal scores: the cut between pages is by id
    with serving(tmp_path, units, shards) as (service, _):
        for options in ({"mode": Mode.EXHAUSTIVE}, {"candidates": 200}):
            whole = ids(ask(service, units[7], top_k=200, **options))
            assert len(whole) == 200
            pages = [
                ids(ask(service, units[7], top_k=11, offset=offset, **options))
                for offset in range(0, 110, 11)
            ]
            assert [hit for page in pages for hit in page] == whole[:110]
            assert (
                ids(ask(service, units[7], top_k=50, offset=280, **options))
                == (ids(ask(service, units[7], top_k=300, **options))[280:])
            )
            assert ask(service, units[7], top_k=5, offset=300, **options).hits == ()


def test_a_page_holds_whole_documents_and_those_skipped_are_not_counted(tmp_path: Path) -> None:
    units = clustered(60)
    texts = [f"{i} " + "x" * 4_000 for i in range(60)]  # 40 of them are more than is sent unasked
    opened, calibration = make_shards(tmp_path, units, DIMENSION, 2, texts)
    service = make_service([LocalLink(shard) for shard in opened], calibration)
    with contextlib.closing(AnswerBytes(service.memory)) as held:
        options = SearchOptions(vector=units[0], offset=40, top_k=15, mode=Mode.EXHAUSTIVE)
        answer = asyncio.run(service.search(options, held))
        assert [hit.text for hit in answer.hits] == [texts[int(hit.id)] for hit in answer.hits]
        assert len(answer.hits) == 15
        assert 15 * 4_000 < held.used_bytes < 16 * 4_100
    for shard in opened:
        shard.close()


def test_the_best_pool_covers_what_is_skipped(tmp_path: Path) -> None:
    units = clustered(2_500)
    with serving(tmp_path, units, 1) as (service, _):
        oracle = [str(place) for place in np.argsort(-(units @ units[5]))]
        page = ids(ask(service, units[5], top_k=50, offset=900))
    assert len(page) == 50
    assert set(page) <= set(oracle[700:1_200])  # the skipped were not the only ones looked at


def test_hits_below_the_lowest_score_are_left_out(tmp_path: Path) -> None:
    with serving(tmp_path, clustered(300), 2) as (service, _):
        query = clustered(1)[0]
        whole = ask(service, query, top_k=40).hits
        for place in (0, 1, 17, 39):
            cut = whole[place].score  # itself is kept
            kept = ask(service, query, top_k=40, min_score=cut).hits
            assert list(kept) == [hit for hit in whole if hit.score >= cut]
            assert len(kept) > place
        assert len(ask(service, query, top_k=40, min_score=-1.0).hits) == 40
        assert ask(service, query, top_k=40, min_score=1.0, mode=Mode.EXHAUSTIVE).hits == ()
        second = ask(service, query, top_k=5, offset=15, min_score=whole[17].score).hits
        assert list(second) == [hit for hit in whole[15:20] if hit.score >= whole[17].score]


def test_scores_are_computed_outside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred queries of 1,000 candidates stopped the loop for half a second."""
    units, where, plain = clustered(500), list[int](), Calibration.scores

    def scores(self: Calibration, *given: Any) -> Any:
        where.append(threading.get_ident())
        return plain(self, *given)

    monkeypatch.setattr(Calibration, "scores", scores)
    with serving(tmp_path, units, 2) as (service, _):

        async def scenario() -> int:
            await service.search(SearchOptions(vector=units[3], candidates=100))
            return threading.get_ident()

        loop = asyncio.run(scenario())
    assert where
    assert loop not in where


@pytest.mark.parametrize(("score", "said"), [(1.0013, 1.0), (0.5, 0.5), (-1.001, -1.0)])
def test_a_score_is_said_as_a_cosine(score: float, said: float) -> None:
    assert as_cosine(score) == said
