"""The counters of a store: what it says of itself, in the transaction of every change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.format_version import FORMAT_1, Format
from bitsift.shard_worker.store.packing import sum_of
from bitsift.shard_worker.store.tombstones import Tally


@dataclass(frozen=True, slots=True)
class Counters:
    """What the store says of itself, in the transaction of every change.

    ``merged_rows`` have their ids in the database; ``dead_sum`` and ``ids_sum`` are checksums.
    ``transaction`` is LMDB's number of the transaction that wrote this: an older state in the place
    of the newest has another. Since format 2: ``newest_version`` is the greatest that any write
    had, ``forgotten_version`` the greatest of a deletion that is gone; ``others`` are those of a
    newer minor version, which are kept.
    """

    rows: int = 0
    dead: int = 0
    merged_rows: int = 0
    generation: int = 0
    dead_sum: int = 0
    ids_sum: int = 0
    transaction: int = 0
    newest_version: int = 0
    tombstones: int = 0
    tombstone_bytes: int = 0
    forgotten_version: int = 0
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tally(self) -> Tally:
        """What they say of tombstones."""
        return Tally(self.tombstones, self.tombstone_bytes, self.forgotten_version)

    def with_tally(self, tally: Tally) -> Counters:
        return dataclasses.replace(self, **_tally_facts(tally))

    def with_dead(self, rows: NDArray[np.int64]) -> Counters:
        """These with more dead ``rows`` (n,)."""
        return self.after(0, rows, self.newest_version, self.tally)

    def after(self, added: int, dead: NDArray[np.int64], version: int, tally: Tally) -> Counters:
        """These after a write of ``version``: ``added`` rows, more ``dead`` rows (n,), and what
        there is of tombstones. One copy, which takes 3 µs.
        """
        checksum = sum_of(dead.astype(np.uint64)) if len(dead) else 0
        return dataclasses.replace(
            self,
            rows=self.rows + added,
            dead=self.dead + len(dead),
            dead_sum=(self.dead_sum + checksum) % (1 << 64),
            newest_version=max(self.newest_version, version),
            **_tally_facts(tally),
        )

    def facts(self, version: Format) -> dict[str, Any]:
        """What is kept of them in format ``version``."""
        known = _COUNTERS_1 if version.major == FORMAT_1.major else _COUNTERS
        others = {} if version.major == FORMAT_1.major else self.others
        return {**others, **{name: getattr(self, name) for name in known}}


@dataclass(frozen=True, slots=True)
class Past:
    """What a new store takes over of the stores whose documents it will hold: the greatest version
    that any of their writes had, and the greatest of a deletion that they have forgotten.
    """

    newest_version: int = 0
    forgotten_version: int = 0


NO_PAST = Past()


def _tally_facts(tally: Tally) -> dict[str, Any]:
    return {
        "tombstones": tally.count,
        "tombstone_bytes": tally.size_bytes,
        "forgotten_version": tally.forgotten,
    }


_COUNTERS = tuple(name for name in Counters.__dataclass_fields__ if name != "others")
_COUNTERS_1 = _COUNTERS[: _COUNTERS.index("transaction") + 1]
_KNOWN, _KNOWN_1 = frozenset(_COUNTERS), frozenset(_COUNTERS_1)


def counters_of(facts: dict[str, Any], version: Format) -> Counters | None:
    """What ``Counters.facts`` gave in format ``version``; None where that is something else."""
    there = facts.keys()
    if there == (_KNOWN_1 if version.major == FORMAT_1.major else _KNOWN):
        return Counters(**facts)
    if version.major == FORMAT_1.major or not there >= _KNOWN_1:
        return None
    known = {name: facts[name] for name in _COUNTERS if name in facts}
    return Counters(**known, others={k: v for k, v in facts.items() if k not in known})
