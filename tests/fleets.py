"""An index on many nodes, as an operator and its callers see it: for tests of whole clusters.

Each answer is compared with that of the same index in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.serving.local import open_local
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import Mode, SearchOptions
from tests.commands import COMMAND, wait_until
from tests.status_watch import StatusWatch
from tests.threads import in_thread

ROWS = SyntheticSpec(4_000, 128)
SPEC = """
[index]
{index}
[placement]
data = "data/{{node}}"
replicas = {replicas}
routers = {routers}
grace_s = {grace_s}
[serve]
host = "{host}"
port = {port}
"""
CANDIDATES = 100
"""Fixed, so that an answer does not depend on where it is given."""
TURN_S = 0.05
LOOK_S = 0.5
PLAIN: dict[str, Any] = {"trust_env": False, "verify": False}
"""http to loopback. To verify would be to read 140 authorities for each request: 20 ms."""
WRITES_S = 120


class Nodes(Protocol):
    """Ray nodes that commands can be run on."""

    @property
    def address(self) -> str: ...

    def drive(
        self, command: Sequence[object], timeout_s: float
    ) -> subprocess.CompletedProcess[str]: ...


@dataclass(slots=True)
class Cluster:
    """A spec and its nodes; commands are run as an operator types them."""

    folder: Path
    nodes: Nodes
    queries: list[list[float]]
    expected: dict[str, list[list[str]]]
    """The ids of the hits of each query, by mode."""
    watch: StatusWatch | None = None
    """Where there is one, waits ask it: a command for each look is 3 s of a processor."""

    def spec(
        self,
        *,
        replicas: int = 2,
        routers: int = 2,
        grace_s: float = 20.0,
        host: str = "127.0.0.1",
        port: int = 0,
        index: str = 'folder = "index"',
        more: str = "",
    ) -> Path:
        path = self.folder / "spec.toml"
        values = {"routers": routers, "grace_s": grace_s, "host": host, "port": port}
        values |= {"replicas": replicas}
        path.write_text(SPEC.format(index=index, **values) + more)
        return path

    def run(self, *arguments: object, check: bool = True) -> Any:
        """What the command printed with --json; where it failed, the error."""
        command = [*COMMAND, "cluster", *map(str, arguments), "--ray-address", self.nodes.address]
        done = self.nodes.drive([*command, "--json"], 240)
        assert not check or done.returncode == 0, done.stderr
        return json.loads(done.stdout if check else done.stderr.splitlines()[-1])

    def until(self, what: Callable[[dict[str, Any]], bool], timeout_s: float = 180) -> Any:
        """The status, when it is so."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = (self.watch and self.watch.look()) or self.run("status")
            if status["index"] is not None and what(status):
                return status
            assert time.monotonic() < deadline, json.dumps(status, indent=1)
            time.sleep(LOOK_S)

    def body(self, number: int, mode: str = "auto") -> dict[str, Any]:
        """What a query is asked with."""
        options = {} if mode == "exhaustive" else {"candidates": CANDIDATES}
        return {"vector": self.queries[number], "top_k": 10, "mode": mode, **options}

    def answer(self, number: int, mode: str = "auto") -> list[str]:
        """The ids that the right answer has."""
        return self.expected[mode][number]

    def ask(self, url: str, number: int) -> None:
        """An answer is whole, and the right one."""
        body = self.body(number)
        answer = httpx.post(f"{url}/v1/search", json=body, timeout=20, **PLAIN)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert not found["partial"], found["coverage"]
        assert [hit["id"] for hit in found["hits"]] == self.answer(number)


@dataclass(slots=True)
class Load:
    """Questions to some routers, all the time, until it ends."""

    cluster: Cluster
    urls: list[str]
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._ended.wait(TURN_S):
            try:
                number = self.asked % len(self.cluster.queries)
                self.cluster.ask(self.urls[self.asked % len(self.urls)], number)
            except (AssertionError, httpx.HTTPError) as error:
                self.wrong.append(f"question {self.asked}: {error!r}"[:2_000])
            self.asked += 1

    @classmethod
    @contextlib.contextmanager
    def on(cls, cluster: Cluster, *urls: str) -> Iterator[Load]:
        load = cls(cluster, list(urls))
        thread = threading.Thread(target=load.run)
        thread.start()
        try:
            yield load
        finally:
            load._ended.set()
            thread.join(60)
        assert load.asked > 20
        assert not load.wrong, (load.asked, len(load.wrong), load.wrong[0])


def made_cluster(folder: Path, nodes: Nodes) -> Cluster:
    """An index in ``folder``, what it answers, and ``nodes`` to serve it on."""
    index = folder / "index"
    write_index(index, ROWS, 2, texts=[f"text {number}" for number in range(100)])
    vectors = synthetic_queries(ROWS, 8).astype(np.float32)
    cluster = Cluster(folder, nodes, [vector.tolist() for vector in vectors], {})
    with open_local(index) as service:

        async def answers(mode: str) -> list[list[str]]:
            bodies = [cluster.body(number, mode) for number in range(len(cluster.queries))]
            asked = [SearchOptions(**(body | {"mode": Mode(mode)})) for body in bodies]
            found = [await service.search(options) for options in asked]
            return [[hit.id for hit in answer.hits] for answer in found]

        cluster.expected = {mode: asyncio.run(answers(mode)) for mode in ("auto", "exhaustive")}
    return cluster


class Writing:
    """Documents that are written one after the other; those that were acknowledged are kept."""

    def __init__(self, url: str, width: int) -> None:
        self._url, self._width = url, width
        self._ended = threading.Event()
        self._random = np.random.default_rng(7)
        self.acknowledged: dict[str, list[float]] = {}
        self.refused: list[str] = []

    def run(self) -> None:
        number = 0
        while not self._ended.wait(TURN_S):
            document_id, vector = (
                f"new {number}",
                self._random.standard_normal(self._width).tolist(),
            )
            body = {"documents": [{"id": document_id, "text": "x", "vector": vector}]}
            try:
                said = httpx.post(
                    f"{self._url}/v1/documents", json=body, timeout=60, **PLAIN
                ).json()
                if said.get("created") == 1:
                    self.acknowledged[document_id] = vector
                else:
                    self.refused.append(str(said))
            except httpx.HTTPError as error:
                self.refused.append(repr(error))
            number += 1

    def going_on(self) -> AbstractContextManager[None]:
        return in_thread(self.run, self._ended)

    def must_go_on(self, count: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        went_on = wait_until(lambda: len(self.acknowledged) >= wanted, WRITES_S)
        assert went_on, (len(self.acknowledged), wanted, self.refused[-3:])

    def missing(self, url: str) -> list[str]:
        """What was acknowledged, and is not found."""
        return [
            name for name, vector in self.acknowledged.items() if not self._is_at(url, vector, name)
        ]

    @staticmethod
    def _is_at(url: str, vector: list[float], name: str) -> bool:
        body = {"vector": vector, "top_k": 1, "mode": "exhaustive"}
        answer = httpx.post(f"{url}/v1/search", json=body, timeout=30, **PLAIN).json()
        return not answer["partial"] and answer["hits"][0]["id"] == name


def urls(status: dict[str, Any]) -> dict[str, str]:
    return {router["node"]: router["url"] for router in status["routers"]}


def is_whole(status: dict[str, Any]) -> bool:
    return not any(shard["lacking"] for shard in status["shards"])


def answering(status: dict[str, Any]) -> list[set[str]]:
    return [set(shard["answering"]) for shard in status["shards"]]
