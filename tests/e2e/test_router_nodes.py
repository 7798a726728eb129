"""Nodes for routers alone, which have no disk, as pods of a Deployment are."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.fleets import ROWS, Load, Writing, answering, is_whole, made_cluster, urls
from tests.ray_nodes import ray_nodes

pytestmark = pytest.mark.long
ALONE = {"bitsift-role": "router"}
MOST = 6
"""As in k8s/: as many answer as there are nodes for it."""


def test_routers_and_writer_run_on_nodes_for_them_alone_and_come_and_go(tmp_path: Path) -> None:
    with ray_nodes({"a": {}, "b": {}, "r": ALONE}) as nodes:
        cluster = made_cluster(tmp_path, nodes)
        status = cluster.run("up", cluster.spec(routers=MOST))
        assert answering(status) == [{"a", "b"}, {"a", "b"}]
        assert set(urls(status)) == {"r"}
        assert [node["node"] for node in status["nodes"] if not node["has_data"]] == ["r"]

        with Load.on(cluster, urls(status)["r"]):
            nodes.start("s", **ALONE)
            status = cluster.until(lambda status: set(urls(status)) == {"r", "s"})
        writing = Writing(urls(status)["s"], ROWS.dim)
        with writing.going_on():
            writing.must_go_on(5)
        assert not writing.missing(urls(status)["r"])

        with Load.on(cluster, urls(status)["s"]):
            nodes.signal("r", signal.SIGKILL)
            status = cluster.until(lambda status: set(urls(status)) == {"s"} and is_whole(status))
        assert answering(status) == [{"a", "b"}, {"a", "b"}]
        again = Writing(urls(status)["s"], ROWS.dim)
        with again.going_on():  # the writer of r is on s by now
            again.must_go_on(5)
        assert not again.missing(urls(status)["s"])
        assert not list((cluster.folder / "data").glob("[rs]/*/shard-*"))
        assert not list((cluster.folder / "data").glob("[rs]/*/cluster.json"))
