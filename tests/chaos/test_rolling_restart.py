"""Every process and every node of a cluster is restarted in turn, and nobody notices."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.chaos.rolling import Rolling, running

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.long]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda it: it.name)
def test_a_rolling_restart_costs_no_answer_and_no_acknowledged_write(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path) as (cluster, nodes):
        found = Rolling(cluster, nodes, per_s=10.0).run(number, lambda _: None)
    what = [restart["what"] for restart in found["restarts"]]
    nodes_too = {"node": 3} if number is signal.SIGKILL else {}
    assert {it: what.count(it) for it in what} == {
        "agent": 3, "controller": 1, "writer": 1, "router": 2, "replica": 4, **nodes_too,
    }  # fmt: skip
    assert all(restart["healed_s"] is not None for restart in found["restarts"]), found
    assert found["problems"] == []
    assert found["queries"]["answered"] == found["queries"]["asked"] > 200
    assert found["acknowledged"] > 200
    assert set(found["lost_writes"].values()) == {0}
    assert all(len(versions) == 1 for versions in found["versions"]), found["versions"]
