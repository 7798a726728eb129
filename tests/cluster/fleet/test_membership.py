"""Two tables of a shard never both have writes acknowledged."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.fleet.membership import ended, is_ended, joined
from bitsift.router.shards.link import ReplicaLink
from bitsift.router.shards.replica import Replica
from bitsift.router.shards.replica_writes import ReplicaWrites
from bitsift.write_acks import WriteAcks

LINK = cast(ReplicaLink, None)
NODES = st.sets(st.sampled_from("abcdefg"))


@given(members=NODES, sealed=NODES, wanted=st.integers(1, 5))
def test_what_is_left_of_an_ended_table_acknowledges_nothing(
    members: set[str], sealed: set[str], wanted: int
) -> None:
    left = len(members - sealed)
    if is_ended(members, sealed, wanted):
        assert left < WriteAcks.MAJORITY.needed(len(members), wanted)
    else:
        assert left >= WriteAcks.MAJORITY.needed(len(members), wanted)


@given(
    placed=st.integers(1, 7),
    sealed=NODES,
    wanted=st.integers(3, 5),
    acks=st.sampled_from([WriteAcks.MAJORITY, WriteAcks.ALL]),
)
def test_what_is_left_of_an_ended_table_reads_nothing_old(
    placed: int, sealed: set[str], wanted: int, acks: WriteAcks
) -> None:
    """A router that is cut off with a part of an old table asks one that refuses it."""
    members = "abcdefg"[:placed]
    writes = ReplicaWrites(0, [Replica(0, node, LINK) for node in members], acks)
    writes._wanted = wanted
    if is_ended(members, sealed, wanted) and writes.needed <= placed:
        assert writes.read_from > len(set(members) - sealed)


def test_how_many_are_needed() -> None:
    def needed(acks: WriteAcks, wanted: int) -> list[int]:
        return [acks.needed(placed, wanted) for placed in range(1, 6)]

    assert needed(WriteAcks.MAJORITY, 1) == [1, 2, 2, 3, 3]
    assert needed(WriteAcks.MAJORITY, 2) == [1, 2, 2, 3, 3]
    assert needed(WriteAcks.MAJORITY, 3) == [2, 2, 2, 3, 3]
    assert needed(WriteAcks.MAJORITY, 5) == [3, 3, 3, 3, 3]
    assert needed(WriteAcks.ONE, 3) == [1, 1, 1, 1, 1]
    assert needed(WriteAcks.ALL, 3) == [2, 2, 3, 4, 5]


def test_each_shard_is_ended_by_itself() -> None:
    before = (("a", "b", "c"), ("a", "b", "c"), ())
    assert ended(before, 3, {(0, "a"), (0, "b"), (1, "a")}) == {0, 2}
    assert ended(before, 3, {(0, "d"), (0, "e")}) == {2}


def test_nobody_joins_who_is_not_equal_to_what_was_sealed() -> None:
    before, after = (("a", "b"), ("c",)), (("a", "b", "d", "e"), ("c", "d"))
    equal = {(0, "d"), (1, "d")}
    assert joined(before, after, {0}, equal) == (("a", "b", "d"), ("c",))
    assert joined(before, after, {0, 1}, equal) == (("a", "b", "d"), ("c", "d"))
    assert joined(before, after, {1}, set()) == before
