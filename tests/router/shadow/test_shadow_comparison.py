"""What a search missed, by its candidates and the truth: against sets, whatever was written."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.router.shadow.comparison import (
    DEPTH,
    MIXED,
    PERSISTENCE,
    UNFILTERED,
    Seen,
    compared,
    plan_of,
    rank_biased_overlap,
)
from bitsift.shard_worker.types import Candidates, FilterPlan, Origin, Plan

ORIGIN = Origin(7, 1)
TRUTH_ROWS = 40


def found(
    scores: dict[int, float],
    *,
    origin: Origin = ORIGIN,
    rows_there: int | None = 1_000,
    shard: int = 0,
) -> Candidates:
    """Candidates with these scores by row."""
    rows, n = np.array([*scores], dtype=np.int64), len(scores)
    values = np.array([*scores.values()], dtype=np.float32)
    zeros = np.zeros(n, dtype=np.int32)
    return Candidates(
        shard, origin, rows, zeros, zeros, values, values, np.empty((n, 0), np.int8),
        rows_there=rows_there,
    )  # fmt: skip


def best(scores: dict[int, float], count: int) -> dict[int, float]:
    ranked = sorted(scores, key=lambda row: -scores[row])[:count]
    return {row: scores[row] for row in ranked}


def test_what_was_found_is_counted_and_weighted_by_its_rank() -> None:
    truth = {row: 1 - row / 100 for row in range(TRUTH_ROWS)}
    seen = {0: Seen.of(found({row: score for row, score in truth.items() if row not in (0, 7)}))}
    said = compared(seen, {0: found(truth)}, DEPTH)
    assert said is not None
    assert said.recall == pytest.approx(0.8)
    agreeing = [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]  # 1..6, 8, 9: of ranks 1 to 10
    assert said.overlap == pytest.approx(rank_biased_overlap(agreeing))
    assert said.overlap < 0.8  # the very best is missing


def test_a_ranking_overlaps_itself_wholly_and_a_strange_one_not_at_all() -> None:
    for depth in (1, 3, 10):
        assert rank_biased_overlap(list(range(1, depth + 1))) == pytest.approx(1)
        assert rank_biased_overlap([0] * depth) == 0


def test_overlap_is_what_an_infinite_sum_would_be() -> None:
    """RBO is (1 - p) sum of p^(d-1) times the agreement at d; beyond what is known that stays."""
    agreeing = [1, 1, 2, 3, 3, 4, 5, 6, 6, 7]
    shares = [common / rank for rank, common in enumerate(agreeing, 1)]
    endless = shares + [shares[-1]] * 2_000
    whole = (1 - PERSISTENCE) * math.fsum(PERSISTENCE**d * share for d, share in enumerate(endless))
    assert rank_biased_overlap(agreeing) == pytest.approx(whole)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_writes_in_between_are_no_misses(seed: int) -> None:
    """Two shards in which rows die and come to be between search and truth: the recall is that of
    the documents that both could find, or nothing is said.
    """
    chance = random.Random(seed)
    seen: dict[int, Seen] = {}
    truth: dict[int, Candidates] = {}
    old: dict[tuple[int, int], float] = {}
    given_rows: dict[tuple[int, int], float] = {}
    for shard in (0, 1):
        rows = chance.randint(0, 120)
        scores = {row: round(chance.random(), chance.choice((2, 6))) for row in range(rows)}
        there = {row: score for row, score in scores.items() if chance.random() < 0.9}
        candidates = {row: score for row, score in there.items() if chance.random() < 0.7}
        lately = {rows + n: chance.random() for n in range(chance.choice((0, 0, 3, 60)))}
        if lately and chance.random() < 0.5:  # that it saw some of them already is no matter
            row = next(iter(lately))
            candidates[row] = lately[row]
        alive = {row: score for row, score in there.items() if chance.random() < 0.9}
        seen[shard] = Seen.of(found(candidates, rows_there=rows, shard=shard))
        old |= {(shard, row): score for row, score in alive.items()}
        both = candidates.keys() & alive.keys()
        given_rows |= {(shard, row): candidates[row] for row in both}
        truth[shard] = found(best(alive | lately, TRUTH_ROWS), shard=shard)
    said = compared(seen, truth, DEPTH)
    if said is None:
        return
    right = sorted(old.values(), reverse=True)[:DEPTH]
    if not right:
        assert said.recall == said.overlap == 1
        return
    hits = sum(score >= right[-1] for score in given_rows.values())
    assert said.recall == pytest.approx(min(hits, len(right)) / len(right), abs=1e-6)


def test_so_much_that_is_new_is_no_comparison() -> None:
    scores = {row: 1 - row / 100 for row in range(60)}
    seen = {0: Seen.of(found(scores, rows_there=60))}
    new = {60 + row: 0.999 - row / 1e4 for row in range(35)}
    assert compared(seen, {0: found(best(scores | new, TRUTH_ROWS))}, DEPTH) is None
    few = dict(list(new.items())[:30])
    said = compared(seen, {0: found(best(scores | few, TRUTH_ROWS))}, DEPTH)
    assert said is not None
    assert said.recall == 1


def test_rows_that_were_numbered_anew_and_shards_that_do_not_say_are_not_compared() -> None:
    scores = {row: 1 - row / 100 for row in range(20)}
    truth = {0: found(scores)}
    for other in (Origin(7, 2), Origin(8, 1)):
        assert compared({0: Seen.of(found(scores, origin=other))}, truth, DEPTH) is None
    assert compared({0: Seen.of(found(scores, rows_there=None))}, truth, DEPTH) is None


def test_equal_scores_are_as_good_as_each_other() -> None:
    truth = dict.fromkeys(range(TRUTH_ROWS), 0.5)
    others = dict.fromkeys(range(100, 110), 0.5)
    said = compared({0: Seen.of(found(others))}, {0: found(truth)}, DEPTH)
    assert said is not None
    assert said.recall == 1
    assert said.overlap == pytest.approx(1)


def test_fewer_than_ten_are_compared_where_fewer_are_there_or_were_asked_for() -> None:
    truth = {row: 1 - row / 10 for row in range(4)}
    half = {row: truth[row] for row in (0, 1)}
    for depth, recall in ((DEPTH, 0.5), (2, 1.0)):
        said = compared({0: Seen.of(found(half))}, {0: found(truth)}, depth)
        assert said is not None
        assert said.recall == recall
    nothing = compared({0: Seen.of(found({}))}, {0: found({})}, DEPTH)
    assert nothing is not None
    assert nothing.recall == 1


def test_the_plan_is_that_of_all_shards() -> None:
    def of(plan: Plan | None) -> Candidates:
        one = found({})
        object.__setattr__(one, "plan", None if plan is None else FilterPlan(plan, 3))
        return one

    assert plan_of([of(None), of(None)]) == UNFILTERED
    assert plan_of([of(Plan.SCAN), of(Plan.SCAN)]) == "scan"
    assert plan_of([of(Plan.SCAN), of(Plan.NONE)]) == MIXED
