"""What a durable write costs, also for concurrent searches.

    python benchmarks/live_writes.py [PART …] [--folder .bitsift/live-writes]

    single     one upsert of a precomputed embedding over a bare synced LMDB commit, in turns
    sustained  upserts of 1,000 vectors a call over HTTP, while 8 clients search
    texts      10,000 texts added over HTTP, while one client searches
    rewrites   the file after 20 rewrites of the whole corpus, compacted by itself
    start      the start of a shard of 5 M x 1,024 rows with a fresh snapshot, nothing of it cached

Without PART all of them; results go to benchmarks/results/live_writes.json, part by part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from bitsift import Client
from bitsift.cluster.bench.clients import ask, text_bodies, vector_bodies
from bitsift.cluster.bench.disk import drop_from_cache
from bitsift.cluster.bench.index import glosses, write_index
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.serving import served
from bitsift.cluster.bench.threads import in_thread
from bitsift.cluster.bench.timing import interleaved, percentiles
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block, synthetic_queries
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.location import DEFAULT_MODEL
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import shard_folder, store_folder
from bitsift.shard_worker.operations import Upsert, statuses
from bitsift.shard_worker.store.lmdb_file import LMDB_ENGINE
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION

RESULT = Path(__file__).with_name("results") / "live_writes.json"
DIM = 1_024


def documents(calibration: Calibration, vectors: np.ndarray, first: int, text: str) -> Upsert:
    names = [str(first + place) for place in range(len(vectors))]
    blank = [""] * len(names)
    codes, _ = calibration.quantize(calibration.units(vectors))
    positions = [GIVEN_VECTOR_POSITION] * len(names)
    texts = [f"{text} {name}" for name in names]
    return Upsert(names, blank, texts, blank, positions, codes)


def single(folder: Path) -> dict[str, Any]:
    """Medians of 500 turns: a new vector for a document that is there, and a bare commit."""
    spec = SyntheticSpec(100_000, DIM)
    manifest = write_index(folder / "single", spec)
    vectors = synthetic_block(spec, 0, 600)
    with (
        open_shard(folder / "single", manifest, 0) as shard,
        lmdb.open(str(folder / "bare"), map_size=1 << 30, lib_version=LMDB_ENGINE) as env,
    ):

        def bare(turn: int) -> None:
            with env.begin(write=True) as txn:
                txn.put(os.urandom(8), os.urandom(DIM + 100))

        def upsert(turn: int) -> None:
            statuses(
                shard.write(
                    [documents(manifest.calibration, vectors[turn : turn + 1], 599 - turn, "x")]
                )
            )

        seconds = interleaved({"commit": bare, "upsert": upsert}, 500, 50)
    found = {name: percentiles(values) for name, values in seconds.items()}
    ratio = found["upsert"]["p50_ms"] / found["commit"]["p50_ms"]
    return {**found, "upsert_over_commit": round(ratio, 2)}


def sustained(folder: Path) -> dict[str, Any]:
    """200,000 vectors in two shards; 8 clients search all the time, without and with the writer."""
    spec = SyntheticSpec(200_000, DIM)
    write_index(folder / "sustained", spec, 2)
    queries = vector_bodies(synthetic_queries(spec, 2_000))
    vectors = synthetic_block(SyntheticSpec(50_000, DIM, seed=9), 0, 50_000)
    with ray_cluster(None), served(folder / "sustained") as serving, Client(serving.url) as client:
        ask(serving.url, queries[:200], clients=8)
        idle = ask(serving.url, queries, clients=8)
        writes = Writes(client, vectors)
        with writes:
            busy = ask(serving.url, queries * 2, clients=8)
    alone, beside = percentiles(idle.seconds), percentiles(busy.seconds)
    return {
        "idle": alone,
        "while_writing": beside,
        "p99_ratio": round(beside["p99_ms"] / alone["p99_ms"], 2),
        "queries_lost": idle.lost + busy.lost,
        "queries_s_idle": round(len(idle.seconds) / idle.wall_s),
        "queries_s_while_writing": round(len(busy.seconds) / busy.wall_s),
        "upserts_s": round(writes.written / writes.seconds),
        "upserts": writes.written,
    }


class Writes:
    """Upserts of 1,000 vectors a call, new ones and then the same ids again, until it is ended."""

    def __init__(self, client: Client, vectors: np.ndarray) -> None:
        self._client = client
        self._vectors = vectors
        self._ending = threading.Event()
        self.written, self.seconds = 0, 0.0

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        started, turn = time.perf_counter(), 0
        while not self._ending.is_set():
            first = turn * 1_000 % len(self._vectors)
            part = enumerate(self._vectors[first : first + 1_000])
            batch = [
                {"id": f"live-{first + place}", "text": f"turn {turn}", "vector": vector}
                for place, vector in part
            ]
            done = self._client.add(batch, batch=1_000)
            assert done.created + done.updated == 1_000, done
            self.written += 1_000
            turn += 1
        self.seconds = time.perf_counter() - started


def texts(folder: Path) -> dict[str, Any]:
    """10,000 glosses are added to an index of 50,000 rows; one client searches, without it and
    during it.
    """
    spec = Encoder.load(DEFAULT_MODEL).spec
    write_index(folder / "texts", SyntheticSpec(50_000, spec.dimension), 2, model=spec)
    every = glosses(30_000)
    added, asked = every[:10_000], text_bodies(every[10_000:])
    with ray_cluster(None), served(folder / "texts") as serving, Client(serving.url) as client:
        client.add([{"id": "first", "text": "the writer loads its model now"}])
        ask(serving.url, asked[:200])
        idle = ask(serving.url, asked[200:1_700])
        done: list[int] = []

        def add() -> None:
            found = client.add({"id": f"new-{n}", "text": text} for n, text in enumerate(added))
            done.append(found.created)

        writer, replies, started = threading.Thread(target=add), [], time.perf_counter()
        writer.start()
        for first in range(1_700, len(asked), 50):
            if not writer.is_alive():
                break
            replies.append(ask(serving.url, asked[first : first + 50]))
        writer.join()
        seconds = time.perf_counter() - started
    assert done == [len(added)], done
    alone = percentiles(idle.seconds)
    beside = percentiles([value for reply in replies for value in reply.seconds])
    return {
        "idle": alone,
        "while_adding": beside,
        "p99_ratio": round(beside["p99_ms"] / alone["p99_ms"], 2),
        "queries_lost": sum(reply.lost for reply in replies),
        "texts_s": round(len(added) / seconds),
    }


def rewrites(folder: Path) -> dict[str, Any]:
    """20,000 documents, all replaced 20 times in calls of 1,000; maintenance runs during the
    writes.
    """
    spec = SyntheticSpec(20_000, DIM)
    manifest = write_index(folder / "rewrites", spec)
    vectors = synthetic_block(spec, 0, spec.rows)
    place = shard_folder(folder / "rewrites", 0)
    once, peak = (store_folder(place) / "data.mdb").stat().st_blocks * 512, 0
    with open_shard(folder / "rewrites", manifest, 0) as shard:
        ending = threading.Event()

        def keep_up() -> None:
            while not ending.wait(0.2):
                shard.maintain()

        with in_thread(keep_up, ending):
            for turn in range(20):
                for first in range(0, spec.rows, 1_000):
                    part = vectors[(first + turn) % spec.rows :][:1_000]
                    part = part if len(part) == 1_000 else vectors[:1_000]
                    statuses(
                        shard.write([documents(manifest.calibration, part, first, f"turn {turn}")])
                    )
                    files = [path for path in place.rglob("data.mdb") if path.exists()]
                    peak = max(peak, sum(path.stat().st_blocks * 512 for path in files))
        shard.maintain()
        generation = shard.status().generation
        after = (store_folder(place) / "data.mdb").stat().st_blocks * 512
    return {
        "bytes_once": once, "bytes_after": after, "after_over_once": round(after / once, 2),
        "peak_over_once": round(peak / once, 2), "compactions": generation,
    }  # fmt: skip


_OPEN = """
import sys, time
from pathlib import Path
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.maintenance.opened import open_shard
index = Path(sys.argv[1])
manifest = read_manifest(index)
started = time.perf_counter()
with open_shard(index, manifest, 0) as shard:
    print(time.perf_counter() - started, shard.status().rows)
