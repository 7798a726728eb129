"""FAISS stays on the thread that calls it, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
