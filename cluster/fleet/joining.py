"""The comparison before the next table: a shard is sealed, nobody writes, and in the end all its
members have what each of them had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitsift.cluster.fleet.catching_up import replica_of
from bitsift.cluster.fleet.membership import Place
from bitsift.errors import BitsiftError, Fenced, Unavailable
from bitsift.router.shards.convergence import equalize, mended
from bitsift.router.shards.replica import Replica
from bitsift.write_token import NOTHING

JOIN_S = 20.0
"""The longest that writes wait for it; what is not equal by then catches up again."""


@dataclass(frozen=True, slots=True)
class Joining:
    """The actors of sealed replicas of a shard, by node: of ``members`` of its old table, which
    together have all that was acknowledged, and of ``new`` ones. Those that are ``leaving`` give
    what they have, and get nothing.
    """

    shard: int
    members: Mapping[str, Any]
    new: Mapping[str, Any]
    leaving: Mapping[str, Any]


@dataclass(slots=True)
class Compared:
    """What came of it, in replicas. The ``complete`` ones have what all ``known`` ones had. Others
    have ``failed``: one whose disk is full may be known.
    """

    known: set[Place] = field(default_factory=set)
    complete: set[Place] = field(default_factory=set)
    failed: dict[Place, BitsiftError] = field(default_factory=dict)


def compared(joinings: Sequence[Joining], epoch: int) -> Compared:
    """Make the replicas of each shard equal. Raises Fenced where a newer table is in force."""
    return asyncio.run(_compared(joinings, epoch))


async def _compared(joinings: Sequence[Joining], epoch: int) -> Compared:
    found = Compared()
    for one in await asyncio.gather(*(_of_shard(joining, epoch) for joining in joinings)):
        found.known |= one.known
        found.complete |= one.complete
        found.failed |= one.failed
    return found


async def _of_shard(joining: Joining, epoch: int) -> Compared:
    shard = joining.shard
    members, new, leaving = (
        [replica_of(shard, node, actor) for node, actor in some.items()]
        for some in (joining.members, joining.new, joining.leaving)
    )
    return await made_equal(members, new, leaving, epoch)


async def made_equal(
    members: Sequence[Replica], new: Sequence[Replica], leaving: Sequence[Replica], epoch: int
) -> Compared:
    """The same for one shard, within ``JOIN_S``. Raises Fenced."""
    every = [*members, *leaving, *new]
    places = {it: (it.shard, it.node) for it in every}
    try:
        async with asyncio.timeout(JOIN_S):
            failed, unread = await _failed(members, new, leaving, epoch)
            complete = [it for it in (*members, *new) if it not in failed]
            known = [it for it in (*members, *leaving) if it not in unread]
            reached = await asyncio.gather(*(it.link.applied() for it in known))
            await mended(complete, max(reached, default=NOTHING))
    except Fenced:
        raise
    except TimeoutError:
        late = Unavailable(f"it was not equal to the others within {JOIN_S:.0f} s")
        return Compared(failed=dict.fromkeys(places.values(), late))
    except BitsiftError as error:
        return Compared(failed=dict.fromkeys(places.values(), error))
    return Compared(
        {places[it] for it in every if it not in unread},
        {places[it] for it in complete},
        {places[it]: error for it, error in failed.items()},
    )


async def _failed(
    members: Sequence[Replica], new: Sequence[Replica], leaving: Sequence[Replica], epoch: int
) -> tuple[dict[Replica, BitsiftError], dict[Replica, BitsiftError]]:
    """Those that are not equal, and those of them of which it is not known what they have. What
    fails is asked once more: it may be that it cannot be written to, and can be read.
    """
    if len(members) + len(new) + len(leaving) < 2:  # it is equal to itself
        return {}, {}
    every, targets = [*members, *leaving, *new], [*members, *new]
    failed = await equalize(every, epoch, newcomers=new, targets=targets)
    if not failed:
        return {}, {}
    left = [it for it in new if it not in failed]
    targets = [it for it in targets if it not in failed]
    again = [*members, *leaving, *left]
    unread = await equalize(again, epoch, newcomers=left, targets=targets)
    unread |= {it: failed[it] for it in new if it in failed}
    return failed | unread, unread
