"""Two tables of a shard never both have writes acknowledged."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.fleet.membership import ended, followed, is_ended, joined, sources
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
    left, needed = len(members - sealed), WriteAcks.MAJORITY.needed(len(members), wanted)
    if is_ended(members, sealed, wanted):
        assert left < needed
        assert members & sealed or not members  # who knows what was acknowledged
    else:
        assert left >= min(needed, len(members))


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
    if is_ended(members, sealed, wanted) and writes.quorums.needed <= placed:
        assert writes.quorums.read_from > len(set(members) - sealed)


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


def test_of_what_only_the_lost_had_nothing_is_asked_and_of_the_others_all() -> None:
    before = (("a", "b", "c", "d", "e"),)
    lost, here = {(0, "b"), (0, "c"), (0, "e")}, {(0, "a"), (0, "d")}
    assert ended(before, 3, here, lost, here) == {0}
    assert ended(before, 3, {(0, "d")}, lost, here) == set()
    assert ended(before, 3, {(0, "d")}, lost, {(0, "d")}) == {0}
    assert ended(before, 3, here, (), here) == set()
    # The loss of one is accepted, and one leaves: the other three know all.
    three = {(0, "a"), (0, "b"), (0, "c")}
    assert ended(before, 3, three, {(0, "e")}, three | {(0, "d")}) == {0}


def test_those_that_leave_are_asked_where_the_others_may_lack_something() -> None:
    assert sources("abc", "ab", "abc", 3) == ["a", "b"]
    assert sources("abc", "a", "ac", 3) == ["a", "c"]
    assert sources("abc", "ab", "ac", 3) == ["a", "c"]


def test_nobody_joins_who_has_not_all_that_was_acknowledged() -> None:
    before, after = (("a", "b"), ("c",)), (("a", "b", "d", "e"), ("c", "d"))
    complete = {(0, "a"), (0, "b"), (0, "d"), (1, "c"), (1, "d")}
    assert joined(before, after, {0}, complete, 3) == (("a", "b", "d"), ("c",))
    assert joined(before, after, {0, 1}, complete, 3) == (("a", "b", "d"), ("c", "d"))
    assert joined(((),), (("a", "b"),), {0}, {(0, "a")}, 3) == (("a",),)
    assert joined(before, after, {1}, set(), 3) == before


def test_those_that_do_not_answer_stay_while_enough_others_have_all() -> None:
    assert followed("abc", "abc", "ab", 3) == ("a", "b", "c")
    assert followed("abc", "abc", "a", 3) == ("a",)
    assert followed("ab", "ab", "b", 2) == ("b",)
    assert followed("abc", "abcd", "ab", 3) == ("a", "b", "c")
    assert followed("abc", "abcd", "abd", 3) == ("a", "b", "c", "d")
    assert followed("abcd", "abcd", "ab", 4) == ("a", "b")
    assert followed("ab", "c", "a", 2) == ("a", "b")


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5])
def test_a_chain_of_tables_forgets_nothing(wanted: int) -> None:
    """Whoever may replace a table finds all that was acknowledged under it and those before it,
    though nobody has written under some of them, and replicas answer or not as they like.
    """
    for seed in range(500):
        _chain(Random(seed), wanted)


def _chain(random: Random, wanted: int) -> None:
    nodes, table, acknowledged = "abcdef", tuple("abcdef"[:wanted]), set[int]()
    held = {node: set[int]() for node in nodes}
    for write in range(12):
        done = _some(random, table)
        if len(done) >= WriteAcks.MAJORITY.needed(len(table), wanted):
            known = set[int]().union(*(held[node] for node in done))
            assert acknowledged <= known  # a writer makes them equal, before it writes
            for node in done:
                held[node] |= known | {write}
            acknowledged.add(write)
        sealed, after = _some(random, nodes), random.sample(nodes, random.randint(1, wanted + 1))
        if not is_ended(table, sealed, wanted):
            continue
        compared = sources(table, after, sealed, wanted)
        known = set[int]().union(*(held[node] for node in compared))
        assert acknowledged <= known
        complete = {*compared, *(node for node in after if node in sealed)}
        for node in complete.intersection(after):
            held[node] |= known
        table = followed(table, after, complete, wanted)
        assert table


def _some(random: Random, nodes: Collection[str]) -> list[str]:
    return [node for node in nodes if random.random() < 0.6]
