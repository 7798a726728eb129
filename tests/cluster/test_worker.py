"""Routing of batches to shards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.worker import shards_of
from shard_worker.codes import shard_of


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(1, 5_000))
def test_many_ids_have_the_shards_that_each_has_alone(ids: list[str], shards: int) -> None:
    assert shards_of(ids, shards).tolist() == [shard_of(name, shards) for name in ids]
