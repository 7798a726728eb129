"""The generation of a shard that answers, and those before it that may still be read."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from bitsift.errors import Unavailable
from bitsift.shard_worker.generation import Generation, OpenStore

RETIRED_S = 90.0
"""How long the store before a compaction stays open: longer than any request (60 s)."""


class Generations:
    """One that is current, and the open stores of those that were replaced a while ago."""

    def __init__(self, folder: Path, current: Generation) -> None:
        self._folder = folder
        self.current = current
        self.is_closed = False
        """Once the shard is being closed nothing new begins."""
        self._retired: list[tuple[float, OpenStore]] = []

    def check_open(self) -> None:
        """Raises Unavailable once the shard is being closed."""
        if self.is_closed:
            raise Unavailable(f"{self._folder} is closed")

    def replace(self, new: Generation) -> None:
        """Let ``new`` replace the current one, whose documents may still be asked for."""
        old = self.current.open_store
        self._retired.append((time.monotonic() + RETIRED_S, old))  # first kept, then replaced
        self.current = new
        old.is_replaced = new.store.writes_stopped is None  # else a crash may bring it back

    def open_stores(self) -> list[OpenStore]:
        """All that may be read, the current one first."""
        return [self.current.open_store, *(kept for _, kept in self._retired)]

    def disk_bytes(self) -> int:
        """What all files of the shard occupy, but for stores that are about to go."""
        retired = {open_store.store.path for open_store in self.open_stores()[1:]}
        paths = (path for path in self._folder.rglob("*") if path.parent not in retired)
        return sum(map(_disk_bytes, paths))

    def volume(self) -> tuple[int, int]:
        """Bytes of the file system of the shard's files: all, and those that are free for it."""
        found = os.statvfs(self._folder)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def close_due(self) -> None:
        """Release those that no query can ask for any more. One thread at a time."""
        due = [open_store for at, open_store in self._retired if time.monotonic() > at]
        self._retired = [(at, kept) for at, kept in self._retired if kept not in due]
        for open_store in due:
            open_store.retire()

    def close(self) -> None:
        """Release all, even if one fails."""
        with contextlib.ExitStack() as closing:
            for open_store in self.open_stores():
                closing.callback(open_store.retire)


def _disk_bytes(path: Path) -> int:
    """Disk space of a file, which may vanish at any time."""
    try:
        return path.stat().st_blocks * 512 if path.is_file() else 0
    except FileNotFoundError:
        return 0
