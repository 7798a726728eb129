"""What one replica had at first, another must have in the end, or something newer."""

from __future__ import annotations

import numpy as np
import pytest

from bitsift.router.shards.comparison import _lacking
from bitsift.shard_worker.inventory import Inventory

Entry = tuple[int, int, bool]


def inventory(*entries: Entry) -> Inventory:
    keys, versions, deleted = zip(*entries, strict=True) if entries else ((), (), ())
    return Inventory.of(
        np.array(keys, dtype=np.uint64),
        np.array(versions, dtype=np.uint64),
        np.array(deleted, dtype=np.bool_),
    )


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        ([(5, 1, False)], [(5, 1, False)], set()),
        ([(5, 1, False)], [], {5}),
        ([(5, 1, False)], [(6, 1, False)], {5}),
        ([(5, 2, False)], [(5, 1, False)], {5}),
        ([(5, 2, True)], [(5, 1, False)], {5}),  # it lacks the deletion
        ([(5, 1, False)], [(5, 2, False)], set()),  # written since
        ([(5, 1, False)], [(5, 2, True)], set()),
        ([(5, 1, False), (5, 3, False)], [(5, 3, False)], set()),
        ([], [(5, 1, False)], set()),  # it came in between
    ],
)
def test_what_is_lacking(first: list[Entry], later: list[Entry], expected: set[int]) -> None:
    """``first`` is what another had; the one in question had nothing then."""
    firsts = [inventory(*first), inventory()]
    assert _lacking(firsts, [inventory(*first), inventory(*later)]) == [set(), expected]
