"""Orders of operators: checked against what is there before they are kept."""

from __future__ import annotations

from dataclasses import replace

from bitsift.cluster.fleet.observed import Extra, Loss, Move, Observed, Orders
from bitsift.cluster.manifest import SHARDS_MAX
from bitsift.errors import InvalidRequest, NotFound, Unavailable

ORDERS_MAX = 1_000


def moved(observed: Observed, shard: int, source: str, target: str) -> Orders:
    """Move the copy on ``source`` to ``target``. Raises NotFound, InvalidRequest."""
    _check_shard(observed, shard)
    _check_holder(observed, target)
    _check_no_reshard(observed)
    holders = {replica.node for replica in observed.of_shard(shard)}
    if source not in holders:
        raise NotFound(
            f"node {source} has no copy of shard {shard}; these have one: {_listed(holders)}"
        )
    if target in holders:
        raise InvalidRequest(f"node {target} already has a copy of shard {shard}; choose another")
    if target in observed.orders.drained:
        raise InvalidRequest(f"node {target} is being drained; choose another")
    others = [m for m in observed.orders.moves if (m.shard, m.source) != (shard, source)]
    return _limited(replace(observed.orders, moves=(*others, Move(shard, source, target))))


def added(observed: Observed, shard: int, node: str | None) -> Orders:
    """One copy more of ``shard``. Raises NotFound, InvalidRequest."""
    _check_shard(observed, shard)
    _check_no_reshard(observed)
    if node is not None:
        _check_holder(observed, node)
        if node in {replica.node for replica in observed.of_shard(shard)}:
            raise InvalidRequest(f"node {node} already has a copy of shard {shard}; choose another")
    return _limited(replace(observed.orders, extras=(*observed.orders.extras, Extra(shard, node))))


def drained(observed: Observed, node: str, *, undo: bool) -> Orders:
    """Take everything off ``node``, or let it have replicas again. Raises NotFound."""
    if undo:
        return replace(observed.orders, drained=observed.orders.drained - {node})
    _check_node(observed, node)
    return replace(observed.orders, drained=observed.orders.drained | {node})


def lost(observed: Observed, shard: int, wanted: int) -> Orders:
    """Go on with the replicas of ``shard`` that answer, without the others of its table. Raises
    NotFound, InvalidRequest, Unavailable.
    """
    _check_shard(observed, shard)
    stuck = observed.stuck(shard, wanted)
    if not stuck:
        raise InvalidRequest(
            f"shard {shard} has lost no majority of its replicas, or it answers by now: there is "
            "nothing to give up"
        )
    if len(stuck) == len(observed.table.shards[shard]):
        raise Unavailable(
            f"no replica of shard {shard} answers: there is nothing to go on with. Start one of "
            f"these nodes: {_listed(set(stuck))}"
        )
    others = [loss for loss in observed.orders.losses if loss.shard != shard]
    return replace(observed.orders, losses=(*others, Loss(shard, stuck)))


def pending(observed: Observed) -> Orders:
    """The orders without the moves that are done, and the losses that are in the table."""
    moves = [
        move
        for move in observed.orders.moves
        if move.source in {replica.node for replica in observed.of_shard(move.shard)}
    ]
    losses = [
        loss
        for loss in observed.orders.losses
        if set(loss.nodes).intersection(observed.table.shards[loss.shard])
    ]
    return replace(observed.orders, moves=tuple(moves), losses=tuple(losses))


def check_reshard(observed: Observed, shards: int) -> None:
    """Whether the index may get so many shards now. Raises InvalidRequest, Unavailable."""
    now = len(observed.table.shards)
    if not 1 <= shards <= SHARDS_MAX:
        raise InvalidRequest(f"{shards} shards: an index has 1 to {SHARDS_MAX:,}")
    _check_no_reshard(observed)
    if shards == now:
        raise InvalidRequest(f"the index has {now} shards already")
    if observed.orders.moves:
        raise InvalidRequest("copies are being moved: wait until bitsift cluster status shows none")
    if observed.orders.stopped:
        raise InvalidRequest("the cluster is stopped: bitsift cluster up comes first")
    if not all(observed.table.shards):
        raise Unavailable("not every shard has a copy that answers: try again when all have")


def _check_no_reshard(observed: Observed) -> None:
    if observed.orders.reshard is not None:
        raise InvalidRequest(
            f"the index is being resharded to {observed.orders.reshard.shards} shards: wait until "
            "that has ended, or drop it with bitsift cluster reshard --undo"
        )


def _check_shard(observed: Observed, shard: int) -> None:
    shards = len(observed.table.shards)
    if not 0 <= shard < shards:
        raise NotFound(f"there is no shard {shard}; the index has {shards}, from 0 on")


def _check_node(observed: Observed, name: str) -> None:
    here = {node.name for node in observed.nodes if node.lost_at is None}
    if name not in here:
        raise NotFound(f"there is no node {name}, or it does not answer; these do: {_listed(here)}")


def _check_holder(observed: Observed, name: str) -> None:
    _check_node(observed, name)
    if any(node.name == name and not node.has_data for node in observed.nodes):
        raise InvalidRequest(f"node {name} is for routers alone, by its label; choose another")


def _limited(orders: Orders) -> Orders:
    if len(orders.moves) + len(orders.extras) > ORDERS_MAX:
        raise InvalidRequest(f"no more than {ORDERS_MAX:,} moves and extra copies; edit the spec")
    return orders


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
