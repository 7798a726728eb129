"""FAISS stays on the thread that calls it, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.shard_worker.bits import hamming
from bitsift.shard_worker.bits.hamming import nearest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, threading
import faiss, numpy as np
from bitsift.shard_worker.bits.hamming import ListScanner, nearest

bits = np.random.default_rng(0).integers(0, 256, (20_000, 16), dtype=np.uint8)
queries = bits[:64].copy()
assert faiss.omp_get_max_threads() == 8  # the environment reached OpenMP

def threads():
    return len(os.listdir("/proc/self/task"))

def search():
    before = threads()
    for _ in range(3):
        nearest(bits, queries, 10)
        nearest(bits, queries, 100)
        nearest(bits, queries, 100, np.full(2_500, 0x5A, dtype=np.uint8))
        scanner = ListScanner(bits, np.arange(0, 20_001, 1_000, dtype=np.int64))
        scanner.nearest(queries, np.tile(np.arange(4), (64, 1)), 10)
    print(threads() - before, faiss.omp_get_max_threads())

search()
another = threading.Thread(target=search)
another.start()
another.join()
"""


@pytest.mark.parametrize("policy", ["active", "passive"])
def test_each_thread_that_searches_uses_itself_only(policy: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "8", "OMP_WAIT_POLICY": policy}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0 8", "0 8"]  # no thread more, the caller's setting kept


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3_000), st.sampled_from([4, 12, 48]),
    st.integers(1, 400), st.floats(0, 1), st.booleans(),
)  # fmt: skip
def test_of_marked_rows_the_nearest_are_those_of_brute_force(
    seed: int, rows: int, row_bytes: int, count: int, share: float, clustered: bool
) -> None:
    """Many distances are equal: those of lower positions come first, across pieces as within."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 4, (rows, row_bytes), dtype=np.uint8)
    queries = random.integers(0, 4, (3, row_bytes), dtype=np.uint8)
    marked = random.random(rows) < share
    if clustered:
        marked[: rows // 2] = False
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hamming, "MARKED_BYTES", 200 * row_bytes)
        alive = np.packbits(marked, bitorder="little")
        distances, positions = nearest(bits, queries, count, alive)
    there = np.flatnonzero(marked)
    for query, found, at in zip(queries, distances, positions, strict=True):
        expected = np.bitwise_count(bits[there] ^ query).sum(axis=1, dtype=np.int64)
        order = np.lexsort((there, expected))[:count]
        assert at[: len(order)].tolist() == there[order].tolist()
        assert found[: len(order)].tolist() == expected[order].tolist()
        assert (at[len(order) :] == -1).all()
