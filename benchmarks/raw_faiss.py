"""Bare FAISS, for comparison: one IndexBinaryFlat in each of several processes, all at once.

    python benchmarks/raw_faiss.py [--rows 40M] [--dim 1024] [--shards 2]

No texts, no int8 codes, no cluster: random bits, k = 400. What a machine's memory can do; a whole
exact query of `make bench-40m` is held against it. Takes 16 bytes of RAM for each 8 of codes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from bitsift.cluster.bench.machine import write_result
from bitsift.quantities import parse_count

RESULTS = Path(__file__).with_name("results")
QUERIES, WARM_UP, K = 40, 5, 400


def scan(rows: int, dim: int, seed: int, start: Barrier) -> list[float]:
    """Seconds of each query, every one begun when all processes are ready for it."""
    import faiss

    faiss.omp_set_num_threads(1)
    bits = np.random.default_rng(seed).integers(0, 256, (rows, dim // 8), dtype=np.uint8)
    flat = faiss.IndexBinaryFlat(dim)
    flat.add(bits)
    spent = []
    for turn in range(WARM_UP + QUERIES):
        start.wait()
        started = time.perf_counter()
        flat.search(bits[turn : turn + 1], K)
        spent.append(time.perf_counter() - started)
    return spent[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=parse_count, default=40_000_000)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--shards", type=int, default=2)
    asked = parser.parse_args()
    rows = asked.rows // asked.shards
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(asked.shards) as pool:
        start = manager.Barrier(asked.shards)
        jobs = [(rows, asked.dim, seed, start) for seed in range(asked.shards)]
        spent = np.array(pool.starmap(scan, jobs, chunksize=1)) * 1e3
    slowest = spent.max(axis=0)  # a query has its answer when the last shard has
    p50, p99 = (round(float(value), 2) for value in np.percentile(slowest, [50, 99]))
    figures = {"rows": asked.rows, "dimension": asked.dim, "shards": asked.shards}
    print(write_result(RESULTS / "raw_faiss.json", {**figures, "p50_ms": p50, "p99_ms": p99}))


if __name__ == "__main__":
    main()
