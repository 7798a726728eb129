"""Which name is meant by one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_ELSEWHERE = {
    "top_k": "k n n_results num_results size count limit max_results result_count take",
    "offset": "page from skip start",
    "query": "q question search text query_text input prompt",
    "q": "query question search text query_text input prompt",
    "queries": "query_texts texts inputs",
    "vector": "embedding query_vector query_embedding values emb",
    "filter": "where filters query_filter filter_by expr",
    "include": "fields select with_payload include_fields output_fields return_fields",
    "min_score": "threshold score_threshold cutoff min_similarity",
    "group_by": "distinct collapse",
    "sort": "order_by sort_by orderby",
    "facets": "aggs aggregations facet_by",
    "id": "_id doc_id docid key uuid",
    "text": "body content page_content passage document",
    "title": "name heading",
    "metadata": "payload meta metadatas properties attributes",
    "documents": "docs points records items data",
    "ids": "id doc_ids keys",
}
"""What other search servers call what is called so here."""


def no_such_key(what: str, key: str, known: Collection[str], otherwise: str) -> str:
    """That there is no ``what`` called ``key``, such as ``serve.prot``, and which is meant.

    The same name in another table comes first, then the nearest of ``known``. ``otherwise`` is
    said where none is near.
    """
    name = key.rpartition(".")[2]
    same = [other for other in known if "." in other and other.rpartition(".")[2] == name]
    return _no_such(what, same[:1] or difflib.get_close_matches(key, known, 1), otherwise)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Which of ``known`` may be meant by ``name``."""
    return next(iter(_meant(name, known)), None)


def no_such_name(what: str, name: str, known: Collection[str], otherwise: str) -> str:
    """The same for a name that belongs to no table."""
    return _no_such(what, _meant(name, known), otherwise)


def _meant(name: str, known: Collection[str]) -> list[str]:
    """The nearest, or the one that is called ``name`` elsewhere; of the two the sure one first."""
    near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
    called = name.lower().replace("-", "_")
    same = [ours for ours, theirs in _ELSEWHERE.items() if called in theirs.split()]
    return near or [ours for ours in same if ours in known][:1] or _near(name, known)


def _near(name: str, known: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, known, 1)


def _no_such(what: str, meant: list[str], otherwise: str) -> str:
    return f"there is no such {what}; " + (f"did you mean {meant[0]}?" if meant else otherwise)
