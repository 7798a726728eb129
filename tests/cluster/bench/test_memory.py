"""Memory of real processes: what is allocated, shared or mapped appears under its own name."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bitsift.cluster.bench.memory import (
    Memory,
    MemorySampler,
    family_memory,
    memory_of,
    parse_memory,
)
from bitsift.shard_worker.layout import store_name

MIB = 1 << 20


def test_an_array_is_anonymous_memory() -> None:
    before = memory_of(os.getpid())
    # Pages of its own: the heap may have as many to give, that other tests have left.
    pages = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(pages, dtype=np.uint8)
    array[:] = 1
    after = memory_of(os.getpid())
    assert abs(after.anonymous - before.anonymous - array.nbytes) < 8 * MIB
    assert after.total - before.total > 56 * MIB


def test_mapped_files_of_an_index_are_told_apart_from_its_store(tmp_path: Path) -> None:
    shard = tmp_path / "index" / "shard-00007"
    store = store_name(0)
    (shard / store).mkdir(parents=True)
    held = []
    for name, size in (("bits-00000.bits", 8 * MIB), (f"{store}/data.mdb", 24 * MIB)):
        (shard / name).write_bytes(b"x" * size)
        with (shard / name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert mapped[:: mmap.PAGESIZE].count(b"x") == size // mmap.PAGESIZE  # every page is read
        held.append(mapped)
    found = memory_of(os.getpid())
    assert abs(found.bits - 8 * MIB) < MIB
    assert abs(found.store_pages - 24 * MIB) < MIB
    for mapped in held:
        mapped.close()


def test_shared_memory_counts_once_over_all_that_map_it() -> None:
    child = (
        "import mmap, sys, os\n"
        f"m = mmap.mmap(-1, {32 * MIB}); m.write(b'x' * {32 * MIB})\n"
        "touched, done = os.pipe()\n"
        "pid = os.fork()\n"
        f"m[:{32 * MIB}]\n"  # both touch it
        "if pid: os.read(touched, 1); print('up', flush=True); sys.stdin.read(); os.wait()\n"
        "else: os.write(done, b'1'); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    found = family_memory(process.pid)
    process.stdin.close()
    process.wait(60)
    assert found.processes == 2
    assert abs(found.shared - 32 * MIB) < 2 * MIB


def test_swapped_pages_are_memory_too() -> None:
    rollup = b"0-1 ---p 0 00:00 0 [rollup]\nPss_Anon: 10 kB\nPss_Shmem: 3 kB\nSwapPss: 5 kB\n"
    assert parse_memory(rollup, b"") == Memory(anonymous=15 * 1024, shared=3 * 1024, processes=1)


def test_the_peak_of_each_phase_is_kept_though_the_memory_was_given_back() -> None:
    with MemorySampler(interval_s=60) as sampler:
        sampler.phase = "small"
        small = sampler.sample()
        sampler.phase = "large"
        array = np.ones(64 * MIB, dtype=np.uint8)
        sampler.sample()
        del array
        sampler.sample()
    assert sampler.peaks["small"].total == small.total
    assert sampler.peaks["large"].total - small.total > 56 * MIB
