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

_MODES = (Mode.EXACT, Mode.APPROXIMATE)
NEVER_TRAIN = ShardSettings(train_rows_min=1 << 62)
_OPEN = "import sys, bitsift.cluster.bench.candidates as b; b.print_memory(*sys.argv[1:])"


def open_shard(index: Path, manifest: Manifest, shard: int) -> Shard:
    """A shard that makes no lists while it is measured."""
    folder = shard_folder(index, shard)
    return Shard(folder, manifest.calibration, manifest.identity(shard), NEVER_TRAIN)


def candidates_against_exact(index: Path, vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Recall@40 of the approximate candidates, and how much faster they are found.

    ``vectors`` float32 (n, dimension). One shard after the other, each query in both modes in turn,
    one thread: as a shard's own process does it. Speed-up is of the medians of ``Shard.search``.
    """
    manifest, _ = open_manifest(index)
    units = normalize(vectors, manifest.calibration.dimension)
    faiss.omp_set_num_threads(1)
    shares: list[float] = []
    seconds: dict[Mode, list[float]] = {mode: [] for mode in _MODES}
    for number in range(manifest.shards):
        shard = open_shard(index, manifest, number)
        shares += _compare(shard, units, seconds)
        shard.close()
        del shard  # its bits leave the memory before the next one's come
    exact_ms, approximate_ms = (median(spent) * 1e3 for spent in seconds.values())
    return {
        "recall_candidates": round(float(np.mean(shares)), 4),
        "approx_speedup": round(exact_ms / approximate_ms, 2),
        "shard_exact_p50_ms": round(exact_ms, 3),
        "shard_approximate_p50_ms": round(approximate_ms, 3),
    }


def _compare(
    shard: Shard, units: NDArray[np.float32], seconds: dict[Mode, list[float]]
) -> list[float]:
    """The share of the exact candidates found for each query; adds the times of each mode."""
    search = functools.partial(_search, shard, units)
    shares = [  # also warms up: either mode may be first to read a page
        _share(*(search(mode, turn) for mode in _MODES)) for turn in range(len(units))
    ]
    sides = {mode: functools.partial(search, mode) for mode in _MODES}
    for mode, spent in interleaved(sides, len(units)).items():
        seconds[mode] += spent
    return shares


def _search(shard: Shard, units: NDArray[np.float32], mode: Mode, turn: int) -> Candidates:
    return shard.search(
        [Query(SearchOptions(vector=units[turn], candidates=CANDIDATES_FIXED, mode=mode))]
    )[0]


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
