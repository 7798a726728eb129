"""How many of a shard's replicas must have an operation, or be asked, so that what was acknowledged
is found.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitsift.write_acks import WriteAcks


@dataclass(frozen=True, slots=True)
class Quorums:
    """Those of a table with ``placed`` replicas of a shard, of which ``wanted`` were ordered."""

    placed: int
    wanted: int
    acks: WriteAcks

    @property
    def needed(self) -> int:
        """How many must have an operation before it is acknowledged."""
        return self.acks.needed(self.placed, self.wanted)

    @property
    def read_from(self) -> int:
        """How many have to be asked, so that one has all that was acknowledged.

        Some of it under a table that had more of them, which have left since: so no fewer than half
        of those that were ordered. Some of it under a newer one: so many that one of them refuses
        this (cluster/fleet/membership.py) unless two are ordered.
        """
        return max(1, self.placed - self.needed + 1, self._majority)

    @property
    def agreeing(self) -> int:
        """How many of them must have the version that is read: any two such groups have a member in
        common, so that no later read finds an older one. Where one has to be asked, or all, it is
        enough that one has it.
        """
        return self._majority if self.acks is WriteAcks.MAJORITY else 1

    @property
    def _majority(self) -> int:
        return self.sealed if self.wanted > 2 else 1

    @property
    def sealed(self) -> int:
        """How many a new coordinator must seal and make equal."""
        return WriteAcks.MAJORITY.needed(self.placed, self.wanted)

    @property
    def least(self) -> int:
        """How many need to have it in the smallest table under which anything is written."""
        return self.acks.needed(1, self.wanted)
