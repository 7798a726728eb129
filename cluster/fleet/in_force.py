"""Which of the indexes that data disks know is the one to serve: pure.

Each disk keeps the state of each index that was in force while its node was there (state.py). The
greatest epoch is the newest. But a node that was away during a reshard knows the old index only,
and a controller that sees no other node would give out epochs of its own. So:

* An index that another one has *retired* is never in force, whatever its epoch, unless it has
  retired that one in turn: then the reshard was dropped.
* A state that knows of a reshard under way says nothing of its end, which all copies of the new
  shards know. It counts only if the nodes are there of all copies of one new shard.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bitsift.cluster.fleet.node_store import Held
from bitsift.cluster.fleet.observed import Reshard
from bitsift.cluster.fleet.state import State
from bitsift.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Known:
    """What ``node`` has kept of the index ``uuid``."""

    state: State
    uuid: str
    node: str


def in_force(known: Sequence[Known], here: Collection[str], *, is_forgone: bool = False) -> Known:
    """The newest of ``known``, of which there is one at least; ``here`` are the nodes that report.

    Raises Unavailable where a reshard may have ended on nodes that do not, unless it ``is_forgone``
    by an operator.
    """
    left = [it for it in known if not any(_replaces(other, it.uuid, it.state) for other in known)]
    newest = max(left, key=lambda it: it.state.epoch)
    order = newest.state.orders.reshard
    if order is not None and not is_forgone:
        _check_not_ended(order, here)
    return newest


def newest_epoch(known: Sequence[Known], held: Sequence[Held]) -> int:
    """The greatest that any disk knows: the next one is new to all. A controller that ended may
    have started an actor, or sealed a replica, with an epoch that no state names.
    """
    of_replicas = [epoch for it in held for epoch in (it.epoch, it.sealed)]
    return max([0, *of_replicas, *(it.state.epoch for it in known)])


def is_outrun(known: Sequence[Known], uuid: str, state: State) -> bool:
    """Whether some disk knows better than a controller that serves ``uuid`` by ``state``."""
    return any(
        _replaces(it, uuid, state) or (it.uuid == uuid and it.state.epoch > state.epoch)
        for it in known
    )


def _replaces(other: Known, uuid: str, state: State) -> bool:
    return uuid in other.state.retired and other.uuid not in state.retired


def _check_not_ended(order: Reshard, here: Collection[str]) -> None:
    """Copies may have been left out since, but of each new shard one at least was there."""
    away = min(([node for node in nodes if node not in here] for nodes in order.targets), key=len)
    if away:
        raise Unavailable(
            f"a reshard to {order.shards} shards may have ended while the nodes that answer were "
            f"away: start {', '.join(away)}; if that is lost for good, bitsift cluster reshard "
            "--undo goes on with the shards as they were"
        )
