"""A cluster of several Ray nodes: from up to down, through the loss of nodes, under load."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import wait_until
from tests.fleets import ROWS, Cluster, Load, Writing, answering, is_whole, made_cluster, urls
from tests.ray_nodes import RayNodes, ray_nodes
from tests.status_watch import StatusWatch


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with ray_nodes({"a": {}, "b": {}, "c": {}}) as nodes:
        yield nodes


@pytest.fixture
def cluster(tmp_path: Path, nodes: RayNodes) -> Cluster:
    made = made_cluster(tmp_path, nodes)
    made.watch = StatusWatch(nodes.address, nodes.joined)
    return made


def test_a_cluster_of_three_nodes_from_up_to_down(cluster: Cluster, nodes: RayNodes) -> None:
    status = cluster.run("up", cluster.spec())
    assert [len(nodes) for nodes in answering(status)] == [2, 2]
    routers = urls(status)
    assert set(routers) == {"a", "b"}
    for url in routers.values():
        for number in range(len(cluster.queries)):
            cluster.ask(url, number)

    cluster.until(
        lambda status: (
            {(r["lag_ms"], r["digest"]) for s in status["shards"] for r in s["replicas"]}
            == {(0, "equal")}
        )
    )
    with Load.on(cluster, routers["a"]):
        nodes.signal("c", signal.SIGKILL)
        status = cluster.until(
            lambda status: is_whole(status) and "c" not in str(answering(status))
        )
    assert answering(status) == [{"a", "b"}, {"a", "b"}]
    assert [node["node"] for node in status["nodes"] if node["lost_s"] is not None] == ["c"]

    with Load.on(cluster, *urls(status).values()):
        nodes.start("c")
        cluster.until(
            lambda status: (
                not [n for n in status["nodes"] if n["lost_s"] is not None]
                and not [s for s in status["shards"] if len(s["replicas"]) > 2]
            )
        )

    with Load.on(cluster, urls(status)["a"]):
        cluster.run("drain", "b")
        status = cluster.until(
            lambda status: is_whole(status) and "b" not in str([answering(status), urls(status)])
        )
    assert answering(status) == [{"a", "c"}, {"a", "c"}]
    cluster.until(
        lambda s: not [r for sh in s["shards"] for r in sh["replicas"] if r["node"] == "b"]
    )
    assert not list((cluster.folder / "data" / "b").glob("*/shard-*"))

    cluster.run("down")
    assert wait_until(lambda: not [line for line in nodes.actors() if "Actor" in line])
    assert cluster.run("status", check=False)["type"] == "bitsift:NotFound"
    assert len(list((cluster.folder / "data").glob("*/*/shard-*/shard.json"))) == 4


@pytest.mark.long
def test_what_is_written_while_a_node_is_away_is_there_when_only_that_one_is_left(
    cluster: Cluster, nodes: RayNodes
) -> None:
    """Also without Ray's control store, and without the index that it was made of."""
    status = cluster.run("up", cluster.spec(routers=1, grace_s=600))
    url = urls(status)["a"]
    away = next(iter(set().union(*answering(status)) - {"a"}))
    writing = Writing(url, ROWS.dim)
    with writing.going_on():
        writing.must_go_on(20)
        nodes.signal(away, signal.SIGKILL)
        status = cluster.until(lambda status: away not in str(answering(status)))
        writing.must_go_on(20)
        nodes.start(away)
        status = cluster.until(is_whole)
        assert away in str(answering(status))
        writing.must_go_on(20)
    versions = [
        {r["version"] for r in shard["replicas"]} for shard in cluster.run("status")["shards"]
    ]
    assert all(len(found) == 1 for found in versions), versions
    assert writing.missing(url) == []
    epoch = status["epoch"]

    shutil.rmtree(cluster.folder / "index")
    for name in nodes.raylets:
        nodes.signal(name, signal.SIGKILL)
    with ray_nodes({"c": {}, "b": {}, "a": {}}) as cluster.nodes:
        status = cluster.run("up", cluster.spec(routers=1, grace_s=600))
        assert status["epoch"] > epoch
        (url,) = urls(status).values()
        assert writing.missing(url) == []
