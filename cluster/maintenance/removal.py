"""Removing an index: the files that Bitsift makes, by their names, and nothing else."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.serving.claim import LOCK_FILE
from bitsift.shard_worker.layout import remove_partials, shard_folder
from bitsift.shard_worker.leftovers import remove_leftovers
from bitsift.shard_worker.maintenance.backup import INDEX_FILES

_SHARD_FILE = re.compile(
    r"shard\.(json|lock)|bits-\d{5}\.bits|bits-lists\.(bits|json)|bits-first\.json"
)
_INDEX_FILE = re.compile("|".join(map(re.escape, (*INDEX_FILES, LOCK_FILE))))


def remove_index(index: Path) -> None:
    """Remove the index ``index``, which nobody has open, and each folder that is empty then.

    Raises NotFound or Corrupt where it is no index.
    """
    for number in range(read_manifest(index).shards):
        folder = shard_folder(index, number)
        if folder.is_dir():  # else it was removed before
            remove_leftovers(folder, None)
            _remove(folder, _SHARD_FILE)
    _remove(index, _INDEX_FILE)


def _remove(folder: Path, names: re.Pattern[str]) -> None:
    remove_partials(folder)
    for path in folder.iterdir():
        if names.fullmatch(path.name) and path.is_file():
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
