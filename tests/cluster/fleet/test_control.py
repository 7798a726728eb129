"""What a controller says where it cannot go on."""

from __future__ import annotations

import pytest

from bitsift.cluster.fleet.actors import RayNode
from bitsift.cluster.fleet.control import Control
from bitsift.cluster.fleet.spec import IndexSource
from bitsift.errors import NotFound, Unavailable
from tests.cluster.fleet.model_cluster import spec_of

SHARED, OF_ONE = IndexSource(folder="/i"), IndexSource(folder="/i", node="a")


@pytest.mark.parametrize("source", [SHARED, OF_ONE])
def test_an_index_that_no_node_with_data_can_read_says_who_must_act(source: IndexSource) -> None:
    control = Control(spec_of(2))
    control.alive = {"r": RayNode("r", "", "127.0.0.1", has_data=False)}
    with pytest.raises(Unavailable, match="start a Ray node with --labels bitsift-node=NAME"):
        control.source_files(source)


def test_an_index_of_a_node_that_is_away_is_waited_for() -> None:
    control = Control(spec_of(2))
    control.alive = {"b": RayNode("b", "", "127.0.0.1")}
    with pytest.raises(NotFound, match="node a, which has the index, does not answer: start it"):
        control.source_files(OF_ONE)
