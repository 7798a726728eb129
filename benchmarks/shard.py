"""One shard in this process: RAM and disk per row, load rate, search beside raw FAISS.

python benchmarks/shard.py [--rows 1000000] [--dimension 1024]
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import machine
import numpy as np

from shard_worker.actor import resident_bytes
from shard_worker.codes import Calibration, normalize, query_bits
from shard_worker.layout import read_identity
from shard_worker.shard import Shard
from shard_worker.types import Documents, Query, ShardIdentity

UUID = "00000000-0000-0000-0000-000000000001"
BATCH = 8_192


def clustered(random: np.random.Generator, centres: np.ndarray, rows: int) -> np.ndarray:
    """Unit vectors round random centres, in a low intrinsic dimension."""
    points = centres[random.integers(0, len(centres), rows)]
    noise = random.standard_normal((rows, centres.shape[1])).astype(np.float32)
    return normalize(points + 0.6 * noise, centres.shape[1])


def open_and_report(folder: Path) -> None:
    """Open the shard in ``folder`` and print this process's own RAM in bytes."""
    identity = read_identity(folder)
    neutral = np.zeros(identity.width, dtype=np.float32)
    calibration = Calibration(identity.dimension, neutral, neutral + 1)
    shard = Shard(folder, calibration, identity)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    print(resident_bytes())
    shard.close()


def resident_of_opened(folder: Path) -> int:
    """RAM of a fresh process that has the shard open."""
    command = [sys.executable, __file__, "--open", str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=1_024)
    parser.add_argument("--open", type=Path, help="only open this shard and report RAM")
    arguments = parser.parse_args()
    if arguments.open:
        open_and_report(arguments.open)
        return
    rows, dimension = arguments.rows, arguments.dimension
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    centres = random.standard_normal((1_000, dimension)).astype(np.float32)
    calibration = Calibration.from_sample(clustered(random, centres, 4_096), dimension)
    identity = ShardIdentity(UUID, 0, 1, dimension, dimension)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shard"
        Shard.create(folder, identity)
        shard = Shard(folder, calibration, identity)
        loading = 0.0
        for first in range(0, rows, BATCH):
            units = clustered(random, centres, min(BATCH, rows - first))
            started = time.perf_counter()
            codes, _ = calibration.quantize(units)
            ids = [str(i) for i in range(first, first + len(units))]
            blank = [""] * len(ids)
            shard.append(Documents(ids, blank, blank, blank, [-1] * len(ids), codes))
            loading += time.perf_counter() - started
        shard.save_bits()
        env = shard._store._env
        with env.begin() as txn:
            stat = txn.stat(shard._store._codes)
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        bits_file = sum(path.stat().st_size for path in folder.glob("bits-*"))
        shard.close()
        empty = Path(temporary) / "empty"
        Shard.create(empty, identity)
        memory = resident_of_opened(folder) - resident_of_opened(empty)
        started = time.perf_counter()
        shard = Shard(folder, calibration, identity)
        opening = time.perf_counter() - started
        flat = faiss.IndexBinaryFlat(dimension)
        flat.add(shard._index.bits_of(np.arange(rows)))
        ours, raw = [], []
        for vector in clustered(random, centres, 220):
            started = time.perf_counter()
            shard.search([Query(vector)])
            middle = time.perf_counter()
            flat.search(query_bits(vector[None]), 400)
            ours.append(middle - started)
            raw.append(time.perf_counter() - middle)
        shard.close()
    ours_ms, raw_ms = np.median(ours[20:]) * 1e3, np.median(raw[20:]) * 1e3
    machine.write(
        "shard",
        {
            "rows": rows,
            "dimension": dimension,
            "load_rows_s": round(rows / loading),
            "open_s": round(opening, 3),
            "ram_bytes_per_row": round(memory / rows, 2),
            "ram_bar": dimension / 8 + 2,
            "disk_bytes_per_row": round((pages * 4096 + bits_file) / rows, 2),
            "disk_bar": 1.06 * (dimension + dimension / 8),
            "shard_p50_ms": round(ours_ms, 3),
            "faiss_p50_ms": round(raw_ms, 3),
            "shard_over_faiss": round(ours_ms / raw_ms, 3),
        },
    )


if __name__ == "__main__":
    main()
