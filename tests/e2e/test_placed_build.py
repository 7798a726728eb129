"""An index that is built on the nodes that will have it, through the loss of some of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from bitsift.cluster.bench.index import glosses
from bitsift.cluster.serving.local import open_local, search_local
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block, synthetic_queries
from bitsift.options import Mode, SearchOptions
from tests.commands import COMMAND, bitsift, wait_until
from tests.fleets import ROWS, Cluster, answering, made_cluster, urls
from tests.ray_nodes import RayNodes, ray_nodes
from tests.tiny_model import build_tiny_model

BUILT = """
[index]
name = "made"
[placement]
data = "data/{node}"
replicas = 2
[serve]
port = 0
"""


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with ray_nodes({"a": {}, "b": {}, "c": {}}) as nodes:
        yield nodes


def spec_in(folder: Path, text: str = BUILT) -> Path:
    path = folder / "made.toml"
    path.write_text(text)
    return path


def built(nodes: RayNodes, *arguments: object, check: bool = True) -> Any:
    """What `bitsift index` printed with --json; where it failed, the error."""
    command = [*COMMAND, "index", *arguments, "--ray-address", nodes.address, "--json"]
    done = nodes.drive(command, 240)
    assert not check or done.returncode == 0, done.stderr
    return json.loads(done.stdout if check else done.stderr.splitlines()[-1])


def test_an_index_is_built_into_the_data_folders(tmp_path: Path) -> None:
    with ray_nodes({"a": {}, "b": {}}) as nodes:
        spec = spec_in(tmp_path, BUILT.replace("replicas = 2", "replicas = 1"))
        report = built(nodes, ROWS, "--shards", 2, "--spec", spec)
    assert report["documents"] == ROWS.rows
    files = ("manifest.json", "complete.json", "cluster.json", "rejects.jsonl")
    for node, shard in (("a", "shard-00000"), ("b", "shard-00001")):
        (index,) = (tmp_path / "data" / node).glob("*-*")
        assert [path.name for path in index.glob("shard-*/")] == [shard]
        assert all((index / name).exists() for name in files)
        shutil.copytree(index, tmp_path / "made", dirs_exist_ok=True)
    options = SearchOptions(vector=synthetic_block(ROWS, 77, 1)[0], top_k=1)
    assert search_local(tmp_path / "made", options).hits[0].id == "77"


@pytest.mark.long
def test_what_was_built_is_served_from_the_data_folders_and_not_built_again(
    tmp_path: Path, nodes: RayNodes
) -> None:
    cluster: Cluster = made_cluster(tmp_path, nodes)
    shutil.rmtree(cluster.folder / "index")
    spec, source = spec_in(cluster.folder), [ROWS, "--shards", 3]
    assert not built(nodes, *source, "--spec", spec)["already_complete"]
    assert built(nodes, *source, "--spec", spec)["already_complete"]
    other = built(nodes, ROWS, "--shards", 4, "--spec", spec, check=False)
    assert "shards was 3, now 4" in other["detail"]
    spec.write_text(BUILT.replace("made", "another"))
    other = built(nodes, *source, "--spec", spec, check=False)
    assert "hold the index made, and the spec names another" in other["detail"]

    status = cluster.run("up", spec_in(cluster.folder))
    assert all(len(nodes) == 2 for nodes in answering(status))
    for number in range(len(cluster.queries)):
        cluster.ask(urls(status)["a"], number)
    refused = built(nodes, *source, "--spec", spec, check=False)
    assert "run bitsift cluster down first" in refused["detail"]


@pytest.mark.long
def test_what_was_not_built_to_its_end_is_not_served(tmp_path: Path, nodes: RayNodes) -> None:
    good = json.dumps({"text": "good", "vector": [1.0] * 32})
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{{\n" * 50)
    source = tmp_path / "bad.jsonl", "--vector-field", "vector", "--max-rejects", 1
    stopped = built(nodes, *source, "--spec", spec_in(tmp_path), check=False)["detail"]
    assert "more than 1 records are bad" in stopped
    assert str(tmp_path / "made.rejects.jsonl") in stopped
    cluster = Cluster(tmp_path, nodes, [], {})
    said = cluster.run("up", spec_in(tmp_path), check=False)["detail"]
    assert "the index made is not built completely" in said
    cluster.run("down")


LARGE = SyntheticSpec(400_000, 256)
DEEP = 1_000
"""Hits that are compared with their scores: the codes of all these documents, and of all others,
decide them.
"""
Answers = list[list[tuple[str, float]]]


def queries() -> NDArray[np.float32]:
    return synthetic_queries(LARGE, 10).astype(np.float32)


def answers_of(url: str) -> Answers:
    found = []
    for vector in queries().tolist():
        body = {"vector": vector, "top_k": DEEP, "mode": "exhaustive", "include": ["metadata"]}
        answer = httpx.post(f"{url}/v1/search", json=body, timeout=60, trust_env=False).json()
        assert not answer["partial"], answer["coverage"]
        found.append([(hit["id"], hit["score"]) for hit in answer["hits"]])
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Those of the same documents, built into one folder on one machine."""
    index = tmp_path_factory.mktemp("one") / "index"
    bitsift("index", LARGE, "--shards", 2, "--out", index)
    options = [
        SearchOptions(vector=vector, top_k=DEEP, mode=Mode.EXHAUSTIVE, timeout_ms=60_000)
        for vector in queries().tolist()
    ]
    with open_local(index) as service:

        async def answers() -> Answers:
            found = [await service.search(one) for one in options]
            return [[(hit.id, hit.score) for hit in answer.hits] for answer in found]

        return asyncio.run(answers())


