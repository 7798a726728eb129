"""A backup of an index that is not being served: its shards are opened here, one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from cluster.manifest import open_manifest
from cluster.opened import open_shard
from shard_worker.backup import Backup, BackupReport, copy_shard

OnBytes = Callable[[int, int], None]
"""Called with the bytes that were read so far, and those that will be."""


def back_up(index: Path, dest: str, on_bytes: OnBytes = lambda _, __: None) -> BackupReport:
    """Copy a finished index into the repository ``dest``: a folder, or a URL of object storage.

    Raises NotFound or Unavailable where ``index`` is none, is not finished, or is being served
    (then the cluster makes the backup); InvalidRequest where ``dest`` holds another index.
    """
    manifest, _ = open_manifest(index)
    backup = Backup(dest, manifest.uuid)
    total = sum(_size(path) for path in index.glob("shard-*/**/*"))
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        on_bytes(min(done, total), total)

    copies = []
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            copies.append(copy_shard(shard, dest, count))
    return backup.finish(copies)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0
