"""What a controller says of its cluster: for `bitsift cluster status`, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bitsift.cluster.fleet.observed import Node, Replica
from bitsift.cluster.fleet.rolling import progress
from bitsift.errors import Unavailable
from bitsift.router.shards.standing import standings
from bitsift.shard_worker.types import ShardStatus

if TYPE_CHECKING:
    from bitsift.cluster.fleet.control import Control
    from bitsift.cluster.fleet.served_index import Index

_ANY = ("0.0.0.0", "::")
"""Hosts that stand for all addresses of a node."""


def status_of(control: Control, now: float) -> dict[str, Any]:
    """Nodes, shards with their replicas, routers, and what is not as the spec says."""
    nodes = [{"node": name, "address": n.address} for name, n in sorted(control.alive.items())]
    unusable = dict(control.unusable)
    try:
        index = control.index
    except Unavailable:
        return {"index": None, "nodes": nodes, "shards": [], "routers": [], "unusable": unusable}
    lacking = index.lacking(now)
    rolling = progress(control.spec, index.observed, lacking)
    return {
        "index": {"name": index.manifest.name, "uuid": index.manifest.uuid},
        "epoch": index.state.table.epoch,
        "replicas": control.spec.placement.replicas,
        "is_stopped": index.state.orders.stopped,
        "nodes": [_node(control, index, node, now) for node in index.observed.nodes],
        "shards": [
            {
                "shard": number,
                "answering": list(placed),
                "lacking": lacking.get(number, 0),
                "lost_majority": list(
                    index.observed.stuck(number, control.spec.placement.replicas)
                ),
                "replicas": _replicas(index, number, now),
            }
            for number, placed in enumerate(index.observed.table.shards)
        ],
        "routers": [
            {"node": node, "is_well": router.is_well} | _urls(control, index, node)
            for node, router in sorted(index.observed.routers.items())
        ],
        "moves": [
            {"shard": move.shard, "from": move.source, "to": move.target}
            for move in index.state.orders.moves
        ],
        "extra_replicas": [
            {"shard": extra.shard, "node": extra.node} for extra in index.state.orders.extras
        ],
        "rolling": None if rolling is None else asdict(rolling),
        "reshard": None if index.resharding is None else index.resharding.status(),
        "failures": {_named(key): why for key, why in list(index.enactor.failures.items())},
    }


def _node(control: Control, index: Index, node: Node, now: float) -> dict[str, Any]:
    there = control.alive.get(node.name)
    return {
        "node": node.name,
        "zone": node.zone,
        "has_data": node.has_data,
        "address": there.address if there is not None else None,
        "lost_s": None if node.lost_at is None else round(now - node.lost_at, 1),
        "is_drained": node.name in index.state.orders.drained,
        "reason": control.unusable.get(node.name),
    }


def _replicas(index: Index, shard: int, now: float) -> list[dict[str, Any]]:
    replicas = list(index.observed.of_shard(shard))
    said = [index.said.get((shard, it.node)) for it in replicas]
    found = standings([it if isinstance(it, ShardStatus) else None for it in said])
    return [
        _replica(index, replica, now) | asdict(standing)
        for replica, standing in zip(replicas, found, strict=True)
    ]


def _replica(index: Index, replica: Replica, now: float) -> dict[str, Any]:
    place = replica.shard, replica.node
    is_lost = any(n.name == replica.node and n.lost_at is not None for n in index.observed.nodes)
    copy = index.watch.copies.get(place)
    is_shown = copy is not None and (replica.is_copying or copy.error is not None)
    return {
        "node": replica.node,
        "state": "lost" if is_lost else replica.phase,
        "version": replica.version,
        "reason": index.watch.reasons.get(place),
        "sync": index.sync(replica, now),
        "copy": None
        if copy is None or not is_shown
        else {
            "is_running": copy.is_running,
            "done_bytes": copy.done_bytes,
            "total_bytes": copy.total_bytes,
            "fetched_bytes": copy.fetched_bytes,
            "error": copy.error,
        },
    }


def _urls(control: Control, index: Index, node: str) -> dict[str, str | None]:
    url, admin_url = index.urls.get(node, (None, None))
    there = control.alive.get(node)
    address = there.address if there is not None else None
    return {"url": _reachable(url, address), "admin_url": _reachable(admin_url, address)}


def _reachable(url: str | None, address: str | None) -> str | None:
    """An address that others can ask, where a router listens on all that its node has."""
    parts = urlsplit(url or "")
    if parts.hostname not in _ANY or address is None:
        return url
    name = f"[{address}]" if ":" in address else address
    return f"{parts.scheme}://{name}:{parts.port}"


def _named(key: Any) -> str:
    return f"shard {key[0]} on {key[1]}" if isinstance(key, tuple) else str(key)
