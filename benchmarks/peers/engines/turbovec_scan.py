"""What turbovec's engines have in common: a scan of all codes, calibrated on a sample before.

It keeps no originals, so it cannot score what it finds again: as far as a setting says so, this
module does that, with fp32 vectors that it maps from a file in the folder. It takes a mask of
rows but has no fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from turbovec import TurboQuantIndex

from benchmarks.peers.engine import TOP_K, Range, sync

BATCH_ROWS, SAMPLE_ROWS = 16_384, 1_024


SETTINGS: list[dict[str, Any]] = [{"rescored": count} for count in (0, 20, 40, 80, 160)]


class TurboEngine:
    filters, durable = False, True
    bits: ClassVar[int]

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = folder  # how many threads, RAYON_NUM_THREADS says
        self._index: Any = None
        self._vectors = np.empty((0, 0), dtype=np.float32)

    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        rows, dim = vectors.shape
        self._index = TurboQuantIndex(dim=dim, bit_width=self.bits)
        chosen = np.random.default_rng(0).permutation(rows)[:SAMPLE_ROWS]
        self._index.calibrate(vectors[np.sort(chosen)])
        for first in range(0, rows, BATCH_ROWS):
            self._index.add(np.ascontiguousarray(vectors[first : first + BATCH_ROWS]))
        self._index.prepare()
        self._index.sync(str(self._folder / "index.tv"))
        originals = self._folder / "vectors.npy"
        np.save(originals, vectors)
        sync(originals)
        self._vectors = np.load(originals, mmap_mode="r")

    def search(
        self, vector: NDArray[np.float32], passing: Range, setting: dict[str, Any]
    ) -> list[int]:
        count = setting["rescored"]
        _, (found,) = self._index.search(vector[None], max(TOP_K, count))
        if count:
            found = found[np.argsort(-(self._vectors[found] @ vector))[:TOP_K]]
        ids: list[int] = found.tolist()
        return ids
