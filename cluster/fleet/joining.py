"""The last comparison before a replica joins the table: its shard is sealed, and nobody writes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitsift.errors import BitsiftError, Fenced, Unavailable
from bitsift.router.shards.convergence import equalize, mended
from bitsift.router.shards.remote import RemoteLink
from bitsift.router.shards.replica import Replica

JOIN_S = 20.0
"""The longest that writes wait for it; what is not equal by then catches up again."""


@dataclass(frozen=True, slots=True)
class Joining:
    """The actors of the sealed ``members`` of a shard's table, and of ``new`` replicas, by node."""

    shard: int
    members: Mapping[str, Any]
    new: Mapping[str, Any]


def unequal(joinings: list[Joining], epoch: int) -> dict[tuple[int, str], BitsiftError]:
    """The new replicas (shard, node) that could not be made equal to all members, and why.

    Raises Fenced where a newer table is in force.
    """
    return asyncio.run(_unequal(joinings, epoch))


async def _unequal(joinings: list[Joining], epoch: int) -> dict[tuple[int, str], BitsiftError]:
    found = dict[tuple[int, str], BitsiftError]()
    for errors in await asyncio.gather(*(_of_shard(one, epoch) for one in joinings)):
        found |= errors
    return found


async def _of_shard(joining: Joining, epoch: int) -> dict[tuple[int, str], BitsiftError]:
    shard = joining.shard
    members, new = (
        [Replica(shard, node, RemoteLink(shard, actor, node)) for node, actor in places.items()]
        for places in (joining.members, joining.new)
    )
    failed = await refused(members, new, epoch)
    return {(shard, replica.node): error for replica, error in failed.items()}


async def refused(
    members: Sequence[Replica], new: Sequence[Replica], epoch: int
) -> dict[Replica, BitsiftError]:
    """Those of ``new`` that are not equal to all ``members`` within ``JOIN_S``, and why. Raises
    Fenced.
    """
    try:
        async with asyncio.timeout(JOIN_S):
            failed = await equalize([*members, *new], epoch, newcomers=new)
            left = [it for it in new if it not in failed]
            if left and any(it in failed for it in members):
                failed |= await _doubts(members, left, epoch)
            await mended(it for it in (*members, *new) if it not in failed)
    except Fenced:
        raise
    except TimeoutError:
        late = Unavailable(f"it was not equal to the others within {JOIN_S:.0f} s")
        return dict.fromkeys(new, late)
    except BitsiftError as error:
        return dict.fromkeys(new, error)
    return {it: failed[it] for it in new if it in failed}


async def _doubts(
    members: Sequence[Replica], new: Sequence[Replica], epoch: int
) -> dict[Replica, BitsiftError]:
    """Which of ``new`` may lack what only a member has that failed: all, where one cannot be read.
    One whose disk is full cannot be written to, but what it has can be sent to them.
    """
    again = await equalize([*members, *new], epoch, newcomers=new, targets=new)
    unread = next((again[it] for it in members if it in again), None)
    return again if unread is None else again | dict.fromkeys(new, unread)
