"""A served index on real actors: what the cluster and HTTP add to the bare scan and encoder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import uvloop

from bitsift.cluster.bench.build import measure_load
from bitsift.cluster.bench.clients import (
    WRK_MISSING,
    connect,
    post,
    require_answers,
    text_bodies,
    throughput,
    vector_bodies,
    wrk_is_installed,
)
from bitsift.cluster.bench.index import glosses, raw_bits, write_index
from bitsift.cluster.bench.shard import POOL, raw_index
from bitsift.cluster.bench.timing import interleaved, median
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.cluster.serving.launch import Serving, serve
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import Mode, SearchOptions
from bitsift.router.model.encoder import Encoder
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.remote import RemoteLink

SHARDS = 2
QUERIES = 200
WARM_UP = 20
CLIENTS = 32
BATCH = 32
ROUNDS = 3
SECONDS = 4
THROUGHPUT_DOCUMENTS = 100_000
THROUGHPUT_TEXTS = 50_000
ENCODER_BATCHES = (8, 32, 128)


@contextlib.contextmanager
def served(index: Path) -> Iterator[Serving]:
    """A served index that answers, from no cache; everything is stopped with the block."""
    serving = serve(index, "127.0.0.1", 0, query_cache=0)
    try:
        serving.wait_ready()
        yield serving
    finally:
        serving.stop()


def measure_cluster(folder: Path, rows: int, dim: int) -> dict[str, Any]:
    """Vector queries at ``rows`` documents in 2 shards, and how fast they were loaded."""
    with ray_cluster(None):
        return measure_load(folder, rows, dim, SHARDS) | _vectors(folder, rows, dim)


def _vectors(folder: Path, rows: int, dim: int) -> dict[str, Any]:
    manifest, _ = open_manifest(folder / "loaded")
    spec = SyntheticSpec(rows, dim)
    bits = raw_bits(manifest, spec, rows)
    with served(folder / "loaded") as serving:
        figures = _overheads(serving, manifest, spec, raw_index(bits[: rows // SHARDS]))
        return figures | _batching(serving, spec, manifest, raw_index(bits))


def _overheads(
    serving: Serving, manifest: Manifest, spec: SyntheticSpec, flat: faiss.IndexBinaryFlat
) -> dict[str, Any]:
    """One query at a time: the raw scan of one shard, the router with its actors, the same by HTTP.

    The router is the same SearchService, here in this process, without the gateway.
    """
    faiss.omp_set_num_threads(1)
    vectors = synthetic_queries(spec, QUERIES + WARM_UP)
    bits = manifest.calibration.query_bits(manifest.calibration.units(vectors))
    bodies = vector_bodies(vectors, mode="exact")
    links = [RemoteLink(number, actor) for number, actor in enumerate(serving.shards)]
    service = SearchService(manifest.describe(), FanOut(links), None)
    require_answers(serving.url, bodies[:WARM_UP])
    connection = connect(serving.url)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as Ray's actors have
        seconds = interleaved(
            {
                "scan": lambda turn: flat.search(bits[turn : turn + 1], POOL),
                "cluster": lambda turn: runner.run(
                    service.search(SearchOptions(vector=vectors[turn], mode=Mode.EXACT))
                ),
                "http": lambda turn: post(connection, bodies[turn]),
            },
            QUERIES,
            WARM_UP,
        )
    connection.close()
    scan_ms, cluster_ms, http_ms = (median(values) * 1e3 for values in seconds.values())
    return {
        "cluster_overhead_ms": round(cluster_ms - scan_ms, 3),
        "http_overhead_ms": round(http_ms - cluster_ms, 3),
        "scan_p50_ms": round(scan_ms, 3),
        "cluster_p50_ms": round(cluster_ms, 3),
        "http_p50_ms": round(http_ms, 3),
    }


def _batching(
    serving: Serving, spec: SyntheticSpec, manifest: Manifest, flat: faiss.IndexBinaryFlat
) -> dict[str, Any]:
    """Queries per second of 32 clients over 1, and what raw FAISS does with all cores."""
    if not wrk_is_installed():
        return {"batch_gain": None, "note": WRK_MISSING}
    vectors = synthetic_queries(spec, QUERIES)
    bits = manifest.calibration.query_bits(manifest.calibration.units(vectors))
    bodies = vector_bodies(vectors, mode="exact")
    rates: dict[str, list[float]] = {"one": [], "many": [], "faiss_one": [], "faiss_many": []}
    failed = 0
    for _ in range(ROUNDS):
        for name, clients in (("one", 1), ("many", CLIENTS)):
            found = throughput(serving.url, bodies, clients, SECONDS)
            rates[name].append(found.per_second)
            failed += found.failed
        for name, batch in (("faiss_one", 1), ("faiss_many", BATCH)):
            rates[name].append(_faiss_rate(flat, bits, batch))
    one, many, faiss_one, faiss_many = (median(values) for values in rates.values())
    return {
        "batch_gain": round(many / one, 3),
        "faiss_batch_gain": round(faiss_many / faiss_one, 3),
        "queries_s_1_client": round(one, 1),
        "queries_s_32_clients": round(many, 1),
        "faiss_queries_s_1": round(faiss_one, 1),
        "faiss_queries_s_batches_of_32": round(faiss_many, 1),
        "vector_requests_failed": failed,
    }


def _faiss_rate(flat: faiss.IndexBinaryFlat, bits: Any, batch: int) -> float:
    """Queries per second of raw FAISS on all cores, for about a second."""
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 1.0:
        flat.search(bits[:batch], POOL)
        done += batch
    return done / (time.perf_counter() - started)


def measure_texts(folder: Path, rows: int, model: str) -> dict[str, Any]:
    """Text queries over HTTP against the encoder alone: one client, then 32."""
    encoder = Encoder.load(model)
    encoder.warm_up()
    texts = glosses(THROUGHPUT_TEXTS)
    made_by = encoder.spec
    large, small = folder / "texts-large", folder / "texts-small"
    spec = SyntheticSpec(rows, encoder.spec.dimension)
    write_index(large, spec, SHARDS, model=made_by, texts=texts)
    few = SyntheticSpec(min(rows, THROUGHPUT_DOCUMENTS), spec.dim)
    write_index(small, few, SHARDS, model=made_by, texts=texts)
    with ray_cluster(None):
        with served(large) as serving:
            figures = _text_latency(serving, encoder, texts)
        with served(small) as serving:
            return figures | _text_throughput(serving, encoder, texts)


def _text_latency(serving: Serving, encoder: Encoder, texts: Sequence[str]) -> dict[str, Any]:
    """Both sides encode texts of the same kind, each its own."""
    asked = texts[: QUERIES + WARM_UP]
    bodies = text_bodies(texts[len(asked) : 2 * len(asked)])
    require_answers(serving.url, bodies[:WARM_UP])
    connection = connect(serving.url)
    seconds = interleaved(
        {
            "encoder": lambda turn: encoder.encode_queries([asked[turn]]),
            "http": lambda turn: post(connection, bodies[turn]),
        },
        QUERIES,
        WARM_UP,
    )
    connection.close()
    encoder_ms, http_ms = (median(values) * 1e3 for values in seconds.values())
    return {
        "text_over_encoder": round(http_ms / encoder_ms, 3),
        "text_http_p50_ms": round(http_ms, 3),
        "encoder_p50_ms": round(encoder_ms, 3),
    }


def _text_throughput(serving: Serving, encoder: Encoder, texts: Sequence[str]) -> dict[str, Any]:
    """The rate with wrk and the encoder's best, in turns; each turn goes on with new texts."""
    if not wrk_is_installed():
        return {"throughput_ratio": None, "note": WRK_MISSING}
    bodies = text_bodies(texts)
    share = len(bodies) // ROUNDS
    rates, failed = [], 0
    best: dict[int, list[float]] = {batch: [] for batch in ENCODER_BATCHES}
    for turn in range(ROUNDS):
        found = throughput(serving.url, bodies[turn * share :][:share], CLIENTS, SECONDS)
        rates.append(found.per_second)
        failed += found.failed
        for batch in ENCODER_BATCHES:
            best[batch].append(_encoder_rate(encoder, texts, batch))
    encoder_rate = max(median(values) for values in best.values())
    return {
        "throughput_ratio": round(median(rates) / encoder_rate, 3),
        "text_queries_s_32_clients": round(median(rates), 1),
        "encoder_best_queries_s": round(encoder_rate, 1),
        "text_requests_failed": failed,
    }


def _encoder_rate(encoder: Encoder, texts: Sequence[str], batch: int) -> float:
    """Texts per second in batches of ``batch``, for about a second."""
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 1.0:
        encoder.encode_queries(texts[done : done + batch])
        done += batch
    return done / (time.perf_counter() - started)
