"""The fields of an index: what its shards say of theirs, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from bitsift.shard_worker.fields.segment import FIELDS_SAID_MAX
from bitsift.shard_worker.types import FieldFacts, ShardStatus


def field_facts(shards: Sequence[ShardStatus]) -> dict[str, dict[str, Any]]:
    """By name, those that the most rows have first."""
    found: dict[str, FieldFacts] = {}
    for shard in shards:
        for name, said in shard.fields.items():
            known = found.get(name)
            found[name] = said if known is None else _joined(known, said)
    most = sorted(found.items(), key=lambda it: (-it[1].rows, it[0]))[:FIELDS_SAID_MAX]
    return {name: asdict(facts) for name, facts in most}


def _joined(one: FieldFacts, other: FieldFacts) -> FieldFacts:
    return replace(
        one,
        rows=one.rows + other.rows,
        values=max(one.values, other.values),
        types=sorted({*one.types, *other.types}),
        indexed=one.indexed and other.indexed,
    )
