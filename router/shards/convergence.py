"""Replicas that may have missed writes become equal: they are compared, and what one lacks it gets
from another that has it (shard_worker/inventory.py).

All that is sent carries its version, so it does not matter what is written in the meantime, nor
whether it comes twice. Little is compared where little differs: digests of ranges of hashed ids
first, then the entries of those that differ, then the documents.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bitsift.errors import FormatMismatch, ShardUnavailable
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.inventory import KEYS_MAX, Inventory, range_bits
from bitsift.shard_worker.operations import Operation, statuses
from bitsift.shard_worker.store.packing import id_keys
from bitsift.write_status import WriteStatus

ROUNDS_MAX = 4
"""What is written in the meantime makes another round necessary."""


async def converge(replicas: Sequence[Replica], epoch: int) -> None:
    """Make ``replicas`` equal, under the replica table of ``epoch``.

    Raises what a replica raises, FormatMismatch where one was away for so long that others have
    forgotten what was deleted (it must be copied whole), and ShardUnavailable where writes go on so
    fast that they never are.
    """
    for _ in range(ROUNDS_MAX):
        if not await _round(replicas, epoch):
            await asyncio.gather(*(it.link.mended() for it in replicas))
            return
    names = ", ".join(replica.node for replica in replicas)
    raise ShardUnavailable(f"the replicas on {names} still differ after {ROUNDS_MAX} comparisons")


async def _round(replicas: Sequence[Replica], epoch: int) -> bool:
    """Whether they differed; then each has been sent what it lacked."""
    facts = await asyncio.gather(*(it.link.facts() for it in replicas))
    since = max(fact.forgotten_version for fact in facts)
    bits = range_bits(max(fact.entries for fact in facts))
    packed = await asyncio.gather(*(it.link.digests(bits, since) for it in replicas))
    digests = np.stack([np.frombuffer(one, np.uint64) for one in packed])
    ranges = np.flatnonzero((digests != digests[0]).any(axis=0)).astype(np.int64)
    if not len(ranges):
        return False
    asks = [it.link.entries(bits, since, ranges.tobytes()) for it in replicas]
    held = [entries.inventory() for entries in await asyncio.gather(*asks)]
    for place, fact in enumerate(facts):
        _check_remembered(replicas[place], held, place, fact.forgotten_version)
    for target, lacking in enumerate(_lacking(held)):
        for source, keys in lacking.items():
            late = await _send(replicas[source], replicas[target], keys, epoch)
            if since and late:  # by a deletion of before, which is not compared
                await _send(replicas[target], replicas[source], late, epoch)
    return True


def _check_remembered(
    replica: Replica, held: Sequence[Inventory], place: int, forgotten: int
) -> None:
    """Raises FormatMismatch where ``replica`` lacks a document that it may have deleted, and
    forgotten that.
    """
    own = set(held[place].keys.tolist())
    for inventory in held:
        for key, version, deleted in inventory.entries():
            if not deleted and version <= forgotten and key not in own:
                raise FormatMismatch(
                    f"{replica.name} no longer remembers what was deleted while another replica "
                    "was away: copy the shard whole"
                )


def _lacking(held: Sequence[Inventory]) -> list[dict[int, list[int]]]:
    """For each replica the keys of what it lacks, by the replica that has it.

    Of each entry, for two ids may share a hash. What is older than what it has is sent in vain.
    """
    sets = [inventory.entries() for inventory in held]
    first: dict[tuple[int, int, bool], int] = {}
    for place, entries in enumerate(sets):
        for entry in sorted(entries):
            first.setdefault(entry, place)
    found: list[dict[int, list[int]]] = [defaultdict(list) for _ in held]
    for entry, source in first.items():
        for target, entries in enumerate(sets):
            if entry not in entries:
                found[target][source].append(entry[0])
    return found


async def _send(source: Replica, target: Replica, keys: list[int], epoch: int) -> list[int]:
    """The keys of which ``target`` has something newer."""
    late = list[int]()
    for start in range(0, len(keys), KEYS_MAX):
        some = np.array(keys[start : start + KEYS_MAX], dtype=np.uint64)
        operations: Sequence[Operation] = await source.link.changes(some.tobytes())
        if operations:
            said = statuses(await target.link.mend(operations, epoch))
            late += _superseded(operations, said)
    return late


def _superseded(operations: Sequence[Operation], said: Sequence[list[WriteStatus]]) -> list[int]:
    ids = itertools.chain(*(operation.ids for operation in operations))
    each = zip(ids, itertools.chain(*said), strict=True)
    names = [document_id for document_id, status in each if status is WriteStatus.SUPERSEDED]
    found: list[int] = id_keys(names).tolist()
    return found
