"""One state of a shard, to be copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bitsift.shard_worker.bits.tuning import MEASURED_FILES
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.lmdb_file import DATA_FILE


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

    @classmethod
    def of(cls, folder: Path, store: Store, shard_file: bytes) -> Self:
        """That of the shard in ``folder`` with this ``store``, which is kept open."""
        names = [*sorted(folder.glob("bits-*.bits")), *(folder / it for it in MEASURED_FILES)]
        sealed = tuple(path for path in names if path.exists())
        return cls(store.copy_data, store.path / DATA_FILE, sealed, shard_file)
