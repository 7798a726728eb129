"""One state of a shard, to be copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """One state of a shard. ``copy_data`` writes its data file, which is ``data``, as it is
    committed at that moment, to a file descriptor; ``sealed`` are derived files that belong to it:
    replaced whole, never written to. ``shard_file`` is what ``shard.json`` says of it.
    """

    copy_data: Callable[[int], None]
    data: Path
    sealed: tuple[Path, ...]
    shard_file: bytes
