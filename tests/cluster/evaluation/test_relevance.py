"""The two measures against their definitions."""

from __future__ import annotations

import math

from bitsift.cluster.evaluation.relevance import ndcg, recall

QRELS = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"a": 1}}


def test_ndcg_is_the_discounted_gain_over_that_of_the_best_order() -> None:
    ideal = 2 + 1 / math.log2(3)
    found = (0 + 1 / math.log2(3) + 2 / math.log2(4)) / ideal
    assert ndcg(QRELS, ["q1", "q2"], [["c", "b", "a"], ["a"]]) == round((found + 1) / 2, 4)


def test_what_stands_behind_the_tenth_place_counts_for_nothing() -> None:
    others = [f"x{i}" for i in range(10)]
    assert ndcg({"q": {"a": 1}}, ["q"], [[*others, "a"]]) == 0
    assert recall([["a"]], ["q"], [[*others, "a"]]) == 0


def test_recall_is_the_share_of_the_exact_answer_that_was_found() -> None:
    exact = [["a", "b", "c", "d"], ["e", "f"]]
    assert recall(exact, ["q1", "q2"], [["d", "x", "a"], ["f", "e"]]) == (2 / 4 + 1) / 2


def test_a_query_without_an_answer_counts_as_a_miss() -> None:
    assert recall([["a"], ["b"]], ["q1", "q2"], [["a"], []]) == 0.5
