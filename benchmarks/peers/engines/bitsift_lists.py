"""Bitsift: the same shard with its bits grouped into lists, of which a search visits some.

A shard groups them by itself from two million rows on; here it is told to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.engines.bitsift_shard import ShardEngine

SETTINGS: list[dict[str, Any]] = [
    {"mode": "approximate", "candidates": candidates, "nprobe": nprobe}
    for nprobe, candidates in ((8, 40), (32, 40), (32, None), (128, None), (128, 160), (512, 160))
]


class ListsEngine(ShardEngine):
    def build(self, vectors: NDArray[np.float32], draws: NDArray[np.int64]) -> None:
        super().build(vectors, draws)
        for shard in self._shards:
            shard.train()


engine = ListsEngine
