"""Which tables may follow which: so that two of them never both have writes acknowledged, and that
what was acknowledged is known to the next.

**Ended.** A table may be replaced when so many of its replicas are sealed with the next epoch, on
their own disks, that the rest cannot acknowledge a write. So a writer or a controller that is cut
off with a minority, and knows only the old table, does no harm.

**Complete.** Of the sealed ones each may lack what others have. So they are made equal before the
next table is given out, and so many of its members must be among them that whoever ends it has one
of them, too. Else a table that nobody has written under loses what was acknowledged before it.

With two replicas one that is left takes writes alone: there only Ray, which runs one controller,
decides between the two.
"""

from __future__ import annotations

from collections.abc import Collection

from bitsift.write_acks import WriteAcks

Members = tuple[tuple[str, ...], ...]
"""The nodes of the replicas of each shard."""
Place = tuple[int, str]
"""The shard of a replica, and its node."""
Places = Collection[Place]


def quorum(count: int, wanted: int) -> int:
    """What was acknowledged, is on so many of the ``count`` members of a table."""
    return min(WriteAcks.MAJORITY.needed(count, wanted), count)


def is_ended(members: Collection[str], sealed: Collection[str], wanted: int) -> bool:
    """Whether nothing more is acknowledged under a table with these ``members`` of a shard, of
    which ``wanted`` are ordered, where ``sealed`` refuse it; and all that was, is on one of them.
    """
    left = [node for node in members if node not in sealed]
    return not members or len(left) < quorum(len(members), wanted)


def ended(
    before: Members, wanted: int, sealed: Places, lost: Places = (), here: Places = ()
) -> set[int]:
    """The shards whose table may be replaced, where ``sealed`` refuse the old one.

    What nobody has but ``lost`` replicas is given up where it must be: then all must be sealed that
    are ``here``.
    """
    found = set[int]()
    for shard, members in enumerate(before):
        no, gone, there = (
            {node for at, node in some if at == shard and node in members}
            for some in (sealed, lost, here)
        )
        is_given_up = there <= no and is_ended(members, no | gone, wanted)
        if is_given_up or is_ended(members, no, wanted):
            found.add(shard)
    return found


def sources(
    before: Collection[str], after: Collection[str], sealed: Collection[str], wanted: int
) -> list[str]:
    """The sealed members of the old table of a shard that have all that was acknowledged, together:
    without those that leave, where the others do.
    """
    here = [node for node in before if node in sealed]
    stay = [node for node in here if node in after]
    return stay if is_ended(before, stay, wanted) else here


def followed(
    before: Collection[str], after: Collection[str], complete: Collection[str], wanted: int
) -> tuple[str, ...]:
    """The next table of a shard, where ``complete`` have all that was acknowledged: ``after``, but
    for newcomers that have not. Members that do not answer may stay while enough others have it.
    Where nobody has it who should be there, all stay.
    """
    stay = tuple(node for node in after if node in before or node in complete)
    known = tuple(node for node in stay if node in complete)
    return (stay if len(known) >= quorum(len(stay), wanted) else known) or tuple(before)


def joined(
    before: Members, after: Members, changed: Collection[int], complete: Places, wanted: int
) -> Members:
    """The same of all shards that ``changed``; others stay as ``before``."""
    found = list(before)
    for shard in changed:
        known = [node for at, node in complete if at == shard]
        found[shard] = followed(before[shard], after[shard], known, wanted)
    return tuple(found)
