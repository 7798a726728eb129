"""The same reshards of a cluster of one node, while it is asked and written to.

Questions come from one caller and documents from another, one after the other. ``failed`` are
answers that were no answer, or partial. ``lost`` are documents that were acknowledged and are not
there. ``held_s`` is the longest that a write took.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bitsift.cluster.bench.threads import in_thread
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block
from tests.commands import COMMAND
from tests.ray_nodes import RayNodes, ray_nodes

PAUSE_S = 0.05
"""Of the callers, after each answer: the machine is to be busy, not full."""
COMMAND_TIMEOUT_S = 3_600.0
SPEC = """
[index]
folder = "{index}"
[placement]
data = "{data}/{{node}}"
replicas = 1
copy_rate = "1G"
[serve]
host = "127.0.0.1"
port = 0
"""
Answers = list[list[tuple[str, float]]]


@dataclass(slots=True)
class Load:
    """One caller that asks, and one that writes."""

    url: str
    vectors: list[list[float]]
    asked_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    written_ms: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def _ask(self) -> None:
        for vector in itertools.cycle(self.vectors):
            if self._ended.wait(PAUSE_S):
                return
            begun = time.perf_counter()
            body = {"vector": vector, "top_k": 10, "timeout_ms": 10_000}
            try:
                found = _posted(f"{self.url}/v1/search", body)
                if found["partial"] or len(found["hits"]) != 10:
                    self.failed.append(str(found["coverage"])[:500])
            except (httpx.HTTPError, ValueError) as error:
                self.failed.append(repr(error)[:500])
            self.asked_ms.append(1e3 * (time.perf_counter() - begun))

    def _write(self) -> None:
        for number in itertools.count():
            if self._ended.wait(PAUSE_S):
                return
            name, begun = f"live {time.time_ns()}", time.perf_counter()
            vector = [-value for value in self.vectors[number % len(self.vectors)]]  # far away
            try:
                found = _posted(
                    f"{self.url}/v1/documents",
                    {"documents": [{"id": name, "text": "live", "vector": vector}]},
                )
                kept = self.acknowledged if found["created"] == 1 else self.refused
                kept.append(name)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                self.refused.append(repr(error)[:500])
            self.written_ms.append(1e3 * (time.perf_counter() - begun))

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        with in_thread(self._ask, self._ended), in_thread(self._write, self._ended):
            yield

    def figures(self) -> dict[str, Any]:
        return {
            "queries": len(self.asked_ms),
            "failed": len(self.failed),
            "query_p50_ms": round(float(np.percentile(self.asked_ms, 50)), 1),
            "query_p99_ms": round(float(np.percentile(self.asked_ms, 99)), 1),
            "writes": len(self.acknowledged),
            "refused": len(self.refused),
            "lost": sum(_is_lost(self.url, name) for name in self.acknowledged),
            "held_s": round(max(self.written_ms) / 1e3, 1),
            "examples": [*self.failed[:2], *self.refused[:2]],
        }


def _posted(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(url, json=body, timeout=90, trust_env=False)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _is_lost(url: str, name: str) -> bool:
    answer = httpx.get(f"{url}/v1/documents/{name}", timeout=30, trust_env=False)
    return answer.status_code != 200


def _answers(url: str, vectors: Sequence[Sequence[float]], top_k: int) -> Answers:
    """Ids and scores of exhaustive answers, in order, without what the load has written."""
    found = []
    for vector in vectors:
        body = {"vector": vector, "top_k": 1_000, "mode": "exhaustive", "timeout_ms": 60_000,
                "include": []}  # fmt: skip
        answer = _posted(f"{url}/v1/search", body)
        assert not answer["partial"], answer["coverage"]
        hits = [(hit["id"], hit["score"]) for hit in answer["hits"]]
        found.append([hit for hit in hits if not hit[0].startswith("live ")][:top_k])
    return found


def measure_live(
    index: Path, counts: Sequence[int], spec: SyntheticSpec, queries: int, top_k: int, folder: Path
) -> list[dict[str, Any]]:
    """Serve ``index``, of ``counts[0]`` shards, and reshard it to each of the others in turn."""
    file = folder / "spec.toml"
    file.write_text(SPEC.format(index=index, data=folder / "data"))
    vectors = [vector.tolist() for vector in synthetic_block(spec, 0, queries)]
    steps = []
    with ray_nodes({"a": {}}) as nodes:
        status = _command(nodes, "up", file)
        uuid, url = status["index"]["uuid"], status["routers"][0]["url"]
        before = _answers(url, vectors, top_k)
        for old, new in itertools.pairwise(counts):
            quiet, load = Load(url, vectors), Load(url, vectors)
            with quiet.going_on():
                time.sleep(10)
            begun = time.perf_counter()
            with load.going_on():
                status = _command(nodes, "reshard", new)
                seconds = time.perf_counter() - begun
                time.sleep(2)
            step = {"from": old, "to": new, "s": round(seconds, 1), **load.figures()}
            step["query_p99_ms_before"] = quiet.figures()["query_p99_ms"]
            step["identical"] = _answers(url, vectors, top_k) == before
            steps.append(step)
            print(step, flush=True)
            _until_removed(uuid, folder / "data")
            uuid = status["index"]["uuid"]
        _command(nodes, "down")
    shutil.rmtree(folder / "data")
    return steps


def _until_removed(uuid: str, data: Path) -> None:
    """Until the shards of an index have gone: until then another reshard is refused."""
    while list(data.glob(f"*/{uuid}")):
        time.sleep(1)


def _command(nodes: RayNodes, *arguments: object) -> Any:
    command = [*COMMAND, "cluster", *map(str, arguments), "--ray-address", nodes.address, "--json"]
    done = nodes.drive(command, COMMAND_TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"bitsift cluster {arguments}: {done.stderr}")
    return json.loads(done.stdout)