"""


def start(folder: Path) -> dict[str, Any]:
    """Three starts in processes of their own, the files dropped from the cache before each."""
    index = folder / "start"
    if not index.exists():
        write_index(index, SyntheticSpec(5_000_000, DIM))
    seconds = []
    for _ in range(3):
        drop_from_cache(index)
        for path in index.rglob("bits-*"):
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, str(index)], capture_output=True, text=True, check=True
        )
        took, rows = done.stdout.split()
        assert int(rows) == 5_000_000
        seconds.append(round(float(took), 2))
    return {"rows": 5_000_000, "seconds": seconds, "start_s": max(seconds)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "single": single, "sustained": sustained, "texts": texts, "rewrites": rewrites, "start": start,
}  # fmt: skip
BARS = {
    "single": lambda found: found["upsert_over_commit"] <= 3,
    "sustained": lambda found: found["upserts_s"] >= 5_000 and found["p99_ratio"] <= 2,
    "texts": lambda found: found["p99_ratio"] <= 2,
    "rewrites": lambda found: found["after_over_once"] <= 2.5,
    "start": lambda found: found["start_s"] <= 10,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--folder", type=Path, default=Path(".bitsift/live-writes"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results.pop("machine", None)
    for name in asked.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
            found = PARTS[name](Path(scratch))
        results[name] = {**found, "bar_met": bool(BARS[name](found))}
        print(name, json.dumps(results[name]), flush=True)
        write_result(RESULT, results)


if __name__ == "__main__":
    main()
