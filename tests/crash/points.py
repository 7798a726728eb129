"""Named places in the code at which a shard process kills itself. Only the child is patched."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shard_worker import compaction, layout
from shard_worker.compaction import Compaction
from shard_worker.datafile import DATA_FILE
from shard_worker.ids import IdMap
from shard_worker.index import BinaryIndex
from shard_worker.lists import ListedBits
from shard_worker.shard import Shard
from shard_worker.store import Store

BEFORE: dict[str, tuple[Any, str]] = {
    "in the transaction, before any of it": (Store, "_put"),
    "in the transaction, codes and texts are put": (Store, "_put_dead"),
    "in the transaction, before its commit": (Store, "_put_counters"),
    "committed, not yet in RAM": (BinaryIndex, "apply"),
    "ids half merged": (IdMap, "_merge_part"),
    "compaction, rows half copied": (Store, "put_copied"),
    "compaction, ids not copied": (Store, "put_ids"),
    "compaction, before its end": (Compaction, "finish"),
    "compaction, renamed, folder not synced": (compaction, "sync_folder"),
    "compaction, snapshot not written": (Compaction, "settle"),
    "compaction, lists not moved": (ListedBits, "move"),
    "file aside, not synced": (os, "fsync"),
    "file renamed, folder not synced": (layout, "sync_folder"),
    "lists made, not taken": (BinaryIndex, "adopt"),
    "copy of the data file": (Store, "copy_data"),
}
AFTER: dict[str, tuple[Any, str]] = {"written, not yet acknowledged": (Shard, "write")}
RENAMES: dict[str, Callable[[Path], bool]] = {
    "compaction, before the rename": lambda path: path.name == DATA_FILE,
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
