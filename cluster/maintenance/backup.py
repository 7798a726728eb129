"""A backup of an index that is not being served: its shards are opened here, one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import open_manifest
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.maintenance.backup import Backup, BackupReport, copy_shard

OnBytes = Callable[[int, int], None]
"""Called with the bytes that were read so far, and those that will be."""


def back_up(index: Path, dest: str, on_bytes: OnBytes = lambda _, __: None) -> BackupReport:
    """Copy a finished index into the repository ``dest``: a folder, or a URL of object storage.

    Raises NotFound or Unavailable where ``index`` is none, is not finished, or is being served
    (then the cluster makes the backup); InvalidRequest where ``dest`` holds another index, or lies
    in this one.
    """
    manifest, _ = open_manifest(index)
    if "://" not in dest and Path(dest).resolve().is_relative_to(index.resolve()):
        raise InvalidRequest(f"{dest} is inside the index: a backup there would be lost with it")
    total = sum(_size(path) for path in index.glob("shard-*/**/*"))
    done = 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        on_bytes(min(done, total), total)

    backup, copies = None, []
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            # Only now: where the index is being served, nothing is made in ``dest``.
            backup = backup or Backup(dest, manifest.uuid)
            copies.append(copy_shard(shard, dest, count))
    assert backup is not None
    return backup.finish(copies)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0
