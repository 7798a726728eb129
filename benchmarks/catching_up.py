"""What it costs that replicas are equal: to catch up, and to write to three instead of one.

    python -m benchmarks.catching_up [PART …] [--rows 1M] [--dim 64] [--missed 10k] [--rounds 300]

    difference  two copies of a shard, of which one has 1 % of its rows in a newer version: the
                bytes that make them equal (messages as they are packed), over those of the shard
    missed      three replicas on three nodes; the process of one is frozen while documents are
                written through HTTP, then goes on: seconds until the controller and the router say
                that it is in step. A client writes all the time
    writes      single writes through HTTP, to a shard with three replicas (majority) and to one
                with one, in turns (A B A B …)

Without PART all of them. The results go to benchmarks/results/catching_up.json, part by part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import orjson

from bitsift.cluster.bench.clients import connect
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.timing import interleaved, median, percentiles
from bitsift.cluster.fleet.hydration import FolderBlocks
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block
from bitsift.quantities import parse_count
from bitsift.router.shards.convergence import equalize
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.inventory import Entries, ReplicaFacts
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Operation, Outcome, Upsert, statuses
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION
from bitsift.shard_worker.wire.structures import pack_fact
from bitsift.shard_worker.wire.write import pack_writes
from tests.fleets import Cluster, is_whole, urls
from tests.ray_nodes import ray_nodes

RESULT = Path(__file__).with_name("results") / "catching_up.json"
BATCH, WARM_UP = 100, 30
MOVED = Counter[str]()
"""Bytes that would cross between nodes, by what they are."""
T = TypeVar("T")
SPEC = """
[index]
folder = "{index}"
[placement]
data = "data/{{node}}"
replicas = {replicas}
routers = 1
grace_s = 3600
[serve]
host = "127.0.0.1"
port = 0
"""


class CountingLink(LocalLink):
    """Counts the bytes of what would cross between nodes, packed as it would be."""

    async def facts(self) -> ReplicaFacts:
        return await self._counted("facts", super().facts(), pack_fact)

    async def digests(self, bits: int, since: int) -> bytes:
        return await self._counted("digests", super().digests(bits, since), bytes)

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        MOVED["asked"] += len(ranges)
        return await self._counted("entries", super().entries(bits, since, ranges), pack_fact)

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        MOVED["asked"] += len(keys)
        return await self._counted("documents", super().changes(keys), pack_writes)

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        MOVED["documents"] += len(pack_writes(operations))
        return await super().mend(operations, epoch)

    async def _counted(self, what: str, call: Awaitable[T], pack: Callable[[T], bytes]) -> T:
        found = await call
        MOVED[what] += len(pack(found))
        return found


def difference(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Documents cross twice, to whoever compares and from there: both are counted."""
    spec = SyntheticSpec(options.rows, options.dim)
    manifest = write_index(folder / "one", spec, texts=glosses(1_000))
    shutil.copytree(folder / "one", folder / "two")
    listed = FolderBlocks(shard_folder(folder / "one", 0))
    shard_bytes = sum(file.bytes for file in listed.files())
    listed.close()
    changed = max(1, spec.rows // 100)
    with (
        open_shard(folder / "one", manifest, 0) as one,
        open_shard(folder / "two", manifest, 0) as two,
    ):
        rows = np.random.default_rng(1).choice(spec.rows, changed, replace=False)
        vectors = synthetic_block(SyntheticSpec(changed, spec.dim, seed=9), 0, changed)
        codes, _ = manifest.calibration.quantize(manifest.calibration.units(vectors))
        names, blank = [str(row) for row in rows], [""] * changed
        positions = [GIVEN_VECTOR_POSITION] * changed
        for at in range(0, changed, BATCH):
            part = slice(at, at + BATCH)
            columns = names[part], blank[part], names[part], blank[part], positions[part]
            statuses(one.write([Upsert(*columns, codes[part])]))
        replicas = [Replica(0, name, CountingLink(it)) for name, it in (("a", one), ("b", two))]
        MOVED.clear()
        started = time.perf_counter()
        failed = asyncio.run(equalize(replicas, 0))
        seconds = time.perf_counter() - started
        assert not failed, failed
    moved = dict(MOVED)
    total = sum(moved.values())
    return {
        "rows": spec.rows, "dimension": spec.dim, "changed": changed, "shard_bytes": shard_bytes,
        "moved_bytes": total, "of_which": moved, "moved_over_shard": round(total / shard_bytes, 4),
        "seconds": round(seconds, 2),
    }  # fmt: skip


@contextlib.contextmanager
def cluster(folder: Path, index: Path, nodes: str, replicas: int) -> Iterator[tuple[Cluster, str]]:
    """A cluster that serves ``index`` with so many replicas, and the address of its router."""
    folder.mkdir()
    (folder / "spec.toml").write_text(SPEC.format(index=index, replicas=replicas))
    with ray_nodes({name: {} for name in nodes}) as started:
        made = Cluster(folder, started, [], {})
        status = made.run("up", folder / "spec.toml")
        assert is_whole(status), status
        (url,) = urls(status).values()
        yield made, url
        made.run("down")


class Client:
    """Writes documents with random vectors, one request after the other."""

    def __init__(self, url: str, dim: int, name: str, seed: int) -> None:
        self._connection, self._name, self._dim = connect(url), name, dim
        self._random = np.random.default_rng(seed)
        self._number = 0

    def write(self, count: int) -> None:
        vectors = self._random.standard_normal((count, self._dim)).tolist()
        documents = []
        for vector in vectors:
            self._number += 1
            name = f"{self._name}-{self._number}"
            documents.append({"id": name, "text": name, "vector": vector})
        body = orjson.dumps({"documents": documents})
        self._connection.request(
            "POST", "/v1/documents", body, {"Content-Type": "application/json"}
        )
        answer = self._connection.getresponse()
        said = orjson.loads(answer.read())
        assert answer.status == 200, said
        assert said["created"] == count, said


class Trickle:
    """A client that writes a document each 20 ms, until it is ended."""

    def __init__(self, url: str, dim: int) -> None:
        self._client = Client(url, dim, "trickle", 3)
        self._ended = threading.Event()
        self.seconds: list[float] = []
        self.refused: list[str] = []

    def __enter__(self) -> Trickle:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            started = time.perf_counter()
            try:
                self._client.write(1)
                self.seconds.append(time.perf_counter() - started)
            except AssertionError as error:
                self.refused.append(str(error)[:300])


def missed(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Its router and writer are on another node than the replica that is frozen."""
    spec = SyntheticSpec(options.rows, options.dim)
    write_index(folder / "index", spec, texts=glosses(1_000))
    with cluster(folder / "three", folder / "index", "abc", 3) as (made, url):
        routers = set(urls(made.run("status")))
        frozen = next(node for node in "cba" if node not in routers)
        pid = next(it["pid"] for it in facts(url)["shards"][0]["replicas"] if it["node"] == frozen)
        client = Client(url, spec.dim, "missed", 5)
        os.kill(pid, signal.SIGSTOP)
        try:
            until(url, frozen, lambda sync: sync["state"] == "behind")
            for _ in range(options.missed // BATCH):
                client.write(BATCH)
            before = until(url, frozen, lambda sync: (sync["missed"] or 0) >= options.missed)
            with Trickle(url, spec.dim) as trickle:
                os.kill(pid, signal.SIGCONT)
                started = time.perf_counter()
                until(url, frozen, lambda sync: sync["state"] == "catching up")
                noticed = time.perf_counter() - started
                until(url, frozen, lambda sync: sync["state"] == "in step")
                seconds = time.perf_counter() - started
                time.sleep(2.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        replicas = made.run("status")["shards"][0]["replicas"]
    return {
        "rows": spec.rows, "dimension": spec.dim, "missed": before["missed"],
        "seconds": round(seconds, 2), "of_which_noticed_after": round(noticed, 2),
        "writes_meanwhile": percentiles(trickle.seconds)
        | {"longest_ms": round(max(trickle.seconds) * 1e3), "refused": trickle.refused},
        "copied_whole": any(replica["copy"] for replica in replicas),
    }  # fmt: skip


def facts(url: str) -> Any:
    return httpx.get(f"{url}/v1/cluster", timeout=30, trust_env=False).json()


def until(url: str, node: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the router says of the replica on ``node``, when it is so."""
    deadline = time.monotonic() + 300
    while True:
        said: dict[str, Any] = next(it for it in facts(url)["sync"] if it["node"] == node)
        if is_so(said):
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def writes(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both clusters run all the time, and share the cores and the disk."""
    spec = SyntheticSpec(min(options.rows, 100_000), options.dim)
    write_index(folder / "index", spec, texts=glosses(1_000))
    with (
        cluster(folder / "one", folder / "index", "a", 1) as (_, one),
        cluster(folder / "three", folder / "index", "abc", 3) as (_, three),
    ):
        clients = {
            "one_replica": Client(one, spec.dim, "w", 7),
            "three_replicas": Client(three, spec.dim, "w", 7),
        }
        calls = {name: _writing(client) for name, client in clients.items()}
        seconds = interleaved(calls, options.rounds, WARM_UP)
    ratio = median(seconds["three_replicas"]) / median(seconds["one_replica"])
    found = {name: percentiles(values) for name, values in seconds.items()}
    return {"rows": spec.rows, "dimension": spec.dim, **found, "three_over_one": round(ratio, 3)}


def _writing(client: Client) -> Callable[[int], None]:
    return lambda _: client.write(1)


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "difference": difference, "missed": missed, "writes": writes,
}  # fmt: skip
BARS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "difference": lambda found: found["moved_over_shard"] <= 0.1,
    "missed": lambda found: found["seconds"] <= 10 and not found["copied_whole"],
    "writes": lambda found: found["three_over_one"] <= 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--rows", type=parse_count, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--missed", type=parse_count, default=10_000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    results = json.loads(options.result.read_text()) if options.result.exists() else {}
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="bitsift-catching-up-") as scratch:
            before = round(os.getloadavg()[0], 2)
            found = PARTS[name](Path(scratch), options)
        results[name] = {**found, "load_before": before, "bar_met": bool(BARS[name](found))}
        print(name, json.dumps(results[name]), flush=True)
        write_result(options.result, {part: results[part] for part in PARTS if part in results})


if __name__ == "__main__":
    main()
