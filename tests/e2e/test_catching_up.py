"""Replicas that missed writes catch up while writes go on, and a majority that is lost for good."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import read_manifest
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.store.packing import id_keys
from tests.fleets import ROWS, Cluster, Writing, answering, is_whole, made_cluster, urls
from tests.ray_nodes import RayNodes, ray_nodes

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
NODES = ("a", "b", "c")


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with ray_nodes({name: {} for name in NODES}) as nodes:
        yield nodes


@pytest.fixture
def cluster(tmp_path: Path, nodes: RayNodes) -> Cluster:
    return made_cluster(tmp_path, nodes)


def syncs(status: dict[str, Any], node: str) -> list[dict[str, Any]]:
    return [r["sync"] for shard in status["shards"] for r in shard["replicas"] if r["node"] == node]


def are(state: str, node: str) -> Any:
    return lambda status: {it["state"] for it in syncs(status, node)} == {state}


def held(cluster: Cluster, node: str) -> tuple[list[bytes], set[int]]:
    """The digests of each shard, and the hashes of all ids, on one disk; the cluster is down."""
    (index,) = (cluster.folder / "data" / node).glob("*-*")
    manifest, digests, keys = read_manifest(index), list[bytes](), set[int]()
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            inventory = ReplicaState(shard).inventory()
        digests.append(inventory.digests(4).tobytes())
        keys |= set(inventory.keys.tolist())
    return digests, keys


def acknowledged(writing: Writing) -> set[int]:
    return set(id_keys(list(writing.acknowledged)).tolist())


def test_a_node_that_returns_gets_what_it_missed_while_writes_go_on(
    cluster: Cluster, nodes: RayNodes
) -> None:
    """And nothing is copied."""
    status = cluster.run("up", cluster.spec(replicas=3, routers=1, grace_s=600))
    (url,) = urls(status).values()
    assert all(are("in step", node)(status) for node in NODES)
    away = "c" if "c" not in urls(status) else "b"
    writing = Writing(url, ROWS.dim)
    with writing.going_on():
        writing.must_go_on(20)
        nodes.signal(away, signal.SIGKILL)
        cluster.until(lambda status: away not in str(answering(status)))
        writing.must_go_on(40)
        status = cluster.until(lambda status: sum(it["missed"] for it in syncs(status, away)) >= 40)
        assert are("behind", away)(status)
        assert all(it["since"] is not None for it in syncs(status, away))
        nodes.start(away)
        status = cluster.until(are("in step", away))
        writing.must_go_on(20)
    copies = [r["copy"] for shard in status["shards"] for r in shard["replicas"]]
    assert copies == [None] * 6
    said = httpx.get(f"{url}/v1/cluster", timeout=20, trust_env=False).json()["sync"]
    assert {(it["node"], it["state"]) for it in said} == {(node, "in step") for node in NODES}
    cluster.run("down")
    (digests, keys), *others = [held(cluster, node) for node in NODES]
    assert [its for its, _ in others] == [digests] * 2
    assert acknowledged(writing) <= keys


def test_a_majority_that_is_lost_for_good_is_given_up_only_by_order(
    cluster: Cluster, nodes: RayNodes
) -> None:
    status = cluster.run("up", cluster.spec(replicas=3, routers=1, grace_s=5))
    (node, url), *_ = urls(status).items()
    lost = [name for name in NODES if name not in (node, "a")] or ["b", "c"]
    left = next(name for name in NODES if name not in lost)
    refused = cluster.run("accept-loss", 0, "--yes", check=False)
    assert refused["type"] == "bitsift:InvalidRequest"
    writing = Writing(url, ROWS.dim)
    with writing.going_on():
        writing.must_go_on(20)
        for name in lost:
            nodes.signal(name, signal.SIGKILL)
        nodes.start("d")
        status = cluster.until(
            lambda status: all(shard["lost_majority"] == lost for shard in status["shards"])
        )
        written = len(writing.acknowledged)
        cluster.until(lambda status: len(syncs(status, "d")) == 2)
        assert all(left in nodes and "d" not in nodes for nodes in answering(cluster.run("status")))
        assert len(writing.acknowledged) <= written + 1
        for number in range(2):
            cluster.until(
                lambda status, at=number: status["shards"][at]["lost_majority"] == lost  # type: ignore[misc]
            )
            cluster.run("accept-loss", number, "--yes")
        cluster.until(lambda status: answering(status) == [{left, "d"}] * 2)
        writing.must_go_on(20)
        nodes.start(lost[0])
        status = cluster.until(is_whole)
        writing.must_go_on(20)
    assert not any(shard["lost_majority"] for shard in status["shards"])
    cluster.run("down")
    for name in (left, "d", lost[0]):
        assert acknowledged(writing) <= held(cluster, name)[1]
