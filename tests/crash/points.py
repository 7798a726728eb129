"""Named places in the code at which a shard process kills itself. Only the child is patched."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitsift.shard_worker import compaction, layout
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.lists import ListedBits
from bitsift.shard_worker.compaction import Compaction
from bitsift.shard_worker.layout import SHARD_FILE
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.commits import Commits
from bitsift.shard_worker.store.id_map import StoredIds
from bitsift.shard_worker.store.ids import IdMap
from bitsift.shard_worker.store.rows import RowWriter
from bitsift.shard_worker.store.successor import Successor

BEFORE: dict[str, tuple[Any, str]] = {
    "in the transaction, before any of it": (Store, "_put"),
    "in the transaction, codes and texts are put": (RowWriter, "put_dead"),
    "in the transaction, before its commit": (Commits, "_put"),
    "committed, not yet in RAM": (BinaryIndex, "apply"),
    "ids half merged": (IdMap, "_merge_part"),
    "compaction, rows half copied": (Successor, "put_rows"),
    "compaction, tombstones not copied": (Successor, "copy_tombstones"),
    "compaction, ids not copied": (StoredIds, "fill"),
    "compaction, before its end": (Compaction, "finish"),
    "compaction, named, folder not synced": (compaction, "sync_folder"),
    "compaction, snapshot not written": (Compaction, "settle"),
    "compaction, lists not moved": (ListedBits, "move"),
    "file aside, not synced": (os, "fsync"),
    "file renamed, folder not synced": (layout, "sync_folder"),
    "lists made, not taken": (BinaryIndex, "adopt"),
    "copy of the data file": (Store, "copy_data"),
}
AFTER: dict[str, tuple[Any, str]] = {"written, not yet acknowledged": (Shard, "write")}
RENAMES: dict[str, Callable[[Path], bool]] = {
    "compaction, before the rename": lambda path: path.name.startswith(SHARD_FILE),
    "file aside, not renamed": lambda path: path.suffix == ".partial",
}
ALL = (*BEFORE, *AFTER, *RENAMES)


def arm(name: str, after: int, last_words: Path) -> None:
    """Kill this process by SIGKILL when it comes to ``name`` for the ``after``-th time.

    ``last_words`` is then there: it proves that the place was reached.
    """
    calls = itertools.count(1)

    def reached() -> None:
        if next(calls) == after:
            last_words.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    owner, attribute = {**BEFORE, **AFTER}.get(name, (Path, "replace"))
    plain = getattr(owner, attribute)

    def patched(*arguments: Any, **named: Any) -> Any:
        if name in BEFORE or (name in RENAMES and RENAMES[name](arguments[0])):
            reached()
        result = plain(*arguments, **named)
        if name in AFTER:
            reached()
        return result

    setattr(owner, attribute, patched)