@dataclass(slots=True)
class Building:
    """A build in a process of its own, beside which nodes are lost."""

    folder: Path
    nodes: RayNodes
    source: Sequence[object] = (LARGE, "--shards", 2)

    @property
    def spec(self) -> Path:
        return spec_in(self.folder)

    def start(self) -> subprocess.Popen[str]:
        command = [*COMMAND, "index", *self.source, "--spec", self.spec, "--json"]
        return subprocess.Popen(
            [*map(str, command), "--ray-address", self.nodes.address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | self.nodes.environment,
        )  # fmt: skip

    def started(self, stored_bytes: int) -> subprocess.Popen[str]:
        """One that has stored so much, and has not ended."""
        process = self.start()

        def is_stored() -> bool:
            assert process.poll() is None, process.communicate(timeout=30)
            stores = self.folder.glob("data/*/*/shard-*/store-*/data.mdb")
            return sum(path.stat().st_blocks * 512 for path in stores) >= stored_bytes

        assert wait_until(is_stored, 240)
        return process

    def serve(self) -> str:
        """The address of a cluster that serves what was built."""
        status = self.cluster.run("up", self.spec)
        return next(iter(urls(status).values()))

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.folder, self.nodes, [], {})


def ended(process: subprocess.Popen[str]) -> tuple[int, Any]:
    """Its status, and what it printed: the report, or the error."""
    out, err = process.communicate(timeout=300)
    status = process.returncode
    return status, json.loads(out if status == 0 else err.splitlines()[-1])


def is_at_work(nodes: RayNodes, name: str, kind: str) -> bool:
    return any(kind in process.name() for process in nodes.processes(name))


@pytest.mark.long
def test_a_node_that_reads_and_is_lost_changes_nothing(
    tmp_path: Path, nodes: RayNodes, expected: Answers
) -> None:
    building = Building(tmp_path, nodes)
    process = building.started(LARGE.rows * LARGE.dim // 4)
    assert not list(tmp_path.glob("data/c/*/shard-*"))
    assert wait_until(lambda: is_at_work(nodes, "c", "ray::ReadLoad"))
    nodes.signal("c", signal.SIGKILL)
    status, report = ended(process)
    assert status == 0, report
    assert report["documents"] == LARGE.rows
    assert answers_of(building.serve()) == expected


@pytest.mark.long
@pytest.mark.timeout(900)  # four builds, and a minute in which it waits
def test_a_build_whose_shards_are_away_waits_for_them_and_is_resumed_after_it_gave_up(
    tmp_path: Path, nodes: RayNodes, expected: Answers
) -> None:
    building = Building(tmp_path, nodes)
    process = building.started(LARGE.rows * LARGE.dim // 8)
    nodes.signal("b", signal.SIGKILL)
    nodes.start("b")
    went_on = LARGE.rows * LARGE.dim // 4
    stores = [*tmp_path.glob("data/b/*/shard-*/store-*/data.mdb")]
    assert wait_until(lambda: stores[0].stat().st_blocks * 512 > went_on, 240)
    nodes.signal("b", signal.SIGKILL)
    status, error = ended(process)
    assert status == 1
    assert "node b, which has shard 1, is away" in error["detail"]
    assert "run the same command to resume" in error["detail"]

    status, error = ended(building.start())
    assert status == 1
    assert "node b, which has shard 1, is away" in error["detail"]
    nodes.start("b")
    status, report = ended(building.start())
    assert status == 0, report
    assert report["documents"] == LARGE.rows
    assert report["encoded"] < LARGE.rows
    assert answers_of(building.serve()) == expected


@pytest.mark.long
def test_a_command_that_is_killed_goes_on_at_once_and_a_second_one_waits_for_its_end(
    tmp_path: Path, nodes: RayNodes, expected: Answers
) -> None:
    building = Building(tmp_path, nodes)
    process = building.started(LARGE.rows * LARGE.dim // 4)
    process.send_signal(signal.SIGSTOP)  # on a busy machine it would have ended by then
    status, error = ended(building.start())
    assert status == 1
    assert "another command builds on this Ray cluster" in error["detail"]
    process.kill()
    process.communicate(timeout=30)
    status, report = ended(building.start())
    assert status == 0, report
    assert (report["documents"], report["encoded"] < LARGE.rows) == (LARGE.rows, True)
    assert answers_of(building.serve()) == expected


@pytest.mark.long
def test_an_encoder_that_is_lost_with_its_node_changes_nothing(
    tmp_path: Path, nodes: RayNodes
) -> None:
    model = build_tiny_model(tmp_path / "model", 64)
    texts = glosses(24_000)
    for number in range(12):
        lines = [
            orjson.dumps({"id": f"{number} {place}", "text": text})
            for place, text in enumerate(texts[number::12])
        ]
        (tmp_path / f"{number}.jsonl").write_bytes(b"\n".join(lines))
    sources = sorted(tmp_path.glob("*.jsonl"))
    building = Building(tmp_path, nodes, [*sources, "--model", model, "--shards", 2])
    process = building.started(4_000_000)
    assert wait_until(lambda: is_at_work(nodes, "c", "ray::MapWorker"))
    nodes.signal("c", signal.SIGKILL)
    status, report = ended(process)
    assert status == 0, report
    assert (report["documents"], report["rejects"]) == (len(texts), 0)
    url = building.serve()
    for number in (0, 7, 11):
        for place in (0, 1_000, 1_999):
            stored = httpx.get(f"{url}/v1/documents/{number} {place}", trust_env=False)
            assert stored.json()["text"] == texts[12 * place + number]
