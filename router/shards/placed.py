"""The shards of an index, located by a replica table that may change during calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitsift.errors import InvalidRequest
from bitsift.router.shards.link import ReplicaLink
from bitsift.router.shards.placement import ReplicaAddress, ReplicaTable
from bitsift.router.shards.remote import RemoteLink
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.write_acks import WriteAcks


class PlacedShards:
    """The links of a ReplicaTable: one ReplicaSet for each shard. Lives in one event loop.

    A table of another index, which a reshard has made, brings new ``links``; calls that were begun
    with the earlier ones finish there.
    """

    def __init__(
        self,
        table: ReplicaTable,
        connect: Callable[[int, ReplicaAddress], ReplicaLink] = lambda shard, replica: RemoteLink(
            shard, replica.actor, replica.node
        ),
        acks: WriteAcks = WriteAcks.MAJORITY,
    ) -> None:
        """``connect`` makes the link to a replica of a shard; ``acks`` is for writes."""
        self._connect, self._acks = connect, acks
        self._epoch, self.index = table.epoch, table.index
        self._known: dict[tuple[int, ReplicaAddress], Replica] = {}
        self.links = self._linked(table)

    def _linked(self, table: ReplicaTable) -> tuple[ReplicaSet, ...]:
        members = self._members(table)
        links = [ReplicaSet(shard, it, self._acks) for shard, it in enumerate(members)]
        for link, replicas in zip(links, members, strict=True):
            link.place(replicas, table.epoch, table.replicas)
        return tuple(links)

    @property
    def behind(self) -> tuple[tuple[int, str], ...]:
        """(shard, node) of the replicas that failed a write and are still in the table."""
        links = enumerate(self.links)
        return tuple((shard, node) for shard, link in links for node in link.writes.behind)

    def place(self, table: ReplicaTable) -> int:
        """Use ``table`` for every call from now on, unless it is already in use; returns the epoch.

        Calls in flight finish where they are. Raises InvalidRequest if the table is older than the
        one in use, or has another number of shards of the same index.
        """
        if table.epoch < self._epoch:
            raise InvalidRequest(
                f"the replica table of epoch {table.epoch} is older than that of epoch "
                f"{self._epoch}, in use: its sender has been replaced, and must read the newer one"
            )
        if table.index == self.index and len(table.shards) != len(self.links):
            raise InvalidRequest(
                f"the replica table has {len(table.shards)} shards, but the index has "
                f"{len(self.links)}"
            )
        if table.epoch > self._epoch:
            self._epoch = table.epoch
            if table.index != self.index:
                self.index, self._known = table.index, {}
                self.links = self._linked(table)
                return self._epoch
            for link, replicas in zip(self.links, self._members(table), strict=True):
                link.place(replicas, table.epoch, table.replicas)
        return self._epoch

    def _members(self, table: ReplicaTable) -> list[list[Replica]]:
        """The replicas of each shard; those that stay keep their history."""
        before, self._known = self._known, {}
        return [
            [self._member(shard, address, before) for address in addresses]
            for shard, addresses in enumerate(table.shards)
        ]

    def _member(self, shard: int, address: ReplicaAddress, before: dict[Any, Replica]) -> Replica:
        key = shard, address
        member = before.get(key) or Replica(shard, address.node, self._connect(shard, address))
        self._known[key] = member
        return member
