"""Shards of a finished index, opened in this process: approximate against exact, and their RAM."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.bench.memory import memory_of
from bitsift.cluster.bench.timing import interleaved, median
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.codes import normalize
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import CANDIDATES_FIXED, Candidates, Query, ShardSettings

WAYS: dict[str, dict[str, Any]] = {
    "exact": {"mode": Mode.EXACT},
    "approximate": {"mode": Mode.APPROXIMATE},
    "auto": {"mode": Mode.AUTO},
    "recall_0.999": {"mode": Mode.APPROXIMATE, "recall": 0.999},
}
"""The ways of searching that are compared, by the options that ask for each."""
NEVER_TRAIN = ShardSettings(train_rows_min=1 << 62)
_OPEN = "import sys, bitsift.cluster.bench.candidates as b; b.print_memory(*sys.argv[1:])"


def open_shard(index: Path, manifest: Manifest, shard: int) -> Shard:
    """A shard that makes no lists while it is measured."""
    folder = shard_folder(index, shard)
    return Shard(folder, manifest.calibration, manifest.identity(shard), NEVER_TRAIN)


def candidates_against_exact(index: Path, vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Recall@40 of the candidates that are not those of an exact scan, and how much faster they are
    found.

    ``vectors`` float32 (n, dimension). One shard after the other, each query in each way in turn,
    one thread: as a shard's own process does it. Speed-up is of the medians of ``Shard.search``.
    """
    manifest, _ = open_manifest(index)
    units = normalize(vectors, manifest.calibration.dimension)
    faiss.omp_set_num_threads(1)
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(manifest.shards):
        shard = open_shard(index, manifest, number)
        _compare(shard, units, shares, seconds)
        shard.close()
        del shard  # its bits leave the memory before the next one's come
    times_ms = {way: median(spent) * 1e3 for way, spent in seconds.items()}
    return {
        "recall_candidates": round(float(np.mean(shares["approximate"])), 4),
        "approx_speedup": round(times_ms["exact"] / times_ms["approximate"], 2),
        **{f"shard_{way}_p50_ms": round(spent, 3) for way, spent in times_ms.items()},
        "recall_by_way": {way: round(float(np.mean(found)), 5) for way, found in shares.items()},
    }


def _compare(
    shard: Shard,
    units: NDArray[np.float32],
    shares: dict[str, list[float]],
    seconds: dict[str, list[float]],
) -> None:
    """Add to each way its share of the exact candidates and its time for each query."""
    search = functools.partial(_search, shard, units)
    for turn in range(len(units)):  # also warms up: either way may be first to read a page
        exact = search("exact", turn)
        for way, found in shares.items():
            found.append(_share(exact, search(way, turn)))
    sides = {way: functools.partial(search, way) for way in WAYS}
    for way, spent in interleaved(sides, len(units)).items():
        seconds[way] += spent


def _search(shard: Shard, units: NDArray[np.float32], way: str, turn: int) -> Candidates:
    options = SearchOptions(vector=units[turn], candidates=CANDIDATES_FIXED, **WAYS[way])
    return shard.search([Query(options)])[0]


def _share(exact: Candidates, found: Candidates) -> float:
    return float(np.isin(exact.rows, found.rows).mean()) if len(exact) else 1.0


def memory_per_row(index: Path) -> dict[str, Any]:
    """RAM of a fresh process with shard 0 open, above one with an empty shard, per row."""
    manifest, report = open_manifest(index)
    with tempfile.TemporaryDirectory() as folder:
        Shard.create(Path(folder), manifest.identity(0))
        empty = memory_of_open(Path(folder), index)
    full = memory_of_open(shard_folder(index, 0), index)
    per_row = (full - empty) / max(1, report.shard_documents[0])
    return {"ram_bytes_per_row": round(per_row, 2)}


def memory_of_open(folder: Path, index: Path) -> int:
    """Bytes of a fresh process that has the shard in ``folder`` open, as ``Memory.total``."""
    command = [sys.executable, "-c", _OPEN, str(folder), str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def print_memory(folder: str, index: str) -> None:
    """What ``memory_of_open`` runs in the fresh process."""
    manifest, _ = open_manifest(Path(index))
    shard = Shard(Path(folder), manifest.calibration, manifest.identity(0), NEVER_TRAIN)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    sys.stdout.write(f"{memory_of(os.getpid()).total}\n")
    shard.close()
