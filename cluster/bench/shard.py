"""One shard in this process against raw FAISS over the same bits: what the funnel costs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.bench.candidates import candidates_against_exact, memory_per_row, open_shard
from bitsift.cluster.bench.disk import disk_use
from bitsift.cluster.bench.index import raw_bits, write_index
from bitsift.cluster.bench.timing import interleaved, median
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import CANDIDATES_FIXED, POOL_FACTOR, Query

QUERIES = 200
WARM_UP = 20
POOL = CANDIDATES_FIXED * POOL_FACTOR


def raw_index(bits: NDArray[np.uint8]) -> faiss.IndexBinaryFlat:
    """FAISS's own exact index of ``bits`` (n, bytes)."""
    flat = faiss.IndexBinaryFlat(bits.shape[1] * 8)
    flat.add(bits)
    return flat


def measure_shard(folder: Path, rows: int, dim: int) -> dict[str, Any]:
    """``shard_over_faiss`` and the bytes of a row, of one shard of ``rows`` rows."""
    spec = SyntheticSpec(rows, dim)
    index = folder / "one-shard"
    manifest = write_index(index, spec)
    disk = disk_use(index)
    memory = memory_per_row(index)
    shard = open_shard(index, manifest, 0)
    try:
        figures = _beside_faiss(shard, manifest, spec)
    finally:
        shard.close()
    return figures | memory | {"disk_bytes_per_row": round(disk["payload"] / rows, 2)}


def _beside_faiss(shard: Shard, manifest: Manifest, spec: SyntheticSpec) -> dict[str, Any]:
    """One query at a time, one thread, exact, the same k."""
    faiss.omp_set_num_threads(1)
    flat = raw_index(raw_bits(manifest, spec, spec.rows))
    units = manifest.calibration.units(synthetic_queries(spec, QUERIES + WARM_UP))
    bits = manifest.calibration.query_bits(units)

    def ours(candidates: int | None, turn: int) -> None:
        shard.search(
            [Query(SearchOptions(vector=units[turn], candidates=candidates, mode=Mode.EXACT))]
        )

    for turn in range(len(units)):  # the pages that these queries read are there
        ours(None, turn)

    seconds = interleaved(
        {
            "shard": functools.partial(ours, CANDIDATES_FIXED),
            "faiss": lambda turn: flat.search(bits[turn : turn + 1], POOL),
            "adaptive": functools.partial(ours, None),
        },
        QUERIES,
        WARM_UP,
    )
    shard_ms, faiss_ms, adaptive_ms = (median(values) * 1e3 for values in seconds.values())
    return {
        "shard_over_faiss": round(shard_ms / faiss_ms, 3),
        "shard_minus_faiss_ms": round(shard_ms - faiss_ms, 3),
        "shard_p50_ms": round(shard_ms, 3),
        "shard_adaptive_p50_ms": round(adaptive_ms, 3),
        "faiss_p50_ms": round(faiss_ms, 3),
        "scan_bytes_s": round(spec.rows * bits.shape[1] / faiss_ms * 1e3),
    }


def measure_approximate(folder: Path, rows: int, dim: int) -> dict[str, Any]:
    """``recall_candidates`` and ``approx_speedup`` of the same shard, once it has lists."""
    index = folder / "one-shard"
    if not index.exists():
        write_index(index, SyntheticSpec(rows, dim))
    manifest, _ = open_manifest(index)
    shard = open_shard(index, manifest, 0)
    try:
        shard.train()
    finally:
        shard.close()
    queries = synthetic_queries(SyntheticSpec(rows, dim), QUERIES)
    return candidates_against_exact(index, queries)
