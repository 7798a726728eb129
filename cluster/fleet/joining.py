"""The last comparison before a replica joins the table: its shard is sealed, and nobody writes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
    members = [Replica(shard, n, RemoteLink(shard, a, n)) for n, a in joining.members.items()]
    new = [Replica(shard, n, RemoteLink(shard, a, n)) for n, a in joining.new.items()]
    try:
        async with asyncio.timeout(JOIN_S):
            failed = await equalize([*members, *new], epoch, newcomers=new)
            await mended(it for it in (*members, *new) if it not in failed)
    except Fenced:
        raise
    except TimeoutError:
        late = Unavailable(f"it was not equal to the others within {JOIN_S:.0f} s")
        return {(shard, it.node): late for it in new}
    except BitsiftError as error:
        return {(shard, it.node): error for it in new}
    # Of members that did not answer it is not known what only they have.
    doubtful = next((failed[it] for it in members if it in failed), None)
    why = {it: failed.get(it, doubtful) for it in new}
    return {(shard, it.node): error for it, error in why.items() if error is not None}
