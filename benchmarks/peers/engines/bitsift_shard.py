"""Bitsift: as many shards in this process as threads, each called as its actor calls it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
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
from bitsift.shard_worker.types import (
    GIVEN_VECTOR_POSITION,
    Candidates,
    Query,
    ShardIdentity,
)

BATCH_ROWS, SAMPLE_ROWS = 4_096, 10_000


SETTINGS: list[dict[str, Any]] = [
    *(
        {"mode": mode, "candidates": candidates}
        for mode in ("exact", "auto")
        for candidates in (20, 40, None, 160, 320, 640)
    ),
    *(
        {"mode": "approximate", "recall": recall, "candidates": candidates}
        for recall in (0.95, 0.98, 0.99, 0.999)
        for candidates in (40, None)
    ),
]


class ShardEngine:
    filters, durable = True, True

    def __init__(self, folder: Path, threads: int) -> None:
        self._folders = [folder / f"shard-{number}" for number in range(threads)]
        self._shards: list[Shard] = []
        self._others = ThreadPoolExecutor(max(1, threads - 1))
        self._dim = 0

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        self._dim = dim = vectors.shape[1]
        chosen = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE_ROWS]
        calibration = Calibration.from_sample(normalize(vectors[np.sort(chosen)], dim), dim)
        shards = len(self._folders)
        for number, folder in enumerate(self._folders):
            identity = ShardIdentity(str(uuid.UUID(int=18)), number, shards, dim, padded(dim))
            Shard.create(folder, identity)
            shard = Shard(folder, calibration, identity)
            own = np.arange(number, len(vectors), shards)
            for first in range(0, len(own), BATCH_ROWS):
                rows = own[first : first + BATCH_ROWS]
                codes, _ = calibration.quantize(normalize(vectors[rows], dim))
                blank = [""] * len(codes)
                said = [f'{{"draw":{draws[row]}}}' for row in rows]
                places = [GIVEN_VECTOR_POSITION] * len(codes)
                insert = Insert([*map(str, rows)], blank, blank, said, places, codes)
                statuses(shard.write([insert]))
                shard.maintain()
            shard.save_bits()
            shard.maintain()
            self._shards.append(shard)

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        text = None
        if passing is not None:
            text = canonical(f"draw >= {passing[0]} and draw < {passing[1]}")
        options = SearchOptions(
            vector=normalize(vector[None], self._dim)[0], top_k=TOP_K, filter=text,
            mode=Mode(setting["mode"]), candidates=setting["candidates"],
            nprobe=setting.get("nprobe"), recall=setting.get("recall"),
        )  # fmt: skip
        query = [Query(options)]
        waiting = [self._others.submit(shard.search, query) for shard in self._shards[1:]]
        found = [self._shards[0].search(query)[0], *(it.result()[0] for it in waiting)]
        return self._best(found)

    def _best(self, found: list[Candidates]) -> list[int]:
        """The numbers of the vectors: row i of shard s is the i-th of those that it got."""
        rows = np.concatenate([it.rows * len(found) + at for at, it in enumerate(found)])
        scores = np.concatenate([it.scores for it in found])
        return [int(row) for row in rows[np.lexsort((rows, -scores))[:TOP_K]]]


engine = ShardEngine
