"""Writing to a shard as tests do: one operation, and its error raised."""

from __future__ import annotations

from typing import Any

from bitsift.shard_worker.operations import Documents, Insert, Operation, Upsert, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.write_status import WriteStatus


def written(shard: Shard, operation: Operation) -> list[WriteStatus]:
    """What became of each document of ``operation``. Raises what befell all of them."""
    (found,) = statuses(shard.write([operation]))
    return found


def as_insert(batch: Documents, **changed: Any) -> Insert:
    """The same documents as a bulk load brings them."""
    columns = {name: getattr(batch, name) for name in Insert.__dataclass_fields__}
    return Insert(**{**columns, **changed})


def as_upsert(batch: Documents) -> Upsert:
    """The same documents as a live write brings them."""
    return Upsert(**{name: getattr(batch, name) for name in Documents.__dataclass_fields__})
