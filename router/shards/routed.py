"""Operations on documents of any shards, cut into those of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.operations import Delete, Operation, Upsert


def routed(operations: Iterable[Operation], placement: Placement) -> dict[int, list[Operation]]:
    """For each shard that owns some of what upserts and deletes are of: its part of each."""
    parts = defaultdict[int, list[Operation]](list)
    for operation in operations:
        for shard, places in placement.by_owner(operation.ids).items():
            ids = [operation.ids[place] for place in places.tolist()]
            if isinstance(operation, Delete):
                parts[shard].append(replace(operation, ids=ids))
                continue
            assert isinstance(operation, Upsert), operation
            names = ("titles", "texts", "metadata", "positions")
            columns = {name: _at(getattr(operation, name), places.tolist()) for name in names}
            codes = operation.codes[places]
            parts[shard].append(Upsert(ids, **columns, codes=codes, version=operation.version))
    return parts


def _at(column: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [column[place] for place in places]
