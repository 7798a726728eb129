"""Compaction of an index that is not being served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.manifest import open_manifest
from cluster.opened import open_shard
from router.admin import Reclaimed, reclaimed

OnShards = Callable[[int, int], None]
"""Called with the shards that are done, and how many there are."""


def compact(index: Path, on_shards: OnShards = lambda _, __: None) -> list[Reclaimed]:
    """Drop the dead rows of every shard. Killed on the way, each shard is as it was or compact.

    Raises NotFound, Unavailable while the index is being served (then the cluster compacts it),
    StorageFull where the smaller copy has no room beside the old one.
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
