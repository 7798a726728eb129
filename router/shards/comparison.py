"""Where the replicas of a shard differ, while writes go on: what one has, and another never gets.

What is on its way is no difference. So where two differ, they are looked at twice, with time for a
write to reach all of them in between (replica_writes.py): what one had at first, another must have
in the end, or something newer in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_writes import LAGGARD_S
from bitsift.shard_worker.inventory import Inventory, range_bits

SETTLE_S = LAGGARD_S + 1.0
ASK_S = 120.0
"""For an answer: a replica reads all its ids and versions first."""


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Which entries are looked at: those of ``chosen``, int64 (n,), of 2 ** ``bits`` ranges;
    deletions up to version ``since`` do not count.
    """

    bits: int
    since: int
    chosen: NDArray[np.int64]


async def lacking(replicas: Sequence[Replica]) -> list[set[int]]:
    """For each replica the keys (hashes of ids) of what another has, and it lacks.

    Raises what a replica raises, and TimeoutError.
    """
    ranges = await _differing(replicas)
    if not len(ranges.chosen):
        return [set() for _ in replicas]
    first = await _held(replicas, ranges)
    await settled()
    return _lacking(first, await _held(replicas, ranges))


async def settled() -> None:
    """Until what was acknowledged before is on all replicas that are not behind."""
    await asyncio.sleep(SETTLE_S)


async def _differing(replicas: Sequence[Replica]) -> _Ranges:
    async with asyncio.timeout(ASK_S):
        facts = await asyncio.gather(*(it.link.facts() for it in replicas))
        since = max(fact.forgotten_version for fact in facts)
        bits = range_bits(max(fact.entries for fact in facts))
        packed = await asyncio.gather(*(it.link.digests(bits, since) for it in replicas))
    digests = np.stack([np.frombuffer(one, np.uint64) for one in packed])
    differs = (digests != digests[0]).any(axis=0)
    return _Ranges(bits, since, np.flatnonzero(differs).astype(np.int64))


async def _held(replicas: Sequence[Replica], ranges: _Ranges) -> list[Inventory]:
    chosen = ranges.chosen.tobytes()
    async with asyncio.timeout(ASK_S):
        await asyncio.gather(*(it.link.facts() for it in replicas))  # of now
        asks = [it.link.entries(ranges.bits, ranges.since, chosen) for it in replicas]
        return [entries.inventory() for entries in await asyncio.gather(*asks)]


def _lacking(first: Sequence[Inventory], later: Sequence[Inventory]) -> list[set[int]]:
    """What each lacks ``later`` of what another held at ``first``."""
    found = []
    for place, own in enumerate(later):
        newest = dict[int, int]()
        for key, version, _ in own.entries():
            newest[key] = max(version, newest.get(key, 0))
        others = [held for at, held in enumerate(first) if at != place]
        found.append(
            {
                key
                for held in others
                for key, version, _ in held.entries()
                if newest.get(key, -1) < version
            }
        )
    return found
