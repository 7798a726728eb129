"""Bringing an index that is not being served into the current format, shard by shard.

A shard is upgraded by a compaction, which creates the new store next to the old one and switches to
it atomically. So a run that was killed leaves each shard in one format or the other, and the next
run does those that are left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitsift.cluster.maintenance.opened import open_shard, open_store
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.errors import StorageFull
from bitsift.shard_worker.compaction import bytes_beside
from bitsift.shard_worker.format_version import CURRENT, Format
from bitsift.shard_worker.layout import read_shard_file, shard_folder

OnRows = Callable[[int, int], None]
"""Called with the rows that were copied so far, and those that will be."""


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What is to be done: ``shards`` are those in an earlier format, with ``rows`` in all.

    ``bytes_needed`` is what the largest of them takes temporarily, ``bytes_free`` what is free.
    """

    index: str
    format: str
    shards: tuple[int, ...]
    shards_in_all: int
    rows: int
    bytes_needed: int
    bytes_free: int


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What was done. ``shards_upgraded`` of ``shards`` were in an earlier format."""

    index: str
    format: str
    shards: int
    shards_upgraded: int
    rows: int
    bytes_needed: int


def format_of(index: Path, shard: int) -> Format:
    """The format that a shard is in. Raises NotFound, Corrupt."""
    return read_shard_file(shard_folder(index, shard)).format


def plan_upgrade(index: Path) -> UpgradePlan:
    """What ``upgrade`` will do.

    Raises NotFound, Unavailable while the index is being served or built, Corrupt.
    """
    manifest, _ = open_manifest(index)
    every = range(manifest.shards)
    earlier = tuple(shard for shard in every if format_of(index, shard).major < CURRENT.major)
    rows, needed = 0, 0
    for number in earlier:
        with open_store(index, manifest, number) as store:
            rows += store.rows
            needed = max(needed, bytes_beside(store))
    free = shutil.disk_usage(index).free
    return UpgradePlan(str(index), str(CURRENT), earlier, len(every), rows, needed, free)


def upgrade(plan: UpgradePlan, on_rows: OnRows = lambda _, __: None) -> UpgradeReport:
    """Bring each shard into the current format. Killed at any moment, run it again.

    Raises StorageFull, before anything is written where there is no room for the largest shard.
    """
    if plan.bytes_free < plan.bytes_needed:
        raise StorageFull(
            f"{plan.index}: the upgrade takes {plan.bytes_needed / 1e9:,.2f} GB in "
            "addition to what is "
            f"there, {plan.bytes_free / 1e9:,.2f} GB are free; free "
            f"{(plan.bytes_needed - plan.bytes_free) / 1e9:,.2f} GB and run it again"
        )
    index = Path(plan.index)
    manifest, _ = open_manifest(index)
    done = 0
    for number in plan.shards:
        before = done

        def count(rows: int, _: int, before: int = before) -> None:
            on_rows(before + rows, plan.rows)

        done += _upgrade_shard(index, manifest, number, count)
        on_rows(done, plan.rows)
    return UpgradeReport(
        index=plan.index,
        format=plan.format,
        shards=plan.shards_in_all,
        shards_upgraded=len(plan.shards),
        rows=plan.rows,
        bytes_needed=plan.bytes_needed,
    )


def _upgrade_shard(index: Path, manifest: Manifest, number: int, on_rows: OnRows) -> int:
    """Upgrade one shard; how many rows it had."""
    with open_shard(index, manifest, number) as shard:
        rows = shard.status().rows
        shard.upgrade(on_rows)
        return rows
