"""Which shards own an id: one answer, the same for ever, for one id and for many."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.shards.placement import Placement

OWNERS_FOR_EVER = [(5,), (4,), (6,), (1,)]
IDS = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_owners_of_an_id_never_change_between_versions() -> None:
    found = [Placement(7).owners(name) for name in ("", "a", "spider", "ünïcode")]
    assert found == OWNERS_FOR_EVER


@given(st.lists(IDS), st.integers(1, 5_000))
def test_many_ids_have_the_owners_that_each_has_alone(ids: list[str], shards: int) -> None:
    placement = Placement(shards)
    parts = placement.by_owner(ids)
    for place, name in enumerate(ids):
        owners = placement.owners(name)
        assert owners
        assert {shard for shard, places in parts.items() if place in places} == set(owners)
    assert all(0 <= shard < shards and len(places) for shard, places in parts.items())
    assert all((np.diff(places) > 0).all() for places in parts.values())
