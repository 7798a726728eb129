"""FAISS's exact scan of fp32 in RAM: the base line. It keeps nothing on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.engine import TOP_K, Range

SETTINGS: list[dict[str, Any]] = [{}]


class FlatEngine:
    filters, durable = True, False

    def __init__(self, folder: Path, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._index: Any = None
        self._draws = np.empty(0, dtype=np.int64)

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        self._index, self._draws = faiss.IndexFlatIP(vectors.shape[1]), draws
        for first in range(0, len(vectors), 10_000):
            self._index.add(np.ascontiguousarray(vectors[first : first + 10_000]))

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        parameters = None
        if passing is not None:
            flags = (self._draws >= passing[0]) & (self._draws < passing[1])
            bitmap = np.packbits(flags, bitorder="little")
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
        _, ids = self._index.search(vector[None], TOP_K, params=parameters)
        return [found for found in ids[0].tolist() if found >= 0]


engine = FlatEngine
