"""nDCG@10 and recall@10, both by ir-measures.

Ranks stand for scores: a tie is broken by who ranked, not by the library.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

TOP_K = 10
Rankings = Sequence[Sequence[str]]
"""For each query the ids of its answer, best first."""


def ndcg(qrels: dict[str, dict[str, int]], query_ids: Sequence[str], answers: Rankings) -> float:
    """Mean nDCG@10 of the answers against judgements: grades by query id and document id."""
    from ir_measures import nDCG

    return _mean(nDCG @ TOP_K, qrels, query_ids, answers)


def recall(exact: Rankings, query_ids: Sequence[str], answers: Rankings) -> float:
    """Mean recall@10 against an exact search: its ten best are what is relevant."""
    from ir_measures import R

    best = zip(query_ids, exact, strict=True)
    relevant = {query: dict.fromkeys(ids[:TOP_K], 1) for query, ids in best}
    return _mean(R @ TOP_K, relevant, query_ids, answers)


def without_own(
    query_ids: Sequence[str], answers: Rankings, own: Collection[str]
) -> list[list[str]]:
    """Ten of each answer, without the document that has the query's id where ``own`` has it: BEIR's
    rule for collections whose queries are documents (ArguAna), where nothing else comes first.
    """
    return [
        [name for name in ids if name != query or name not in own][:TOP_K]
        for query, ids in zip(query_ids, answers, strict=True)
    ]


def _mean(
    measure: Any, qrels: dict[str, dict[str, int]], query_ids: Sequence[str], answers: Rankings
) -> float:
    import ir_measures

    run = {
        query: {name: float(len(ids) - rank) for rank, name in enumerate(ids)}
        for query, ids in zip(query_ids, answers, strict=True)
    }
    return round(float(ir_measures.calc_aggregate([measure], qrels, run)[measure]), 4)
