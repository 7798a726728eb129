"""What a replica holds in few bytes: equal where replicas are equal, and only there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitsift.shard_worker.inventory import RANGE_BITS_MAX, Inventory, range_bits

ENTRY = st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 2**63), st.booleans())


def inventory(entries: list[tuple[int, int, bool]], forgotten: int = 0) -> Inventory:
    keys, versions, deleted = zip(*entries, strict=True) if entries else ((), (), ())
    return Inventory.of(
        np.array(keys, np.uint64), np.array(versions, np.uint64), np.array(deleted, np.bool_),
        forgotten,
    )  # fmt: skip


def differing(one: Inventory, other: Inventory, bits: int) -> NDArray[np.int64]:
    return np.flatnonzero(one.digests(bits) != other.digests(bits)).astype(np.int64)


@given(entries=st.lists(ENTRY, unique=True, max_size=30), data=st.data(), bits=st.integers(0, 8))
def test_digests_differ_where_entries_do(
    entries: list[tuple[int, int, bool]], data: st.DataObject, bits: int
) -> None:
    shuffled = data.draw(st.permutations(entries))
    whole = inventory(entries)
    assert not len(differing(whole, inventory(shuffled), bits))
    if not entries:
        return
    lost = data.draw(st.sampled_from(entries))
    less = inventory([entry for entry in entries if entry != lost])
    ranges = differing(whole, less, bits)
    assert ranges.tolist() == [lost[0] >> (64 - bits) if bits else 0]
    assert whole.within(bits, ranges).entries() - less.within(bits, ranges).entries() == {lost}


def test_a_version_and_a_deletion_each_make_a_difference() -> None:
    assert len(differing(inventory([]), inventory([(0, 1 << 63, False)]), 4))
    base = inventory([(5, 7, False)])
    assert len(differing(base, inventory([(5, 8, False)]), 4))
    assert len(differing(base, inventory([(5, 7, True)]), 4))


def test_deletions_that_may_be_forgotten_do_not_count() -> None:
    one, other = inventory([(1, 5, True), (2, 6, False)], 5), inventory([(2, 6, False)], 5)
    assert len(differing(one, other, 4))
    assert not len(differing(one.since(5), other.since(5), 4))
    assert inventory([(1, 6, True)]).since(5).entries() == {(1, 6, True)}


def test_ranges_are_small_and_not_too_many() -> None:
    assert range_bits(0) == range_bits(15) == 0
    assert range_bits(10_000_000_000) == RANGE_BITS_MAX
    for entries in (100, 10_000, 1_000_000):
        assert entries / (1 << range_bits(entries)) <= 16
