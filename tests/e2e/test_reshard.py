"""An index of two shards gets three, while it is asked and written to, and processes are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.serving.local import open_local
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import Mode, SearchOptions
from tests.commands import wait_until
from tests.fleets import Cluster, Writing, is_whole, urls
from tests.ray_nodes import RayNodes, ray_nodes
from tests.threads import in_thread

ROWS = SyntheticSpec(3_000, 128)
TEXT_BYTES = 4_000
"""Copied at the least rate, so that there is time to kill what copies."""
SLOW = 'copy_rate = "1M"'
DEPTH, ASKED = 20, 60
"""Hits that are compared, and how many are asked for: new documents may stand among them."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(1_200)]


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with ray_nodes({"a": {}, "b": {}, "c": {}}) as nodes:
        yield nodes


@pytest.fixture
def cluster(tmp_path: Path, nodes: RayNodes) -> Cluster:
    """With the ids and scores of exhaustive answers in ``expected``."""
    index, chance = tmp_path / "index", random.Random(1)
    write_index(index, ROWS, 2, texts=[chance.randbytes(TEXT_BYTES // 2).hex() for _ in range(50)])
    queries = [vector.tolist() for vector in synthetic_queries(ROWS, 6).astype(np.float32)]

    async def answers() -> list[list[str]]:
        options = [
            SearchOptions(vector=query, top_k=DEPTH, mode=Mode.EXHAUSTIVE) for query in queries
        ]
        found = [await service.search(one) for one in options]
        return [[hit.id for hit in answer.hits] for answer in found]

    with open_local(index) as service:
        expected = asyncio.run(answers())
    return Cluster(tmp_path, nodes, queries, {"exhaustive": expected})


def spec_of(cluster: Cluster, *, slow: bool = False) -> Path:
    path = cluster.spec(grace_s=600)
    if slow:
        path.write_text(path.read_text().replace("replicas = 2", f"replicas = 2\n{SLOW}"))
    return path


@dataclass
class Asking:
    """Exhaustive questions to all routers, one after the other, until it ends."""

    cluster: Cluster
    routers: list[str]
    asked: int = 0
    shards: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def once(self) -> None:
        number = self.asked % len(self.cluster.queries)
        url = self.routers[self.asked % len(self.routers)]
        body = {
            "vector": self.cluster.queries[number], "top_k": ASKED, "mode": "exhaustive",
            "timeout_ms": 20_000, "include": [],
        }  # fmt: skip
        answer = httpx.post(f"{url}/v1/search", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert not found["partial"], found["coverage"]
        ids = [hit["id"] for hit in found["hits"] if not hit["id"].startswith("new ")]
        assert ids[:DEPTH] == self.cluster.expected["exhaustive"][number]
        self.shards.add(found["coverage"]["shards"])

    def run(self) -> None:
        while not self._ended.wait(0.05):
            try:
                self.once()
            except (AssertionError, httpx.HTTPError) as error:
                self.wrong.append(f"question {self.asked}: {error!r}"[:2_000])
            self.asked += 1

    def going_on(self) -> AbstractContextManager[None]:
        return in_thread(self.run, self._ended)


def lost(writing: Writing, url: str) -> list[str]:
    """What was acknowledged, and is not there."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        return [
            name
            for name in writing.acknowledged
            if client.get(f"/v1/documents/{name}").status_code != 200
        ]


def test_nothing_fails_and_nothing_is_lost_and_the_disks_know_the_new_shards(
    cluster: Cluster, nodes: RayNodes
) -> None:
    status = cluster.run("up", spec_of(cluster))
    old, routers = status["index"]["uuid"], urls(status)
    asking, writing = Asking(cluster, list(routers.values())), Writing(routers["a"], ROWS.dim)
    with asking.going_on(), writing.going_on():
        writing.must_go_on(20)
        refused = cluster.run("reshard", 2, check=False)
        assert refused["type"] == "bitsift:InvalidRequest"
        status = cluster.run("reshard", 3)
        assert [len(shard["answering"]) for shard in status["shards"]] == [2, 2, 2]
        writing.must_go_on(20)
    assert (asking.wrong, writing.refused) == ([], [])
    assert asking.shards == {2, 3}
    assert urls(status) == routers
    assert [lost(writing, url) for url in routers.values()] == [[], []]
    index = httpx.get(f"{routers['a']}/v1/index", timeout=10, trust_env=False).json()
    assert index["shards"] == 3
    documents = ROWS.rows + len(writing.acknowledged)
    assert index["documents"] == documents

    folders = cluster.folder / "data"
    cluster.until(lambda _: not list(folders.glob(f"*/{old}")))
    new = status["index"]["uuid"]
    assert {read_manifest(folder).shards for folder in folders.glob(f"*/{new}")} == {3}
    for name in list(nodes.raylets):
        nodes.signal(name, signal.SIGKILL)
    with ray_nodes({"c": {}, "b": {}, "a": {}}) as cluster.nodes:
        status = cluster.run("up", spec_of(cluster))
        assert (len(status["shards"]), status["index"]["uuid"]) == (3, new)
        url = urls(status)["a"]
        assert lost(writing, url) == []
        again = Asking(cluster, [url])
        again.once()
        assert again.shards == {3}


def pids(nodes: RayNodes, what: str) -> list[int]:
    """Of the actors whose name begins so, on all nodes."""
    found = []
    for name in nodes.raylets:
        for process in nodes.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith(f"ray::{what}"):
                    found.append(process.pid)
    return found


def kill(nodes: RayNodes, what: str, chance: random.Random) -> None:
    assert wait_until(lambda: pids(nodes, what))
    os.kill(chance.choice(pids(nodes, what)), signal.SIGKILL)


def test_the_controller_and_the_agents_are_killed_on_the_way(
    cluster: Cluster, nodes: RayNodes
) -> None:
    status, chance = cluster.run("up", spec_of(cluster, slow=True)), random.Random(5)
    routers = urls(status)
    asking, writing = Asking(cluster, list(routers.values())), Writing(routers["a"], ROWS.dim)
    with asking.going_on(), writing.going_on():
        writing.must_go_on(10)
        cluster.run("reshard", "--no-wait", 3)
        for what in ("AgentActor", "ControllerActor", "AgentActor", "ControllerActor"):
            time.sleep(chance.uniform(1.0, 3.0))
            kill(nodes, what, chance)
        status = cluster.until(lambda found: found["reshard"] is None and len(found["shards"]) == 3)
        writing.must_go_on(10)
        cluster.until(is_whole)
    assert (asking.wrong, writing.refused) == ([], [])
    assert asking.shards == {2, 3}
    assert lost(writing, routers["a"]) == []


def test_one_that_is_dropped_leaves_all_as_it_was(cluster: Cluster) -> None:
    status = cluster.run("up", spec_of(cluster, slow=True))
    uuid, (url, _) = status["index"]["uuid"], urls(status).values()
    writing, folders = Writing(url, ROWS.dim), cluster.folder / "data"
    with writing.going_on():
        writing.must_go_on(5)
        status = cluster.run("reshard", "--no-wait", 5)
        new = status["reshard"]["uuid"]
        assert wait_until(lambda: list(folders.glob(f"*/{new}/shard-*")))
        status = cluster.run("reshard", "--undo")
        assert status["reshard"] is None
        writing.must_go_on(5)
    cluster.until(lambda _: not list(folders.glob(f"*/{new}")))
    status = cluster.run("status")
    assert (len(status["shards"]), status["index"]["uuid"]) == (2, uuid)
    assert writing.refused == []
    assert lost(writing, url) == []
    Asking(cluster, [url]).once()
