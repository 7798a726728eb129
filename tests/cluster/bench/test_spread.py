"""An index over many nodes, calculated from the shipped run."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.cluster.bench.plan import Measured, make_plan
from bitsift.cluster.bench.spread import CPU_SHARE, RAM_SHARE, Node, Spread, spread_over
from bitsift.errors import InvalidRequest
from tests.commands import bitsift

BILLION = 10**9
NODE = Node(ram_bytes=1 << 40, disk_bytes=29 << 40, cores=128, reads_s=900_000)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured.read(None)


def spread(measured: Measured, documents: int, replicas: int = 1, queries_s: float = 10) -> Spread:
    return spread_over(NODE, documents, 1_024, None, replicas, queries_s, measured)


def test_a_spread_index_takes_the_ram_and_disk_of_one_machine_and_its_shards_processes(
    measured: Measured,
) -> None:
    found = spread(measured, BILLION)
    assert found.shards == 10
    plan = make_plan(BILLION, 1_024, 10, None, measured)
    assert found.total_disk_bytes == pytest.approx(plan.disk_bytes, rel=1e-6)
    rows = found.total_ram_bytes - 10 * 80_000_000
    assert rows / BILLION == pytest.approx(plan.ram_bytes_per_document, abs=0.01)


def test_replicas_lie_on_different_nodes_and_double_what_is_stored(measured: Measured) -> None:
    one, two = spread(measured, BILLION), spread(measured, BILLION, replicas=2)
    assert (one.nodes, two.nodes) == (1, 2)
    assert two.total_ram_bytes == 2 * one.total_ram_bytes
    assert two.shards_per_node == 10


@settings(max_examples=60, deadline=None)
@given(
    documents=st.integers(1, 200 * BILLION),
    replicas=st.integers(1, 4),
    queries_s=st.floats(0, 5_000),
)
def test_every_node_holds_what_it_is_given_and_all_copies_have_a_place(
    measured: Measured, documents: int, replicas: int, queries_s: float
) -> None:
    found = spread(measured, documents, replicas, queries_s)
    assert found.nodes >= replicas
    assert found.nodes * found.shards_per_node >= found.shards * replicas
    assert found.node_ram_bytes <= NODE.ram_bytes * RAM_SHARE
    assert found.node_disk_bytes <= NODE.disk_bytes
    busy_s = found.query.cpu_s * queries_s
    assert busy_s <= found.nodes * NODE.cores * CPU_SHARE * 1.001 + 0.001


def test_what_decides_is_named(measured: Measured) -> None:
    idle, asked = spread(measured, 100 * BILLION), spread(measured, 100 * BILLION, 1, 1_000)
    assert idle.nodes == idle.nodes_by_ram > idle.nodes_by_cpu
    assert asked.nodes == max(asked.nodes_by_cpu, asked.nodes_by_reads) > asked.nodes_by_ram
    assert f"reads {asked.nodes_by_reads}" in dict(asked.rows())["nodes"]


def test_a_shard_that_no_node_can_hold_is_refused(measured: Measured) -> None:
    with pytest.raises(InvalidRequest, match="of RAM and a node has"):
        spread_over(Node(1 << 34, 1 << 50, 128, 900_000), BILLION, 1_024, 5, 1, 0, measured)
    with pytest.raises(InvalidRequest, match="rows; give it more --shards"):
        spread_over(NODE, 20 * BILLION, 1_024, 1, 1, 0, measured)
    small = Node(1 << 40, 1 << 30, 128, 900_000)
    with pytest.raises(InvalidRequest, match="of disk and a node has"):
        spread_over(small, BILLION, 1_024, None, 1, 0, measured)


def test_the_command_plans_nodes_where_it_is_told_their_ram() -> None:
    asked = ["plan", "--documents", "10B", "--dim", "1024", "--json"]
    node = ["--node-ram", "1T", "--replicas", "3", "--queries-s", "100"]
    found = json.loads(bitsift(*asked, *node).stdout)
    assert (found["shards"], found["replicas"], found["queries_s"]) == (100, 3, 100.0)
    assert found["nodes"] == max(value for key, value in found.items() if "nodes_by" in key)
    assert "nodes" not in json.loads(bitsift(*asked).stdout)
    for_people = bitsift("plan", "--documents", "1B", "--dim", "1024", *node).stdout
    assert "10 x 3 replicas" in for_people
