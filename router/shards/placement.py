"""The one place that decides which shards own a document, for writes, reads, loads and
measurements; and on which nodes the replicas of each shard are.

A document is owned by a set of shards, today of one: BLAKE2b-64 of its id, modulo the number of
shards. What is written goes to every owner; what is read may be asked of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.store.packing import id_keys


@dataclass(frozen=True, slots=True)
class Placement:
    """How the ids of an index of ``shards`` shards are spread over them; it never changes."""

    shards: int

    def owners(self, document_id: str) -> tuple[int, ...]:
        """The shards that own one id, at least one."""
        (owner,) = self._hashed([document_id]).tolist()
        return (owner,)

    def by_owner(self, ids: Sequence[str]) -> dict[int, NDArray[np.int64]]:
        """For each shard that owns some of ``ids``: their places, int64 (n,), ascending."""
        if not len(ids):
            return {}
        owners = self._hashed(ids)
        order = np.argsort(owners, kind="stable")
        shards, starts = np.unique(owners[order], return_index=True)
        return dict(zip(shards.tolist(), np.split(order, starts[1:]), strict=True))

    def _hashed(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """int64 (n,). The hash is read as a little-endian number; ``id_keys`` are big-endian."""
        return (id_keys(ids).byteswap() % np.uint64(self.shards)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """One replica of a shard: the name of the ``node`` that its folder lies on, and the handle of
    the ShardActor that has it open. ``node`` is "" where there is one machine only.
    """

    node: str
    actor: Any


@dataclass(frozen=True, slots=True)
class ReplicaTable:
    """Where the replicas of every shard are, by shard number; a shard may have none at the moment.

    A later table has a greater ``epoch``. ``index`` is the uuid of the index whose shards these
    are: a reshard gives it another one, and another number of shards. "" where it never changes.
    ``replicas`` are ordered of each shard: more may be in it for a moment, and fewer while some are
    lost.
    """

    epoch: int
    shards: tuple[tuple[ReplicaAddress, ...], ...]
    index: str = ""
    replicas: int = 1

    @classmethod
    def of(cls, actors: Sequence[Any]) -> ReplicaTable:
        """One replica of each shard, all on one machine."""
        return cls(0, tuple((ReplicaAddress("", actor),) for actor in actors))
