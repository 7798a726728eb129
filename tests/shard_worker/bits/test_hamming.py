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

from bitsift.shard_worker.bits import faiss_scan
from bitsift.shard_worker.bits.hamming import ListScanner, nearest
from tests.shard_worker.kernel_ways import WAYS, going

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, threading
import faiss, numpy as np
from bitsift.shard_worker.bits.hamming import ListScanner, nearest
from bitsift.shard_worker.native import kernels

kernels._LIBRARY = None
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


@pytest.mark.parametrize("way", WAYS)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3_000), st.sampled_from([4, 5, 12, 32, 48, 70, 128]),
    st.integers(1, 400), st.floats(0, 1), st.booleans(),
)  # fmt: skip
def test_of_marked_rows_the_nearest_are_those_of_brute_force(
    way: str, seed: int, rows: int, row_bytes: int, count: int, share: float, clustered: bool
) -> None:
    """Many distances are equal: those of lower positions come first, across pieces as within."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 4, (rows, row_bytes), dtype=np.uint8)
    queries = random.integers(0, 4, (3, row_bytes), dtype=np.uint8)
    marked = random.random(rows) < share
    if clustered:
        marked[: rows // 2] = False
    with pytest.MonkeyPatch.context() as patched, going(way):
        patched.setattr(faiss_scan, "MARKED_BYTES", 200 * row_bytes)
        alive = np.packbits(marked, bitorder="little")
        distances, positions = nearest(bits, queries, count, alive)
    for found in zip(queries, distances, positions, strict=True):
        check(bits, np.flatnonzero(marked), count, *found)


def check(
    bits: np.ndarray, there: np.ndarray, count: int, query: np.ndarray, found: np.ndarray,
    at: np.ndarray,
) -> None:  # fmt: skip
    """Whether ``found`` and ``at`` are the distances and positions of the nearest of ``there``."""
    expected = np.bitwise_count(bits[there] ^ query).sum(axis=1, dtype=np.int64)
    order = np.lexsort((there, expected))[:count]
    assert at[: len(order)].tolist() == there[order].tolist()
    assert found[: len(order)].tolist() == expected[order].tolist()
    assert (at[len(order) :] == -1).all()


@pytest.mark.parametrize("way", WAYS)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3_000),
    st.sampled_from([5, 32, 40, 48, 56, 128, 512]), st.integers(1, 400),
)  # fmt: skip
def test_of_all_rows_the_nearest_are_those_of_brute_force(
    way: str, seed: int, rows: int, row_bytes: int, count: int
) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(0, 256, (rows, row_bytes), dtype=np.uint8)
    bits[random.random(rows) < 0.2] = bits[0]
    queries = np.concatenate([bits[:1], ~bits[:1]])  # the least and the greatest of distances
    with going(way):
        distances, positions = nearest(bits, queries, count)
    for query, found, at in zip(queries, distances, positions, strict=True):
        if way == "faiss" and count < faiss_scan.COUNTED_MIN:  # leaves the order of equals open
            expected = np.bitwise_count(bits ^ query).sum(axis=1, dtype=np.int64)
            assert found.tolist() == np.sort(expected)[:count].tolist()
        else:
            check(bits, np.arange(rows), min(count, rows), query, found, at)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "faiss"])
@given(st.integers(0, 2**32 - 1), st.integers(9, 2_000), st.integers(1, 8), st.integers(1, 300),
       st.floats(0, 1))  # fmt: skip
def test_of_some_lists_the_nearest_are_those_of_brute_force(
    way: str, seed: int, rows: int, nprobe: int, count: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(0, 4, (rows, 12), dtype=np.uint8)
    starts = np.array([0, *np.sort(random.integers(0, rows, 7)), rows], dtype=np.int64)
    lists = np.stack([random.permutation(8)[:nprobe] for _ in range(2)]).astype(np.int64)
    marked = random.random(rows) < share
    with going(way):
        scanner = ListScanner(bits, starts)
        alive = np.packbits(marked, bitorder="little")
        distances, positions = scanner.nearest(bits[:2], lists, count, alive)
    for place in range(2):
        inside = np.concatenate(
            [np.arange(starts[i], starts[i + 1]) for i in np.sort(lists[place])]
        )
        there = inside[marked[inside]]
        check(bits, there, count, bits[place], distances[place], positions[place])


@pytest.mark.parametrize("way", WAYS)
def test_lists_of_faiss_leave_out_what_is_not_marked(way: str) -> None:
    random = np.random.default_rng(0)
    bits = random.integers(0, 256, (4_000, 12), dtype=np.uint8)
    marked = random.random(4_000) < 0.5
    with going(way):
        scanner = ListScanner(bits, np.arange(0, 4_001, 500, dtype=np.int64))
        alive = np.packbits(marked, bitorder="little")
        lists = np.tile(np.arange(8, dtype=np.int64), (3, 1))
        distances, positions = scanner.nearest(bits[:3], lists, 100, alive)
    expected = np.bitwise_count(bits[marked][:, None] ^ bits[:3]).sum(axis=2, dtype=np.int64)
    np.testing.assert_array_equal(distances, np.sort(expected.T)[:, :100])
    assert marked[positions].all()
