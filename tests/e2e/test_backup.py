"""Copy, restore, check and compact by the real command line, on a cluster that is written to."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from bitsift import Client
from bitsift.cluster.bench.index import write_index
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.serving.local import open_local
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.errors import NotFound
from bitsift.options import SearchOptions
from bitsift.results import Answer
from bitsift.router.service import SearchService
from bitsift.router.shards.placement import Placement
from tests.commands import COMMAND, answering, bitsift, in_process
from tests.threads import ended

SPEC = SyntheticSpec(4_000, 256)
SHARDS = 2


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "index"
    write_index(folder, SPEC, SHARDS, texts=[f"some words {i}" for i in range(500)])
    return folder


@pytest.fixture(scope="module")
def url(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Served; backups may go wherever these tests write."""
    root = ["--backup-root", tmp_path_factory.getbasetemp()]
    with answering([*COMMAND, "serve", index, "--port", "0", *root, "--json"]) as (address, _):
        yield address


class Ledger:
    """Adds documents one by one and notes which were acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self.acknowledged: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Ledger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        ended(self._thread)

    def _run(self) -> None:
        vectors = synthetic_queries(SPEC, 500)
        with Client(self._url) as client:
            while not self._stopping.is_set():
                number = len(self.acknowledged)
                vector = vectors[number % len(vectors)].tolist()
                name = f"live-{number}"
                client.add([{"id": name, "text": f"text of {name}", "vector": vector}])
                self.acknowledged.append(name)


def test_a_backup_of_a_cluster_that_is_written_to_holds_a_committed_prefix(
    index: Path, url: str, tmp_path: Path
) -> None:
    """Fault 17: everything acknowledged before it began, and of the rest a prefix in each shard."""
    with Ledger(url) as ledger:
        for _ in range(20):  # until writes were acknowledged while it ran
            before = len(ledger.acknowledged)
            report = json.loads(in_process("backup", "--url", url, tmp_path / "dest", "--json"))
            if len(ledger.acknowledged) > before + 2:
                break
    acknowledged = ledger.acknowledged
    assert len(acknowledged) > before + 2
    assert report["blocks_new"] > 0
    in_process("restore", tmp_path / "dest", tmp_path / "restored")
    checked = json.loads(in_process("verify", tmp_path / "restored", "--json"))
    assert checked["sound"] is True
    there = [is_there(tmp_path / "restored", name) for name in acknowledged]
    assert all(there[:before])
    for number in range(SHARDS):
        own = [
            held
            for name, held in zip(acknowledged, there, strict=True)
            if Placement(SHARDS).owners(name) == (number,)
        ]
        assert own == sorted(own, reverse=True)


def is_there(index: Path, name: str) -> bool:
    manifest = read_manifest(index)
    with open_shard(index, manifest, Placement(manifest.shards).owners(name)[0]) as shard:
        try:
            return shard.document(name).text == f"text of {name}"
        except NotFound:
            return False


def test_a_restored_index_gives_the_same_answers(url: str, tmp_path: Path) -> None:
    """Asked in this process: the shards and their store are the same, and no server is started."""
    in_process("backup", "--url", url, tmp_path / "dest")
    in_process("restore", tmp_path / "dest", tmp_path / "restored")
    vectors = synthetic_queries(SPEC, 20).tolist()
    with Client(url) as client:
        answers = [client.search(vector=vector) for vector in vectors]
    expected = [[(hit.id, hit.score, hit.text) for hit in answer.hits] for answer in answers]

    async def ask(service: SearchService) -> list[Answer]:
        return [await service.search(SearchOptions(vector=vector)) for vector in vectors]

    with open_local(tmp_path / "restored") as service:
        answers_now = asyncio.run(ask(service))
    assert [
        [(hit.id, hit.score, hit.text) for hit in answer.hits] for answer in answers_now
    ] == expected


def test_a_running_cluster_is_compacted_and_goes_on_answering(url: str) -> None:
    with Client(url) as client:
        client.add(
            [{"id": f"gone-{i}", "text": "x", "vector": [1.0] * SPEC.dim} for i in range(50)]
        )
        client.delete([f"gone-{i}" for i in range(50)])
        vector = synthetic_queries(SPEC, 1)[0].tolist()
        before = client.search(vector=vector).hits
        compacted = json.loads(in_process("compact", "--url", url, "--json"))
        assert compacted["rows_dropped"] >= 50
        assert client.search(vector=vector).hits == before
        states = client.cluster()["shards"]
    assert {state["generation"] for state in states} == {1}


def test_a_running_index_is_refused_by_the_commands_that_need_it_stopped(
    index: Path, url: str, tmp_path: Path
) -> None:
    assert httpx.get(f"{url}/readyz").is_success
    for arguments in (
        ("verify", index), ("backup", index, tmp_path / "b"), ("compact", index),
        ("export", index, tmp_path / "e.parquet"),
    ):  # fmt: skip
        done = bitsift(*arguments, check=False)
        assert done.returncode == 1
        assert "running cluster" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_backup_is_refused_and_the_live_index_stays(url: str, tmp_path: Path) -> None:
    in_process("backup", "--url", url, tmp_path / "dest")
    blocks = [path for path in (tmp_path / "dest" / "blocks").rglob("*") if path.is_file()]
    largest = max(blocks, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    done = bitsift("restore", tmp_path / "dest", tmp_path / "restored", check=False)
    assert done.returncode == 1
    assert largest.name in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]
    with Client(url) as client:
        assert len(client.search(vector=np.ones(SPEC.dim).tolist()).hits) == 10
    shutil.rmtree(tmp_path / "dest")
