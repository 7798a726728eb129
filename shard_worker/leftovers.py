"""Stores of a shard that are not its current one: removed, and nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bitsift.shard_worker.bits.lists import LISTS_FILE
from bitsift.shard_worker.layout import STORE_FOLDER, remove_partials
from bitsift.shard_worker.store.block_reader import BLOCKS_FILE
from bitsift.shard_worker.store.lmdb_file import DATA_FILE

_NEXT_FOLDER_1 = "store.next"
"""What a compaction of version 0.1.0 makes."""


def remove_store(folder: Path) -> None:
    """Remove the store in ``folder``, which nobody has open, and nothing else.

    A folder of this name with other files in it, or a link, stays.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        remove_partials(folder)
        for name in (DATA_FILE, "lock.mdb", BLOCKS_FILE, LISTS_FILE):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def remove_leftovers(folder: Path, store: Path | None) -> None:
    """Remove what interrupted compactions left in the shard directory ``folder``: all stores but
    ``store``, the current one. Lists that were not moved out of it yet come to their place.
    """
    for path in folder.iterdir():
        if path != store and (STORE_FOLDER.fullmatch(path.name) or path.name == _NEXT_FOLDER_1):
            remove_store(path)
    if store is not None:
        with contextlib.suppress(FileNotFoundError):
            (store / LISTS_FILE).replace(folder / LISTS_FILE)
