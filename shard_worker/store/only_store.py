"""The store of a shard that is not being served, opened without its bits: to check or export it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bitsift.shard_worker.layout import FolderLock, store_folder
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.types import ShardIdentity


@contextlib.contextmanager
def open_only_store(folder: Path, identity: ShardIdentity) -> Iterator[Store]:
    """The store in the shard directory ``folder``, which no other process may have open meanwhile.

    Raises Unavailable where one has, and what ``Store`` raises.
    """
    lock = FolderLock(folder)
    try:
        with contextlib.closing(Store(store_folder(folder), identity)) as store:
            yield store
    finally:
        lock.release()
