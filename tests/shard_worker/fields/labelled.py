"""Shards of documents that have metadata, and what passes a filter by the definition."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from bitsift.filters.forms import canonical, tree_of
from bitsift.filters.matching import matches
from bitsift.filters.tree import Node
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, Candidates, Document, Query
from tests.filters.brute_force import random_document, random_filter
from tests.shard_worker.small_shard import CALIBRATION, unit_vectors

Labelled = Mapping[str, dict[str, Any]]
"""Metadata by id."""


def labelled(documents: Labelled, vectors: np.ndarray) -> Upsert:
    """``documents`` to upsert, with their unit ``vectors`` (n, DIMENSION)."""
    count = len(documents)
    metadata = [orjson.dumps(said).decode() if said else "" for said in documents.values()]
    codes = CALIBRATION.quantize(vectors)[0]
    positions = [GIVEN_VECTOR_POSITION] * count
    return Upsert(list(documents), [""] * count, ["text"] * count, metadata, positions, codes)


def node(written: Mapping[str, Any] | str) -> Node:
    return tree_of(canonical(written))


def found_by(
    shard: Shard, vector: np.ndarray, written: Mapping[str, Any] | str, **options: Any
) -> tuple[Candidates, list[str]]:
    """The candidates of a filtered search, and the ids of their documents."""
    query = Query(SearchOptions(vector=vector, filter=canonical(written), **options))
    (found,) = shard.search([query])
    documents = shard.documents(found.origin, found.rows.tolist())
    return found, [it.id for it in documents if isinstance(it, Document)]


def passing_ids(shard: Shard, written: Mapping[str, Any] | str, most: int = 1_000) -> list[str]:
    """The ids of all that pass, by a search that returns every row."""
    found, ids = found_by(shard, unit_vectors(1)[0], written, candidates=most, mode=Mode.EXHAUSTIVE)
    assert found.corrupt == 0
    return sorted(ids)


def expected_ids(documents: Labelled, written: Mapping[str, Any] | str) -> list[str]:
    """The ids of those of ``documents`` that pass, by the definition."""
    tree = node(written)
    return sorted(name for name, said in documents.items() if matches(tree, name, said))


ODD: list[dict[str, Any]] = [
    {"a": "x" * 129},
    {"a": ["x" * 300, 2**53 + 1]},
    {"b": 2**63 + 1},
    {},
    {"a": "ä" * 65},
]
"""Values that the index does not keep."""


def random_documents(chance: random.Random, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        name: chance.choice(ODD) if chance.random() < 0.1 else random_document(chance)[1]
        for name in names
    }


def random_filters(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Some of long strings and great numbers among them."""
    odd: list[dict[str, Any]] = [
        {"a": "x" * 129}, {"a": {"$ne": "x" * 300}}, {"a": {"$prefix": "xx"}}, {"a": "x" * 128},
        {"a": {"$gt": 2**53}}, {"a": {"$in": [2**53 + 1, "a"]}}, {"b": 2**63 + 1},
        {"$not": {"b": {"$lte": 2**63}}}, {"id": {"$in": ["3", "5", "no"]}}, {"id": {"$ne": "7"}},
        {"id": {"$gte": "4"}}, {"id": {"$all": ["3"]}}, {"a": {"$lt": "xy"}},
    ]  # fmt: skip
    return [*odd, *(random_filter(chance) for _ in range(count))]
