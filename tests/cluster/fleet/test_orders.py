"""What operators order is checked against what is there; tests of its effect: test_decide.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitsift.cluster.fleet.observed import Extra, Node, Observed, Orders, Phase, Replica, Table
from bitsift.cluster.fleet.orders import ORDERS_MAX, added, moved
from bitsift.errors import InvalidRequest


def test_a_cluster_has_so_many_orders_at_most() -> None:
    nodes = tuple(Node(name, "z") for name in "ab")
    replica = Replica(0, "a", Phase.READY)
    observed = Observed(Table(1, (("a",),)), nodes, (replica,))
    nearly = Orders(extras=(Extra(0, None),) * (ORDERS_MAX - 1))
    observed = replace(observed, orders=nearly)
    full = moved(observed, 0, "a", "b")
    assert len(full.moves) + len(full.extras) == ORDERS_MAX
    assert len(added(observed, 0, None).extras) == ORDERS_MAX
    with pytest.raises(InvalidRequest, match="no more than 1,000 moves and extra copies"):
        added(replace(observed, orders=full), 0, None)
