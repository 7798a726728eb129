"""The two measures against their definitions."""

from __future__ import annotations

import math
from statistics import fmean

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.evaluation.relevance import TOP_K, ndcg, recall, without_own

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


NAMES = [f"n{number}" for number in range(14)]
judgements = st.dictionaries(
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(NAMES), st.integers(-1, 3), min_size=1),
    min_size=1,
)


def beir_ndcg(qrels: dict[str, dict[str, int]], answers: dict[str, list[str]]) -> float:
    """What BEIR computes (beir.retrieval.evaluation, ``ignore_identical_ids``): the document with
    the query's id is taken out of what was found, then trec_eval, then the mean over its queries.
    """
    run = {
        query: {name: 100.0 - rank for rank, name in enumerate(ids) if name != query}
        for query, ids in answers.items()
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return fmean(one["ndcg_cut_10"] for one in found.values())


@given(judgements, st.data())
def test_the_figures_are_those_of_beir_and_trec_eval(
    qrels: dict[str, dict[str, int]], data: st.DataObject
) -> None:
    answers = {query: data.draw(st.permutations(NAMES)) for query in qrels}
    queries = list(qrels)
    ranked = without_own(queries, [answers[query][: TOP_K + 1] for query in queries], NAMES)
    assert ndcg(qrels, queries, ranked) == pytest.approx(beir_ndcg(qrels, answers), abs=5.1e-5)


def test_only_the_document_with_the_id_of_the_query_is_left_out() -> None:
    answers = [["a", "b"], ["a", "b"]]
    assert without_own(["a", "b"], answers, {"a", "b"}) == [["b"], ["a"]]
    assert without_own(["a", "b"], answers, ()) == answers
