"""USearch: a graph over vectors in the type that it chooses for the processor (bf16 where that has
instructions for it). Its Python interface has no filter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks.peers.engine import TOP_K, Range, sync

BATCH_ROWS = 10_000


SETTINGS: list[dict[str, Any]] = [{"expansion": it} for it in (16, 32, 64, 128, 256, 512)]


class UsearchEngine:
    filters, durable = False, True

    def __init__(self, folder: Path, threads: int) -> None:
        self._file, self._threads = folder / "index.usearch", threads
        self._index: Any = None

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        self._index = Index(ndim=vectors.shape[1], metric="cos", connectivity=16, expansion_add=200)
        for first in range(0, len(vectors), BATCH_ROWS):
            part = np.ascontiguousarray(vectors[first : first + BATCH_ROWS])
            keys = np.arange(first, first + len(part), dtype=np.uint64)
            self._index.add(keys, part, threads=self._threads)
        self._index.save(self._file)
        sync(self._file)

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        self._index.expansion_search = setting["expansion"]
        keys: list[int] = self._index.search(vector, TOP_K, threads=self._threads).keys.tolist()
        return keys


engine = UsearchEngine
