"""A node that is cut off, or hangs, costs no answer: the others have all that it has."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.nodes import ChaosNodes, chaos_nodes
from tests.fleets import Cluster, Load, answering, is_whole, made_cluster, urls

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.long]
OPEN = "[access]\ninsecure = true\n"


@pytest.fixture(scope="module")
def nodes() -> Iterator[ChaosNodes]:
    with chaos_nodes(["a", "b", "c"]) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def cluster(nodes: ChaosNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = made_cluster(tmp_path_factory.mktemp("cluster"), nodes)
    found.run("up", found.spec(routers=1, grace_s=20, host="0.0.0.0", more=OPEN))
    yield found
    found.run("down")


def lost(status: dict[str, Any]) -> list[str]:
    return [node["node"] for node in status["nodes"] if node["lost_s"] is not None]


def settled(status: dict[str, Any]) -> bool:
    """All is as the spec says, and no copy is left that nobody needs."""
    shards = status["shards"]
    return (
        not lost(status)
        and is_whole(status)
        and all(len(shard["replicas"]) == 2 for shard in shards)
    )


@pytest.mark.parametrize("how", ["cut off", "frozen"])
def test_no_answer_is_lost_with_a_node(cluster: Cluster, nodes: ChaosNodes, how: str) -> None:
    status = cluster.until(settled)
    (url,) = urls(status).values()
    victim = next(iter(set().union(*answering(status)) - set(urls(status))))

    def back(status: dict[str, Any]) -> bool:
        nodes.revive(victim)
        return settled(status)

    with Load.on(cluster, url):
        if how == "cut off":
            nodes.cut_off(victim)
        else:
            nodes.signal(victim, signal.SIGSTOP)
        status = cluster.until(lambda status: lost(status) == [victim] and is_whole(status))
        assert victim not in str(answering(status))
        if how == "cut off":
            nodes.join_up(victim)
        else:
            nodes.signal(victim, signal.SIGCONT)
        cluster.until(back)
