"""An order to reshard: checked against what is there, and what the new index is."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bitsift.cluster.fleet.observed import Reshard
from bitsift.cluster.fleet.orders import check_reshard
from bitsift.cluster.fleet.reshard_steps import targets_of
from bitsift.cluster.fleet.served import Served
from bitsift.cluster.manifest import (
    Manifest,
    report_without_records,
    write_complete,
    write_manifest,
)
from bitsift.errors import FormatMismatch, StorageFull, Unavailable
from bitsift.shard_worker.layout import COMPLETE_FILE, MANIFEST_FILE
from bitsift.shard_worker.types import ShardStatus

ROOM = 1.2
"""New shards take no more than this times what the old ones do."""


def ordered(index: Served, replicas: int, shards: int) -> Reshard:
    """The order to make ``shards`` shards, if that can be. Raises InvalidRequest, Unavailable,
    StorageFull, FormatMismatch.
    """
    observed = index.observed
    check_reshard(observed, shards)
    held = {held.uuid for report in index.reports.values() for held in report.held}
    if not held.isdisjoint(index.state.retired):
        raise Unavailable(
            "the shards of the last reshard are being removed: try again in 2 minutes"
        )
    statuses = [it for it in index.said.values() if isinstance(it, ShardStatus)]
    if any(status.format.startswith("1") for status in statuses):
        raise FormatMismatch(
            "shards in format 1 keep no versions, so that writes cannot be followed: compact the "
            "index first, which brings them into the current format"
        )
    nodes = [
        node for node in observed.nodes
        if node.has_data and node.lost_at is None and node.name not in observed.orders.drained
    ]  # fmt: skip
    if not nodes:
        raise Unavailable("there is no node that may have new shards: start one, or undo a drain")
    targets = targets_of(nodes, shards, replicas)
    used = dict[int, int]()
    for status in statuses:
        used[status.shard] = max(used.get(status.shard, 0), status.disk_bytes)
    free_bytes = {node: report.free_bytes for node, report in index.reports.items()}
    check_room(targets, sum(used.values()), free_bytes)
    return Reshard(str(uuid.uuid4()), targets)


def successor_of(manifest: Manifest, order: Reshard) -> Manifest:
    """That of the new shards: the same in all but the number of shards, and what follows."""
    request = {"reshard": manifest.uuid, "shards": order.shards}
    return replace(manifest, uuid=order.uuid, shards=order.shards, request=request)


def index_files_of(manifest: Manifest, documents: Sequence[int]) -> dict[str, bytes]:
    """What belongs to the whole of the new index, which is finished."""
    report = report_without_records(documents, manifest.calibration.dimension)
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), manifest)
        write_complete(Path(folder), report)
        return {name: Path(folder, name).read_bytes() for name in (MANIFEST_FILE, COMPLETE_FILE)}


def check_room(
    targets: Sequence[Sequence[str]], used_bytes: int, free_bytes: Mapping[str, int]
) -> None:
    """Whether the nodes have room for the new shards beside the old ones, which take
    ``used_bytes`` in one copy. Raises StorageFull with what is missing.
    """
    needed = dict[str, int]()
    for nodes in targets:
        for node in nodes:
            needed[node] = needed.get(node, 0) + int(ROOM * used_bytes / len(targets))
    short = {node: n for node, n in needed.items() if free_bytes.get(node, 0) < n}
    if short:
        said = "; ".join(
            f"node {node} has {free_bytes.get(node, 0) / 1e9:,.2f} GB free, the new shards take "
            f"about {count / 1e9:,.2f} GB there"
            for node, count in sorted(short.items())
        )
        raise StorageFull(f"{said}: add disk or nodes, the old shards stay until the switch")
