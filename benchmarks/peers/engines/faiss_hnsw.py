"""FAISS: a graph over fp32 in RAM, and in a file at the end. It has no fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.engine import TOP_K, Range, sync

BATCH_ROWS = 10_000


SETTINGS: list[dict[str, Any]] = [{"ef": ef} for ef in (16, 32, 64, 128, 256, 512)]


class HnswEngine:
    filters, durable = False, True

    def __init__(self, folder: Path, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._file = folder / "index.faiss"
        self._index: Any = None

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        self._index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = 200
        for first in range(0, len(vectors), BATCH_ROWS):
            self._index.add(np.ascontiguousarray(vectors[first : first + BATCH_ROWS]))
        faiss.write_index(self._index, str(self._file))
        sync(self._file)

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        parameters = faiss.SearchParametersHNSW(efSearch=setting["ef"])
        _, ids = self._index.search(vector[None], TOP_K, params=parameters)
        return [found for found in ids[0].tolist() if found >= 0]


engine = HnswEngine
