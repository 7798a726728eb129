"""Compaction of an index that is not being served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import open_manifest
from bitsift.router.http.admin import Reclaimed, reclaimed

OnShards = Callable[[int, int], None]
"""Called with the shards that are done, and how many there are."""


def compact(index: Path, on_shards: OnShards = lambda _, __: None) -> list[Reclaimed]:
    """Drop the deleted rows of every shard. If this is killed, each shard is either unchanged or
    compacted.

    Raises NotFound, Unavailable while the index is being served (then the cluster compacts it),
    StorageFull if there is no room for the smaller copy next to the old one.
    """
    manifest, _ = open_manifest(index)
    found = []
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            before = shard.status()
            shard.compact()
            found.append(reclaimed(before, shard.status()))
        on_shards(number + 1, manifest.shards)
    return found
