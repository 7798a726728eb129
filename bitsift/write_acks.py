"""How many replicas must have a write on their disks before it is acknowledged."""

from __future__ import annotations

from enum import StrEnum


class WriteAcks(StrEnum):
    """``majority`` survives the loss of any minority of a shard's replicas."""

    ONE = "one"
    MAJORITY = "majority"
    ALL = "all"

    def needed(self, placed: int, wanted: int) -> int:
        """Of ``placed`` replicas in the table, where ``wanted`` were ordered.

        A table from which replicas were lost does not lower it below half of the wanted ones:
        fewer copies would not survive the loss of another minority. With two wanted, one that is
        left takes writes alone.
        """
        least = (wanted + 1) // 2
        match self:
            case WriteAcks.ONE:
                return 1
            case WriteAcks.MAJORITY:
                return max(placed // 2 + 1, least)
            case WriteAcks.ALL:
                return max(placed, least)
