"""The shards of an index that is not being served, opened in this process for maintenance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bitsift.cluster.manifest import Manifest
from bitsift.shard_worker.layout import check_identity, read_identity, shard_folder
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.only_store import open_only_store


@contextlib.contextmanager
def open_shard(index: Path, manifest: Manifest, number: int) -> Iterator[Shard]:
    """One open shard. Raises Unavailable while another process has it open, Corrupt, NotFound."""
    folder = shard_folder(index, number)
    shard = Shard(folder, manifest.calibration, manifest.identity(number))
    try:
        yield shard
    finally:
        shard.close()


@contextlib.contextmanager
def open_store(index: Path, manifest: Manifest, number: int) -> Iterator[Store]:
    """The store of one shard, to be read, without its bits. Raises as ``open_shard`` does."""
    folder, identity = shard_folder(index, number), manifest.identity(number)
    check_identity(folder, read_identity(folder), identity)
    with open_only_store(folder, identity) as store:
        yield store


def living_documents(index: Path, manifest: Manifest) -> int:
    """How many documents an index holds now. Raises as ``open_store`` does."""
    found = 0
    for number in range(manifest.shards):
        with open_store(index, manifest, number) as store:
            found += store.rows - store.dead_rows
    return found
