"""Bitsift: one shard in this process, called as its actor calls it, on one thread."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.engine import TOP_K, Range
from bitsift.filters.forms import canonical
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.codes import Calibration, normalize, padded
from bitsift.shard_worker.operations import Insert, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, Query, ShardIdentity

BATCH_ROWS, SAMPLE_ROWS = 4_096, 10_000


SETTINGS: list[dict[str, Any]] = [
    {"mode": "exact", "candidates": candidates} for candidates in (20, 40, None, 160)
]


class ShardEngine:
    filters, durable = True, True

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = folder / "shard"
        self._shard: Any = None
        self._dim = 0

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        self._dim = dim = vectors.shape[1]
        chosen = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE_ROWS]
        calibration = Calibration.from_sample(normalize(vectors[np.sort(chosen)], dim), dim)
        identity = ShardIdentity(str(uuid.UUID(int=18)), 0, 1, dim, padded(dim))
        Shard.create(self._folder, identity)
        shard = self._shard = Shard(self._folder, calibration, identity)
        for first in range(0, len(vectors), BATCH_ROWS):
            codes, _ = calibration.quantize(normalize(vectors[first : first + BATCH_ROWS], dim))
            rows, blank = range(first, first + len(codes)), [""] * len(codes)
            said = [f'{{"draw":{draws[row]}}}' for row in rows]
            places = [GIVEN_VECTOR_POSITION] * len(codes)
            insert = Insert([*map(str, rows)], blank, blank, said, places, codes)
            statuses(shard.write([insert]))
            shard.maintain()
        shard.save_bits()

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        text = None
        if passing is not None:
            text = canonical(f"draw >= {passing[0]} and draw < {passing[1]}")
        options = SearchOptions(
            vector=normalize(vector[None], self._dim)[0], top_k=TOP_K, filter=text,
            mode=Mode(setting["mode"]), candidates=setting["candidates"],
            nprobe=setting.get("nprobe"),
        )  # fmt: skip
        (found,) = self._shard.search([Query(options)])
        best = np.lexsort((found.rows, -found.scores))[:TOP_K]
        return [int(row) for row in found.rows[best]]


engine = ShardEngine
