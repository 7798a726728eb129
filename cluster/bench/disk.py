"""What an index takes on disk, part by part, and how its store is made cold again."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from bitsift.shard_worker.layout import LOCK_FILE, SHARD_FILE, store_folder
from bitsift.shard_worker.store import DATABASES, STORE_BYTES_MAX
from bitsift.shard_worker.store.block_reader import BLOCKS_FILE
from bitsift.shard_worker.store.environment import DATABASES_MAX
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, LMDB_ENGINE

SHARD_FILES = f"shard-*/{SHARD_FILE}"


def stores_of(index: Path) -> list[Path]:
    """The data files of all shards of an index."""
    return [store_folder(file.parent) / DATA_FILE for file in sorted(index.glob(SHARD_FILES))]


def disk_use(index: Path) -> dict[str, int]:
    """Bytes of each part of an index.

    The LMDB databases by the pages that they hold, ``codes`` with the tail and their file of
    hints; ``free`` pages are in the file, used again or reserved; ``bits`` are the other files of
    the shards, the lists of an approximate search among them.
    ``without_texts`` is all but ``documents``; ``payload`` is codes and bits alone. No process may
    have the store open for writing through *this* process (LMDB's rule: once per process).
    """
    use = dict.fromkeys((*DATABASES, "free", "bits"), 0)
    for store in stores_of(index):
        pages = _pages_of(store)
        page_bytes = pages.pop("page_bytes")
        for name, count in pages.items():
            use[name] += count * page_bytes
        use["free"] += store.stat().st_size - sum(pages.values()) * page_bytes
    files = [path for path in index.glob("shard-*/*") if path.is_file() and path.name != LOCK_FILE]
    use["bits"] = sum(path.stat().st_size for path in files)
    hints = [store.parent / BLOCKS_FILE for store in stores_of(index)]
    use["codes"] += use.pop("tail") + sum(it.stat().st_size for it in hints if it.exists())
    total = sum(use.values())
    without_texts = total - use["documents"]
    payload = use["codes"] + use["bits"]
    return use | {"total": total, "without_texts": without_texts, "payload": payload}


def _pages_of(store: Path) -> dict[str, int]:
    folder = str(store.parent)
    with lmdb.open(
        folder, map_size=STORE_BYTES_MAX, max_dbs=DATABASES_MAX, readonly=True, readahead=False,
        lib_version=LMDB_ENGINE,
    ) as env:  # fmt: skip
        found = {"page_bytes": int(env.stat()["psize"])}
        with env.begin() as txn:
            for name in DATABASES:
                if txn.get(name.encode()) is None:
                    continue  # of a later format than the store's
                stat = txn.stat(env.open_db(name.encode(), txn=txn, create=False))
                found[name] = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return found


def drop_from_cache(index: Path) -> None:
    """Ask the kernel to forget the pages of the stores, without being root.

    Pages that a process has mapped stay: stop the shards first.
    """
    for store in stores_of(index):
        descriptor = os.open(store, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # dirty pages are not dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_from_disk_bytes(pids: list[int]) -> int:
    """Bytes that processes have had fetched from the disk so far (/proc/PID/io)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    return total
