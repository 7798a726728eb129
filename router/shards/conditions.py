"""Writes with conditions, to several replicas: a coordinator decides, and sends what is to be done.

Each replica for itself could decide otherwise than the others: one may have a write that nobody
acknowledged. So the condition is compared with what enough replicas hold (newest.py), after all
writes to the same documents have come to enough of them, and before the next begins. No other
coordinator writes meanwhile: the replicas were sealed, and if they are sealed again, what this one
sends is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitsift.errors import BitsiftError
from bitsift.router.shards.newest import held_newest
from bitsift.router.shards.replica_writes import ReplicaWrites
from bitsift.shard_worker.operations import (
    ABSENT,
    ConditionalOperation,
    Operation,
    Outcome,
    Statuses,
    has_conditions,
    is_met,
    versions_of,
)
from bitsift.write_status import WriteStatus


async def write_in_turn(
    writes: ReplicaWrites, operations: Sequence[Operation]
) -> Sequence[Outcome]:
    """The outcome of each of ``operations``, of which some have conditions: each is decided by what
    those before it have done.
    """
    if writes.is_alone() or not any(map(has_conditions, operations)):
        return await writes.write(operations)  # a single replica decides in its transaction
    return [await _write(writes, operation) for operation in operations]


async def _write(writes: ReplicaWrites, operation: Operation) -> Outcome:
    try:
        if isinstance(operation, ConditionalOperation) and has_conditions(operation):
            return await _write_if(writes, operation)
        (outcome,) = await writes.write([operation])
    except BitsiftError as error:
        return error
    return outcome


async def _write_if(writes: ReplicaWrites, operation: ConditionalOperation) -> Outcome:
    """An error is that of all its documents."""
    epoch = await writes.ready_for(frozenset(operation.ids))
    held = await held_newest(writes.readers, operation.ids)
    writes.check_still_ready(epoch)
    found = Statuses([WriteStatus.CONFLICT] * len(held), [max(it, ABSENT) for it in held])
    pairs = zip(operation.expected, held, strict=True)
    places = [place for place, pair in enumerate(pairs) if is_met(*pair)]
    if not places:
        return found
    (outcome,) = await writes.write([operation.without_conditions(places)])
    if not isinstance(outcome, list):
        return outcome
    for place, status, version in zip(places, outcome, versions_of(outcome), strict=True):
        found[place], found.versions[place] = status, version
    return found
