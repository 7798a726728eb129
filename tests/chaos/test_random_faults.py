"""Random faults on a cluster of real processes lose nothing, and nothing is read that cannot be."""

from __future__ import annotations

import pytest

from tests.chaos.fault_plan import BEYOND, CONTROL, DATA, plan_of
from tests.chaos.random_faults import NAMES, is_good, run


def test_a_plan_has_so_many_faults_of_every_kind_and_hits_a_node_at_a_time() -> None:
    plan = plan_of(3, 3_000, NAMES)
    assert plan == plan_of(3, 3_000, NAMES) != plan_of(4, 3_000, NAMES)
    faults = [*plan.control, *(fault for bout in plan.bouts for fault in bout)]
    assert len(faults) == 3_000
    assert {fault.kind for fault in faults} == {*CONTROL, *DATA, *BEYOND}
    for bout in plan.bouts:
        nodes = {node for fault in bout for node in fault.nodes}
        assert len(nodes) == 1 or bout[0].kind in BEYOND
    beyond = sum(bout[0].kind in BEYOND for bout in plan.bouts)
    assert 0 < beyond < len(plan.bouts) / 5


@pytest.mark.long
@pytest.mark.needs("namespaces", "gcc")
def test_a_dozen_random_faults_break_nothing() -> None:
    said: list[str] = []
    found = run(12, 1, said.append)
    assert is_good(found), (found, said)
    assert found["faults"] >= 8
    assert found["acknowledged"] > 50
    assert found["operations"]["reads done"] > 50
