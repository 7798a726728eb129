"""A shard as one of several replicas: sealed by epochs, compared with others, brought up to date.

A coordinator (router/shards/replica_writes.py) asks for it; ``ShardActor`` and ``LocalLink`` answer
with what is here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitsift.shard_worker.clock import FIRST_VERSION, NO_VERSION
from bitsift.shard_worker.inventory import KEYS_MAX, Entries, Inventory, ReplicaFacts, facts_of
from bitsift.shard_worker.maintenance.own_rows import RowCheck, check_rows
from bitsift.shard_worker.operations import Operation
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.counters import Past
from bitsift.shard_worker.store.difference import Living, changes_of, inventory_of
from bitsift.shard_worker.store.replay import past_of
from bitsift.write_token import Reached

KEPT_S = 60.0
"""An inventory stays in RAM for so long after it was last asked for: 57 bytes a document."""


@dataclass(slots=True)
class _Kept:
    inventory: Inventory
    moment: tuple[int, int]
    """The generation and the transaction before which it was begun."""
    asked_s: float
    living: Living


class ReplicaState:
    """What other replicas may ask of a shard. Any number of threads."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._kept: _Kept | None = None
        self._reading = threading.Lock()

    def newest_stored(self) -> int:
        """The newest version on the disk; writes that were under way have ended."""
        with self._shard.still() as store:
            return store.counters.newest_version

    def held(self, ids: Sequence[str]) -> list[int]:
        """For each id the version of its document, else that of its deletion, negative, else 0."""
        with self._shard.still() as store:
            rows, versions = store.find_all(ids), store.versions_of(ids)
        pairs = zip(rows, (version or NO_VERSION for version in versions), strict=True)
        return [-it if row is None else max(FIRST_VERSION, it) for row, it in pairs]

    def past(self) -> Past:
        """What a store takes over that is made of this shard. Raises FormatMismatch."""
        with self._shard.reading() as store:
            return past_of(store)

    def inventory(self) -> Inventory:
        """Of what is there now; only what was written since is read again. Raises Corrupt."""
        with self._reading, self._shard.reading() as store:
            kept, moment = self._kept, (store.generation, store.counters.transaction)
            if kept is None or kept.moment != moment:
                before = None if kept is None else kept.living
                found, living = inventory_of(store, self._shard.still(), before)
                kept = _Kept(found, moment, time.monotonic(), living)
            self._kept, kept.asked_s = kept, time.monotonic()
            return kept.inventory

    def _compared(self) -> Inventory:
        """The one that the comparison under way has begun with."""
        if (kept := self._kept) is None:
            return self.inventory()
        kept.asked_s = time.monotonic()
        return kept.inventory

    def tidy(self) -> None:
        """Forget what comparisons keep in RAM, if nobody has asked for it lately."""
        kept = self._kept
        if kept is None or time.monotonic() > kept.asked_s + KEPT_S:
            self._kept = None
            with self._shard.reading() as store:
                store.ids.tidy()

    def facts(self) -> ReplicaFacts:
        """What a comparison begins with: its digests and entries are of the same moment."""
        return facts_of(self.inventory(), self._shard.newest_version)

    def digests(self, bits: int, since: int) -> bytes:
        """Of 2 ** ``bits`` ranges, uint64 each; deletions up to version ``since`` do not count."""
        return self._compared().since(since).digests(bits).tobytes()

    def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        """The entries of some of those ranges, int64 each."""
        chosen = np.frombuffer(ranges, np.int64)
        return Entries.of(self._compared().since(since).within(bits, chosen))

    def begin_mending(self, operations: Sequence[Operation]) -> None:
        """``operations`` will be written, which it lacks, in any order of versions."""
        self._shard.applied.begin_mending(operations)

    def mended(self, reached: Reached) -> None:
        """It lacks nothing of what others have, and is as far as ``reached``."""
        self._shard.applied.mended(reached)

    def applied(self) -> Reached:
        """How far it is."""
        return self._shard.applied.reached

    def check_rows(self, first: int) -> RowCheck:
        """See own_rows.py."""
        with self._shard.reading() as store:
            return check_rows(store, first)

    def bury(self, generation: int, rows: Sequence[int]) -> int:
        """Let damaged rows die, which ``mend`` is about to replace; returns how many lived."""
        return self._shard.bury(generation, rows)

    def changes(self, keys: bytes) -> list[Operation]:
        """The documents and deletions under the hashes ``keys``, uint64 each, ``KEYS_MAX`` at most,
        in their versions: of the first of them, where these are large.
        """
        asked = np.frombuffer(keys, np.uint64)
        assert len(asked) <= KEYS_MAX, len(asked)
        with self._shard.reading() as store:
            return changes_of(store, asked)
