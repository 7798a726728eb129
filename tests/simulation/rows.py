"""The store of a simulated replica: a dictionary, which answers what the shard's admission asks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.inventory import Inventory
from bitsift.shard_worker.operations import Delete, Operation, Upsert
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.tombstones import Tombstone
from bitsift.shard_worker.types import LIVE_POSITION

WIDTH = 8
_RECORD = bytes(WIDTH)


def codes(count: int) -> NDArray[np.int8]:
    """Of documents whose vectors do not matter: int8 (``count``, ``WIDTH``)."""
    return np.zeros((count, WIDTH), dtype=np.int8)


def upsert(
    texts: dict[str, str], version: int = NO_VERSION, position: int = LIVE_POSITION
) -> Upsert:
    """Of documents by id."""
    blank, positions = [""] * len(texts), [position] * len(texts)
    found = [*texts], blank, [*texts.values()], blank, positions, codes(len(texts))
    return Upsert(*found, version=version)


@functools.cache
def key_of(document_id: str) -> int:
    return int(id_keys([document_id])[0])


class Held(NamedTuple):
    """The last row of an id, living or dead: then ``version`` is that of the deletion."""

    row: int
    text: str
    version: int
    is_alive: bool
    position: int
    at_s: float
    """When it was stored, on the clock of the simulation."""


class Rows(dict[str, Held]):
    """What admission asks a store: reader, lookup, versions and deletions in one."""

    width = WIDTH

    def __init__(self, held: dict[str, Held] | None = None, forgotten: int = NO_VERSION) -> None:
        """``forgotten`` is the newest version of a deletion that is not remembered any more."""
        super().__init__(held or {})
        self.forgotten = forgotten

    def copied(self) -> Rows:
        return Rows(self, self.forgotten)

    def without_deletions(self, before_s: float) -> Rows:
        """As a compaction leaves them: what was deleted ``before_s`` is not remembered."""
        old = {name for name, it in self.items() if not it.is_alive and it.at_s < before_s}
        forgotten = max((self[name].version for name in old), default=NO_VERSION)
        kept = {name: it for name, it in self.items() if name not in old}
        return Rows(kept, max(self.forgotten, forgotten))

    @property
    def newest(self) -> int:
        """The newest version that it knows of."""
        return max((held.version for held in self.values()), default=self.forgotten)

    def of_row(self, row: int) -> tuple[str, Held]:
        return next(item for item in self.items() if item[1].row == row)

    def inventory(self) -> Inventory:
        held = list(self.values())
        return Inventory.of(
            np.array([key_of(name) for name in self], dtype=np.uint64),
            np.array([one.version for one in held], dtype=np.uint64),
            np.array([not one.is_alive for one in held], dtype=np.bool_),
            self.forgotten,
        )

    def operations(self, keys: Iterable[int]) -> list[Operation]:
        """What makes another replica hold what lies under ``keys``."""
        asked = set(keys)
        return [self._operation(name) for name in self if key_of(name) in asked]

    def _operation(self, name: str) -> Operation:
        it = self[name]
        if not it.is_alive:
            return Delete([name], it.version)
        return upsert({name: it.text}, it.version, it.position)

    # --- for shard_worker/store/admission.py ---------------------------------------------------

    def holds(self, txn: Any, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        known = set(map(key_of, self))
        return np.fromiter((key in known for key in keys.tolist()), np.bool_, len(keys))

    def newest_row_of(self, txn: Any, lookup: Any, document_id: str, key: Any) -> int | None:
        held = self.get(document_id)
        return None if held is None else held.row

    def is_dead(self, txn: Any, row: int) -> bool:
        return not self.of_row(row)[1].is_alive

    def content(self, txn: Any, row: int) -> tuple[str, str, str, str, int]:
        document_id, held = self.of_row(row)
        return document_id, "", held.text, "", held.position

    def record(self, txn: Any, row: int) -> bytes:
        return _RECORD

    def intact(self, first: int, records: Sequence[bytes]) -> list[bool]:
        return [True] * len(records)

    def have_tombstones(self, txn: Any, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return np.zeros(len(keys), dtype=np.bool_)

    def of(self, txn: Any, row_or_id: Any, key: Any = None, last: Any = None) -> Any:
        """``Versions.of`` of a row, ``Deletions.of`` of an id."""
        if isinstance(row_or_id, int):
            return self.of_row(row_or_id)[1].version
        held = self.get(row_or_id)
        return None if held is None else Tombstone(row_or_id, held.version, 0)
