"""Which tables may follow which: so that two of them never both have writes acknowledged.

A table may be replaced when so many of its replicas are sealed with the next epoch, on their own
disks, that the rest cannot acknowledge a write. So a writer or a controller that is cut off with a
minority, and knows only the old table, does no harm.

With two replicas one that is left takes writes alone: there only Ray, which runs one controller,
decides between the two.
"""

from __future__ import annotations

from collections.abc import Collection

from bitsift.write_acks import WriteAcks

Members = tuple[tuple[str, ...], ...]
"""The nodes of the replicas of each shard."""


def is_ended(members: Collection[str], sealed: Collection[str], wanted: int) -> bool:
    """Whether nothing more is acknowledged under a table with these ``members`` of a shard, of
    which ``wanted`` are ordered, where ``sealed`` refuse it.
    """
    left = [node for node in members if node not in sealed]
    return len(left) < WriteAcks.MAJORITY.needed(len(members), wanted)


def ended(before: Members, wanted: int, sealed: Collection[tuple[int, str]]) -> set[int]:
    """The shards whose table may be replaced, where ``sealed`` (shard, node) refuse the old one."""
    return {
        shard
        for shard, members in enumerate(before)
        if is_ended(members, [node for at, node in sealed if at == shard], wanted)
    }


def joined(
    before: Members,
    after: Members,
    changed: Collection[int],
    equal: Collection[tuple[int, str]],
) -> Members:
    """``after`` for the shards that ``changed``, ``before`` for the others. Nobody joins who was
    not found ``equal`` (shard, node) to those of the table that answer, while nobody could write.
    """
    found = list(before)
    for shard in changed:
        known = {*before[shard], *(node for at, node in equal if at == shard)}
        found[shard] = tuple(node for node in after[shard] if node in known)
    return tuple(found)
